"""`python -m benchmarks accelerator` on small models: it goes on where it stopped."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest
from paths import ROOT

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(str(ROOT))
    from benchmarks import accelerator
    from benchmarks.accelerator_models import MODELS
    from benchmarks.accelerator_records import load

DIT, FLUX = "DiT-XL/2, 256 px", "FLUX.1-dev, 1024 px, 28 steps"


def measure(name: str, method: str, path: Path) -> None:
    only = f"{name}: {method}"
    accelerator.run_model(name, path, "cpu", time.time() + 60, only=only, tiny=True)


@pytest.mark.parametrize("name", [DIT, FLUX])
def test_full_and_cached_steps_are_told_apart(name: str, tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    measure(name, "uncached", path)
    measure(name, "rfc, stack, static", path)
    uncached, *ours = load(path).values()
    assert len(uncached.full) == uncached.steps == 10
    assert not uncached.cached
    assert [piece.error for piece in ours] == ["", ""]  # the second is CUDA graphs'
    for piece in ours:
        assert (len(piece.full), len(piece.cached)) == (4, 6)
        assert piece.share(uncached) > 0


def test_it_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself: a process for the model, files, and what to run next."""

    def run(minutes: float) -> str:
        args = Namespace(quick=True, tiny=False, device="cpu", minutes=minutes)
        args.only = f"{DIT}: uncached"
        accelerator.run(args, tmp_path)
        return capsys.readouterr().out

    assert "next: python -m benchmarks accelerator --device cpu" in run(0)
    assert "everything is measured" in run(5)
    path = tmp_path / "accelerator_tiny.json"
    (piece,) = json.loads(path.read_text())["pieces"]
    assert piece["model"] == DIT
    assert path.with_suffix(".md").exists()
    before = path.stat().st_mtime_ns
    run(5)
    assert path.stat().st_mtime_ns == before


@pytest.mark.nightly
@pytest.mark.parametrize("name", MODELS)
def test_every_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    measure(name, "uncached", path)
    measure(name, "rfc, stack, dynamic", path)
    assert [piece.error for piece in load(path).values()] == ["", "", ""]
