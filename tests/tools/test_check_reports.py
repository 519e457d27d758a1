"""The reports of a check: what each holds, and that its readers can read it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from check_outcomes import GOOD, MEASURED, MISSED, NASTY, outcome
from markdown_it import MarkdownIt

from rfc_compile.errors import OptionError
from rfc_compile.tools.checking.baseline import read_baseline
from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.checking.reports import (
    Reports,
    junit,
    markdown,
    record,
    step_summary,
)

each_outcome = pytest.mark.parametrize(
    "found", [GOOD, MISSED, NASTY, outcome({})], ids=["good", "missed", "nasty", "none"]
)


def test_an_outcome_passes_if_every_limit_holds_and_there_is_one() -> None:
    assert GOOD.passed
    assert not MISSED.passed
    assert [verdict.name for verdict in MISSED.missed] == [
        "min_psnr",
        "min_ssim",
        "max_nfc",
    ]
    assert not outcome({}).passed


@each_outcome
def test_junit_keeps_to_the_schemas(found: Outcome) -> None:
    """Elements, their order and attributes as the schemas of Jenkins and Ant want."""
    root = ET.fromstring(junit(found))
    assert (root.tag, root.attrib) == ("testsuites", {})
    (suite,) = root
    assert set(suite.attrib) == {
        *("name", "package", "id", "timestamp", "hostname"),
        *("tests", "failures", "errors", "skipped", "time"),
    }
    assert all(suite.attrib.values())
    order = [child.tag for child in suite]
    cases = suite.findall("testcase")
    middle = ["testcase"] * len(cases)
    assert order == ["properties", *middle, "system-out", "system-err"]
    for item in suite[0]:
        assert (item.tag, set(item.attrib)) == ("property", {"name", "value"})
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        assert [child.tag for child in case] in ([], ["failure"])
        for failure in case:
            assert set(failure.attrib) == {"type", "message"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    assert re.fullmatch(r"\d+\.\d{3}", suite.attrib["time"])
    failures = suite.findall("testcase/failure")
    assert int(suite.attrib["tests"]) == len(cases) == len(found.verdicts)
    assert int(suite.attrib["failures"]) == len(failures) == len(found.missed)


def test_junit_has_a_test_case_for_every_limit_and_numbers_in_failures() -> None:
    suite = ET.fromstring(junit(MISSED))[0]
    failures = {
        case.attrib["name"]: case.find("failure") for case in suite.iter("testcase")
    }
    assert set(failures) == {"min_psnr", "min_ssim", "max_nfc"}
    psnr, ssim = failures["min_psnr"], failures["min_ssim"]
    assert psnr is not None
    assert ssim is not None
    assert "41.25 dB measured, at least 45.00 dB wanted" in psnr.attrib["message"]
    assert "not measured" in ssim.attrib["message"]
    properties = {item.attrib["name"]: item.attrib["value"] for item in suite[0]}
    assert properties["option.threshold"] == "0.4"
    assert properties["sampler"] == "ddim"


def test_junit_replaces_what_xml_cannot_hold() -> None:
    text = junit(NASTY)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe]", text)
    failure = next(ET.fromstring(text).iter("failure"))
    assert "nothing was cached: \ufffd <&>\"'" in failure.attrib["message"]


@each_outcome
def test_markdown_is_one_table_with_a_row_a_verdict(found: Outcome) -> None:
    """As a Markdown parser with GitHub's tables sees it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(found))
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 1
    grid = found.grid()
    assert kinds.count("tr_open") == 1 + len(grid.rows)
    assert kinds.count("td_open") == len(grid.header) * len(grid.rows)
    heading = next(t for t in tokens if t.type == "inline")
    assert {child.type for child in heading.children or []} == {"text"}
    assert not [t for t in tokens if t.type == "html_block" and "script" in t.content]


def test_times_are_shown_where_there_are_some() -> None:
    page = markdown(
        outcome({"min_speedup": 2}, seconds=1, uncached_seconds=3, speedup=3)
    )
    assert "| speed-up | 3.00x | at least 2.00x |" in page
    assert "| time without caching | 3 s |" in page
    assert "time" not in markdown(GOOD).split("<details>")[0]


def test_markdown_shows_numbers_misses_and_notes() -> None:
    page = markdown(MISSED)
    assert "| PSNR, mean | 41.25 dB | at least 45.00 dB | :x: missed |" in page
    assert "- missed: full steps (NFC): 14 measured, at most 10 wanted" in page
    assert "- note: another model or sampler: steps is 50" in page
    assert '    {\n     "threshold": 0.4\n    }' in page
    good = markdown(GOOD)
    assert ":x:" not in good
    assert good.count(":white_check_mark:") == 3
    assert "| graph breaks | 0 |  |  |" in good


@each_outcome
def test_json_is_strict_and_says_everything(found: Outcome) -> None:
    def refuse(name: str) -> float:
        raise AssertionError(name)

    data = json.loads(record(found), parse_constant=refuse)
    assert data["passed"] is found.passed
    assert data["target"] == found.target
    assert [limit["name"] for limit in data["limits"]] == [
        verdict.name for verdict in found.verdicts
    ]
    assert data["measured"]["nfc"] == MEASURED.nfc
    assert data["options"] == {"threshold": 0.4}
    assert data["fingerprint"]["sampler"] == "ddim"


def test_a_report_is_a_baseline(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    path.write_text(record(GOOD))
    baseline = read_baseline(path)
    assert baseline.measured == MEASURED
    assert baseline.fingerprint == GOOD.fingerprint


def test_reports_are_written_in_one_step_into_new_folders(tmp_path: Path) -> None:
    names = ("json", "junit", "markdown")
    paths = {name: tmp_path / "new" / name for name in names}
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    reports = Reports(paths, summary)
    reports.prepare()
    assert not any(path.exists() for path in paths.values())
    assert summary.read_text() == "before\n"
    reports.write(GOOD)
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(names)
    assert paths["markdown"].read_text() == markdown(GOOD)
    assert summary.read_text() == f"before\n{markdown(GOOD)}"


def test_a_path_that_cannot_be_written_is_named_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    file.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (file / "report.xml", folder):
        with pytest.raises(OptionError, match="argument --junit"):
            Reports({"json": tmp_path / "ok.json", "junit": path}).prepare()
    with pytest.raises(OptionError, match="--json and --junit name the same file"):
        Reports({"json": tmp_path / "x", "junit": folder / ".." / "x"}).prepare()
    assert sorted(tmp_path.iterdir()) == [file, folder]
    assert not list(folder.iterdir())


def test_a_step_summary_needs_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/some/where")
    assert step_summary() == Path("/some/where")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
    with pytest.raises(OptionError, match="--github-summary"):
        step_summary()
