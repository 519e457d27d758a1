"""`rfc-compile check` with what it cannot use: one clear line, nothing written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from check_outcomes import GOOD, MISSED

from rfc_compile.config.tuned_file import Tuned
from rfc_compile.tools.checking.reports import record
from rfc_compile.tools.cli import main

SMALL = ("--target", "check_targets:small")


def refused(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str], folder: Path
) -> str:
    """The message of a check that ends with code 2, and leaves no report behind."""
    before = sorted(folder.rglob("*"))
    written = ["--json", str(folder / "report.json")]
    try:
        code: object = main.main(["check", *arguments, *written])
    except SystemExit as error:
        code = error.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert sorted(folder.rglob("*")) == before
    (line,) = (line for line in output.err.splitlines() if "error: " in line)
    return line


TARGETS = {
    "never_calls": ["the sampler never calls the model"],
    "not_repeatable": ["two draws of seed 0 differ without caching"],
    "not_finite": ["gives NaN or Inf without caching"],
    "no_tensor": ["must return a tensor", "list"],
    "no_pair": ["must be a pair (model, sample)"],
    "nothing": ["AttributeError", "nothing"],
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_cannot_be_measured_is_named(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = f"check_targets:{name}"
    line = refused(["--target", target, "--min-psnr", "30"], capsys, tmp_path)
    assert all(words in line for words in (target, *TARGETS[name]))


ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {
    "psnr": (["--min-psnr", "high"], ["--min-psnr", "'high'", "a number >= 0"]),
    "memory": (["--max-memory", "2 GO"], ["--max-memory", "'2 GO'", "GiB"]),
    "breaks": (["--max-graph-breaks", "0.5"], ["--max-graph-breaks", "whole"]),
    "tolerance": (["--tolerance", "100%"], ["--tolerance", "'100%'", "'5%'"]),
    "no baseline": (["--tolerance", "5%"], ["--tolerance", "--baseline"]),
    "no file": (["--baseline", "none.json"], ["none.json", "cannot be read"]),
    "no config": (["none.json"], ["none.json", "cannot be read"]),
    "no target": (["--target", "none"], ["'none' is no target"]),
    "sampler": (["--sampler", "plms"], ["sampler='plms'", "ddim"]),
    "no github": (["--github-summary"], ["--github-summary", "GITHUB_STEP_SUMMARY"]),
    "report": (["--junit", "/dev/null/x.xml"], ["--junit", "/dev/null"]),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_bad_argument_is_named(
    case: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    arguments, words = ARGUMENTS[case]
    line = refused(arguments, capsys, tmp_path)
    assert all(word in line for word in words), line


def changed(**changes: Any) -> str:
    """A report of a check that passed, with some fields changed."""
    return json.dumps({**json.loads(record(GOOD)), **changes})


def lacking(name: str) -> str:
    data = json.loads(record(GOOD))
    del data[name]
    return json.dumps(data)


NAN = json.loads(record(GOOD))["measured"] | {"psnr": float("nan")}
TEXT = json.loads(record(GOOD))["measured"] | {"nfc": "14"}
BASELINES = {
    "empty": ("", "is not JSON"),
    "cut": (record(GOOD)[:99], "is not JSON"),
    "list": ("[]", "must be an object"),
    "future": (changed(schema=2), "$.schema is 2"),
    "no schema": (lacking("schema"), "$.schema"),
    "no numbers": (lacking("measured"), "$.measured is missing"),
    "null": (changed(measured=None), "$.measured is null"),
    "nan": (changed(measured=NAN), "NaN"),
    "text": (changed(measured=TEXT), "$.measured.nfc is '14'"),
    "missed": (record(MISSED), "$.passed is not true"),
    "option": (changed(options={"treshold": 1}), "$.options.treshold"),
}


@pytest.mark.parametrize("case", BASELINES)
def test_a_bad_baseline_is_named_by_its_place(
    case: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, place = BASELINES[case]
    file = tmp_path / "previous.json"
    file.write_text(text)
    line = refused([*SMALL, "--baseline", str(file)], capsys, tmp_path)
    assert str(file) in line
    assert place in line


def test_a_bad_tuned_file_is_named_by_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "rfc.json"
    Tuned({"threshold": 0.5}, None, GOOD.fingerprint).save(file)
    file.write_text(file.read_text().replace("0.5", "-1"))
    line = refused([str(file), *SMALL], capsys, tmp_path)
    assert f"{file}: $.options.threshold" in line
