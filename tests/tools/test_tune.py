"""Tuning as users do it: the function, the command, its files and its bad input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import tuning_factory
from denoising import full_calls
from paths import SUPPORT
from torch import Tensor, nn
from tuning_factory import FIXED, SPEC, STEPS

import rfc_compile
from rfc_compile import GoalError, OptionError, TargetError, Tuned
from rfc_compile.tools.cli import main

SMALL: dict[str, Any] = {"options": FIXED, "seeds": 1, "inner": "eager"}
OPTIONS = [word for n, x in FIXED.items() for word in ("--options", f"{n}={x}")]
ARGUMENTS = ("tune", SPEC, "--seeds", "1", "--inner", "eager", *OPTIONS)


def tune(**others: Any) -> Tuned:
    """Of the small model, with only schedules to search."""
    return rfc_compile.tune(SPEC, **SMALL, **others)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune") / "new" / "folder"


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Tuned:
    return tune(output=folder)


def test_options_are_found_and_measured(tuned: Tuned, folder: Path) -> None:
    assert Tuned.read(folder / "rfc.json") == tuned
    assert rfc_compile.load(folder / "rfc.json") == tuned.options
    assert tuned.options["granularity"] == "stack"
    found = tuned.measured
    assert found is not None
    assert 3 <= found.nfc < STEPS
    assert found.images == 4
    assert found.speedup is not None
    assert found.speedup > 0  # how large it is belongs in a benchmark
    assert tuned.fingerprint.steps == STEPS
    assert tuned.fingerprint.sampler is None
    assert tuned.fingerprint.model["class"] == "DiTTransformer2DModel"


def test_tuned_options_give_what_was_measured(tuned: Tuned) -> None:
    """On the seeds of the finals, 1 to 4."""
    options = {**tuned.options, "inner": "eager"}
    model, _ = tuning_factory.make()
    model = torch.compile(model, backend="rfc", options=options)
    for seed in (1, 2, 3, 4):
        rfc_compile.reset(model)
        tuning_factory.sample(model, seed)
    assert tuned.measured is not None
    assert full_calls(model) / 4 == tuned.measured.nfc  # without guidance


def test_the_report_holds_everything_in_one_file(tuned: Tuned, folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["pareto.png", "report.html", "rfc.json", "study.jsonl"]
    page = (folder / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    for heading in (
        "Finals",
        "Steps of the best",
        "Schedules",
        "Regions",
        "Full steps",
    ):
        assert re.search(rf"<h2>{heading}", page)
    for kind in ("even", "climbed"):
        assert f"<th>{kind}</th>" in page or f"<td>{kind}:" in page
    assert "region_000" in page


def test_a_study_goes_on_without_drawing_again(tuned: Tuned, folder: Path) -> None:
    before = (folder / "study.jsonl").read_text()
    again = tune(output=folder, resume=True)
    assert again == tuned
    assert (folder / "study.jsonl").read_text() == before


def test_another_goal_uses_the_same_study(tuned: Tuned, folder: Path) -> None:
    before = (folder / "study.jsonl").read_text().splitlines()
    found = tune(output=folder, resume=True, target_nfc=7)
    assert found.measured is not None
    assert found.measured.nfc <= 7
    after = (folder / "study.jsonl").read_text().splitlines()
    assert after[: len(before)] == before


def test_another_seed_is_another_study(tuned: Tuned, folder: Path) -> None:
    with pytest.raises(OptionError, match="seed was 0 and is 5"):
        tune(output=folder, resume=True, seed=5)


def test_an_unreachable_goal_says_what_the_best_is(tmp_path: Path) -> None:
    with pytest.raises(GoalError, match=r"misses speed-up .* < 50") as caught:
        tune(output=tmp_path, target_speedup=50, time_limit=2)
    best = caught.value.best.measured
    assert best is not None
    assert best.nfc <= 3  # of the few that the time was enough for
    assert best.speedup is not None
    assert 0 < best.speedup < 50
    assert not (tmp_path / "rfc.json").exists()
    assert "Nothing meets the limits" in (tmp_path / "report.html").read_text()


def test_the_command_resumes_and_prints(
    tuned: Tuned,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main.main([*ARGUMENTS, "--output", str(folder), "--resume"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"setting.*NFC.*speed-up.*PSNR mean.*SSIM", output)
    assert "0 runs tried" in output
    assert f"written to {folder}/rfc.json" in output
    code = main.main(
        [*ARGUMENTS, "--output", str(folder), "--resume", "--min-psnr", "200"]
    )
    assert code == 1
    assert "Nothing meets the limits. The best is " in capsys.readouterr().out


def heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_a_study_that_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "study.jsonl"
    command = [sys.executable, "-m", "rfc_compile", *ARGUMENTS]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SUPPORT,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if study.exists() and study.read_text().count("\n") > 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted; `--resume" in output
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["study.jsonl"]
    header, *lines = map(json.loads, study.read_text().splitlines())
    assert header["study"]["seed"] == 0
    assert len(lines) >= 2
    assert all(line.keys() == {"key", "value"} for line in lines)


def noise(seed: int) -> Tensor:
    return torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))


def test_a_sampler_that_never_calls_the_model_is_refused(tmp_path: Path) -> None:
    pair = nn.Linear(4, 4), lambda model, seed: noise(seed)
    with pytest.raises(TargetError, match="never calls the model"):
        rfc_compile.tune(pair, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_regions_is_refused(tmp_path: Path) -> None:
    pair = nn.Linear(4, 4), lambda model, seed: model(noise(seed)) * 3
    with (
        pytest.warns(rfc_compile.UncachedWarning),
        pytest.raises(
            TargetError, match="nothing can be cached: this forward runs unc"
        ),
    ):
        rfc_compile.tune(pair, inner="eager")


FACTORY = """
import torch
def make():
    model = torch.nn.Linear(4, 4)
    return model, lambda model, seed: model(torch.full((1, 4), float("nan")))
"""
BAD = {
    "nan": (["bad_factory:make"], "NaN or Inf"),
    "speed-up": (["--target-speedup", "0.5"], "--target-speedup: '0.5'"),
    "similarity": (["--min-ssim", "2"], "min_ssim=2.0"),
    "both": (["--target-speedup", "2", "--target-nfc", "9"], "one of the two"),
    "time": (["--time-limit", "0"], "time_limit=0"),
    "option": (["--options", "treshold=1"], "did you mean 'threshold'"),
    "searched": (["--options", "threshold=1"], "threshold is searched"),
    "wrong": (["--options", "granularity=1"], "granularity=1"),
    "schedule": (["--options", "schedule=rcs"], "schedule is searched"),
    "target": (["nowhere"], "'nowhere' is no target"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    try:
        code: Any = main.main(["tune", *arguments])
    except SystemExit as exit_info:
        code = exit_info.code
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "error: " in line]
    assert message in line
    assert not (tmp_path / "tune" / "rfc.json").exists()
    assert not (tmp_path / "tune" / "report.html").exists()


@pytest.mark.parametrize("name", ["rfc.json", "report.html", "study.jsonl"])
def test_a_file_that_cannot_be_written_fails_first(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OptionError, match=f"--output: .*{name}"):
        tune(output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, rfc_compile; rfc_compile.tune\n"
        "extras = {'diffusers', 'matplotlib', 'jinja2', 'rich', 'torchmetrics'}\n"
        "print(sorted(extras & set(sys.modules) - {'jinja2'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stdout == "[]\n", result.stderr
