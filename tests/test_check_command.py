"""`rfc-compile check`: real models drawn, judged and reported; the bad input too."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfc_compile import cli

SMALL = ("--target", "check_targets:small")
LOOSE = ("--min-psnr", "10", "--max-graph-breaks", "0", "--max-recompiles", "0")


@pytest.fixture
def check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs the command; returns the exit code and all that it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        try:
            code = cli.main(["check", *map(str, arguments)])
        except SystemExit as error:
            assert isinstance(error.code, int)
            code = error.code
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
    with pytest.warns(UserWarning, match="runs uncached"):
        code, text = check(*arguments)
    assert code == 1
    missed = {
        limit["name"]: limit["reason"]
        for limit in read(tmp_path)["limits"]
        if not limit["passed"]
    }
    assert set(missed) == {"cached", "min_psnr"}
    assert "nothing was cached: this forward runs uncached" in missed["cached"]
    assert missed["min_psnr"] == missed["cached"]
    with pytest.warns(UserWarning, match="runs uncached"):
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


def write_tuned(
    folder: Path, options: dict[str, Any], measured: dict[str, Any] | None, **known: Any
) -> Path:
    """A file as `rfc-compile tune` writes it."""
    fingerprint = {"model": {}, "sampler": None, "steps": None, **known}
    record = {
        "schema": 1,
        "options": options,
        "measured": measured,
        "fingerprint": {**fingerprint, "torch": None, "rfc_compile": None},
    }
    file = folder / "rfc.json"
    file.write_text(json.dumps(record))
    return file
