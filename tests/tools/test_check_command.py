"""`rfc-compile check`: real models drawn, judged and reported; the bad input too."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from check_outcomes import MEASURED

from rfc_compile.config.fingerprint import Fingerprint
from rfc_compile.config.tuned_file import Tuned
from rfc_compile.tools.cli import main

SMALL = ("--target", "check_targets:small", "--seeds", "1")
LOOSE = ("--min-psnr", "10", "--max-graph-breaks", "0", "--max-recompiles", "0")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; returns the exit code and all that it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        code = main.main(["check", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def reports(folder: Path) -> list[str | Path]:
    names = {"json": "check.json", "junit": "check.xml", "markdown": "check.md"}
    return [x for name, file in names.items() for x in (f"--{name}", folder / file)]


def read(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "check.json").read_text())
    return data


Check = Callable[..., tuple[int, str]]


def test_limits_that_hold_pass_and_every_report_says_so(
    check: Check, tmp_path: Path
) -> None:
    code, text = check(*SMALL, *LOOSE, *reports(tmp_path))
    assert code == 0, text
    assert "check_targets:small: passed" in text
    data = read(tmp_path)
    assert data["passed"] is True
    names = [limit["name"] for limit in data["limits"]]
    assert names == [
        "cached",
        "finite",
        "min_psnr",
        "max_graph_breaks",
        "max_recompiles",
    ]
    assert 3 <= data["measured"]["nfc"] < data["measured"]["steps"] == 14
    assert data["measured"]["speedup"] is None
    suite = ET.parse(tmp_path / "check.xml").getroot()[0]
    assert [case.attrib["name"] for case in suite.iter("testcase")] == names
    assert suite.attrib["failures"] == "0"
    assert ":x:" not in (tmp_path / "check.md").read_text()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_missed_limit_is_code_1_with_its_numbers_in_every_report(
    check: Check, tmp_path: Path
) -> None:
    code, text = check(*SMALL, *LOOSE, "--max-nfc", "2", *reports(tmp_path))
    assert code == 1
    data = read(tmp_path)
    assert data["passed"] is False
    (missed,) = (limit for limit in data["limits"] if not limit["passed"])
    assert (missed["name"], missed["bound"]) == ("max_nfc", 2)
    assert missed["measured"] == data["measured"]["nfc"]
    suite = ET.parse(tmp_path / "check.xml").getroot()[0]
    (failure,) = suite.iter("failure")
    line = f"full steps (NFC): {missed['reason']}"
    assert failure.attrib["message"] == line
    assert f"missed: {line}" in text
    assert ":x: missed" in (tmp_path / "check.md").read_text()


def test_a_model_that_is_not_cached_fails_unless_allowed(
    check: Check, tmp_path: Path
) -> None:
    limits = ("--min-psnr", "30", "--max-graph-breaks", "9", "--max-recompiles", "9")
    arguments = ("--target", "check_targets:refused", *limits, *reports(tmp_path))
    code, text = check(*arguments)
    assert code == 1
    assert "rfc-compile: warning: one graph of the forward runs uncached" in text
    missed = {
        limit["name"]: limit["reason"]
        for limit in read(tmp_path)["limits"]
        if not limit["passed"]
    }
    assert set(missed) == {"cached", "min_psnr"}
    assert "nothing was cached: one graph of the forward runs" in missed["cached"]
    assert missed["min_psnr"] == missed["cached"]
    code, text = check(*arguments, "--allow-uncached")
    assert code == 0, text
    assert read(tmp_path)["measured"]["nfc"] == 14


def test_images_that_are_not_finite_fail(check: Check, tmp_path: Path) -> None:
    target = ("--target", "check_targets:finite_uncached")
    code, text = check(*target, "--min-psnr", "10", *reports(tmp_path))
    assert code == 1
    assert "2 of 2 batches hold NaN or Inf" in text


def test_options_that_cache_nothing_fail(check: Check, tmp_path: Path) -> None:
    """Full steps alone draw perfect images, and are no pass."""
    file = write_tuned(tmp_path, {"warmup": 99}, None)
    code, text = check(file, *SMALL, "--min-psnr", "10")
    assert code == 1
    assert "nothing was cached: every step was computed in full" in text


EASY = replace(MEASURED, psnr=10.0, psnr_min=119.0, ssim=0.1, nfc=13, speedup=99.0)
HARD = replace(EASY, nfc=2)


def write_tuned(
    folder: Path, options: dict[str, Any], measured: Any, **known: Any
) -> Path:
    """A file as `rfc-compile tune` writes it."""
    fingerprint = Fingerprint(**{"model": {}, **known})
    file = folder / "rfc.json"
    Tuned(options, measured, fingerprint).save(file)
    return file


def test_a_tuned_file_is_held_to_its_own_numbers(check: Check, tmp_path: Path) -> None:
    code, text = check(write_tuned(tmp_path, {}, EASY), *SMALL)
    assert code == 0, text
    assert "no limit was given: those are the numbers in rfc.json" in text
    file = write_tuned(tmp_path, {}, HARD)
    code, text = check(file, *SMALL, *reports(tmp_path))
    assert code == 1
    missed = [x["name"] for x in read(tmp_path)["limits"] if not x["passed"]]
    assert missed == ["baseline_max_nfc"]  # times depend on the machine


def test_a_baseline_is_an_earlier_report_that_passed(
    check: Check, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code, _ = check(*SMALL, *LOOSE, *reports(first))
    assert code == 0
    baseline = ("--baseline", first / "check.json", "--tolerance", "0%")
    code, text = check(*SMALL, *baseline, *reports(second))
    assert code == 0, text
    names = {limit["name"] for limit in read(second)["limits"]}
    assert {"baseline_min_psnr", "baseline_max_memory"} <= names
    assert "baseline_min_speedup" not in names
    worse = write_tuned(tmp_path, {"schedule": "interval", "interval": 7}, None)
    code, text = check(worse, *SMALL, *baseline, *reports(second))
    assert code == 1, text
    assert re.search(r"missed: PSNR, mean: .* measured, at least .*check\.json", text)
    code, text = check(*SMALL, "--baseline", second / "check.json")
    assert code == 2
    assert f"{second / 'check.json'}: $.passed is not true" in text


def test_another_sampler_is_noted_or_strictly_refused(
    check: Check, tmp_path: Path
) -> None:
    file = write_tuned(tmp_path, {}, HARD, steps=20)
    code, text = check(file, *SMALL, *LOOSE)
    assert code == 0, text
    assert "note: not as it was tuned: steps is 14, tuned with 20" in text
    code, text = check(file, *SMALL, *LOOSE, "--strict")
    assert code == 1
    assert "missed: model and sampler: steps is 14, tuned with 20" in text
    code, text = check(write_tuned(tmp_path, {}, EASY, steps=14), *SMALL, "--strict")
    assert code == 0, text
    code, text = check(*SMALL, *LOOSE, "--strict")
    assert code == 2
    assert "strict needs a tuned file or a baseline" in text


def test_a_speed_limit_has_both_models_timed(check: Check, tmp_path: Path) -> None:
    """With the inner backend of the options; inductor takes too long here."""
    file = write_tuned(tmp_path, {"inner": "eager"}, None)
    limits = ("--min-speedup", "1000", "--max-recompiles", "0")
    code, text = check(file, *SMALL, *limits, *reports(tmp_path))
    assert code == 1
    assert re.search(r"missed: speed-up: \d\.\d\dx measured, at least 1000", text)
    assert [x["name"] for x in read(tmp_path)["limits"] if not x["passed"]] == [
        "min_speedup"
    ]
    measured = read(tmp_path)["measured"]
    assert measured["seconds"] > 0
    assert measured["uncached_seconds"] > 0
