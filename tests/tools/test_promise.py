"""`python -m benchmarks promise`: the lines that it fits, and who is judged by them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from rfc_compile.schedules import promise as constants
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(ROOT)
    from benchmarks import promise
    from benchmarks.promise import Run


def made(model: str, tolerance: float, psnr: float) -> Run:
    return Run(model, "ddim", 50, 1.0, 0, tolerance, None, psnr, 12, tolerance / 2)


def test_the_line_is_found_again() -> None:
    rng = np.random.default_rng(0)
    xs = 10 ** rng.uniform(-3, -1, 2000)
    runs = [made("a", x, 20 - 10 * np.log10(x) + rng.normal()) for x in xs]
    line = promise.fitted(runs, "tolerance")
    assert line.offset == pytest.approx(20, abs=0.3)
    assert line.slope == pytest.approx(10, abs=0.2)
    assert (line.above(runs) < -1.28).mean() == pytest.approx(0.1, abs=0.02)


def test_a_model_is_judged_by_the_line_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The margin is what the worst of them needs."""
    runs = [
        made(name, x, shift - 10 * np.log10(x))
        for name, shift in (("a", 20.0), ("b", 20.0), ("worse", 17.0))
        for x in (0.004, 0.01, 0.02, 0.04)
    ]
    file = tmp_path / "promise.jsonl"
    file.write_text("\n".join(json.dumps(asdict(run)) for run in runs))
    monkeypatch.setattr(promise, "FILE", file)
    assert promise.margin(runs, "tolerance") == pytest.approx(3.0)
    rows = promise.table("tolerance")
    assert rows[-1].startswith("| worse | 4 |")
    assert "| -3.0 +- 0.0 dB |" in rows[-1]


def test_every_run_is_planned_once() -> None:
    runs = [*promise.planned(EMOJI_FLUX)]
    assert len({run.key for run in runs}) == len(runs) > 300
    assert all((run.tolerance is None) != (run.target_nfc is None) for run in runs)


def test_the_constants_are_those_of_the_measurement() -> None:
    """What the package ships is what the file in results says."""
    for kind, *shipped in (
        ("tolerance", constants.OFFSET, constants.SLOPE),
        ("debt", constants.DEBT_OFFSET, constants.DEBT_SLOPE),
    ):
        line = promise.fitted(promise.known_runs(kind), kind)
        assert [line.offset, line.slope] == pytest.approx(shipped, abs=0.051)
    margin = promise.margin(promise.known_runs("tolerance"), "tolerance")
    assert margin == pytest.approx(constants.MARGIN, abs=0.051)
