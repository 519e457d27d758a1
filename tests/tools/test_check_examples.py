"""The files of examples/ci: the script runs, and what the pipelines call exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_outcomes import GOOD
from paths import ROOT

from rfc_compile.tools.checking.reports import record
from rfc_compile.tools.cli import main

FOLDER = ROOT / "examples" / "ci"
SCRIPTS = Path(sys.executable).parent
PIPELINES = ("github-actions.yml", "gitlab-ci.yml")


def load(name: str) -> dict[str, Any]:
    text = (FOLDER / name).read_text().replace("\non:", "\n'on':")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def script_lines(value: object) -> Iterator[str]:
    """The shell commands of a pipeline, wherever they stand in it."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("run", "script"):
                parts = [item] if isinstance(item, str) else item
                for part in parts:
                    yield from re.sub(r"\\\n", " ", part).strip().splitlines()
            else:
                yield from script_lines(item)
    elif isinstance(value, list):
        for item in value:
            yield from script_lines(item)


def test_no_file_is_forgotten() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*PIPELINES, "pre-merge.sh"}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_commands_of_a_pipeline_exist_and_their_options_parse(name: str) -> None:
    commands = [shlex.split(line) for line in script_lines(load(name))]
    assert {command[0] for command in commands} == {"pip", "rfc-compile"}
    (check,) = (command for command in commands if command[0] == "rfc-compile")
    args = main.parse(check[1:])
    assert args.run.__module__ == "rfc_compile.tools.cli.check"
    assert args.min_psnr == 30
    assert args.max_memory == 2 * 2**30
    assert args.max_graph_breaks == args.max_recompiles == 0
    assert args.baseline == Path("rfc-baseline.json")
    assert args.tolerance == pytest.approx(0.05)
    assert args.junit == Path("reports/check.xml")


def test_github_shows_the_summary_and_keeps_the_reports() -> None:
    workflow = load("github-actions.yml")
    assert set(workflow["on"]) == {"pull_request", "push"}
    (job,) = workflow["jobs"].values()
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    (command,) = (s["run"] for s in job["steps"] if "rfc-compile" in s.get("run", ""))
    assert "--github-summary" in command
    kept = job["steps"][-1]
    assert (kept["if"], kept["with"]["path"]) == ("always()", "reports")


def test_gitlab_reads_the_junit_report() -> None:
    (job,) = load("gitlab-ci.yml").values()
    assert job["artifacts"]["reports"]["junit"] == "reports/check.xml"
    assert job["artifacts"]["when"] == "always"


def pre_merge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script as a user runs it, quicker: one image of 30 steps."""
    quick = ("--steps", "30", "--images", "1", "--seeds", "1")
    return subprocess.run(
        [FOLDER / "pre-merge.sh", *quick, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"},
    )


def test_the_script_holds_a_run_to_its_limits_and_its_baseline(tmp_path: Path) -> None:
    """A baseline that no cached image reaches; every other limit holds."""
    baseline = json.loads(record(GOOD))
    baseline["measured"] |= {"psnr": 110.0, "psnr_min": 5.0, "ssim": 0.1}
    baseline["measured"] |= {"nfc": 30, "state_bytes": 2**30}
    (tmp_path / "rfc-baseline.json").write_text(json.dumps(baseline))
    result = pre_merge(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "missed: PSNR, mean:" in result.stdout
    reports = tmp_path / "reports"
    assert {p.suffix for p in reports.iterdir()} == {".json", ".xml", ".md"}
    verdicts = json.loads((reports / "check.json").read_text())["limits"]
    missed = [verdict["name"] for verdict in verdicts if not verdict["passed"]]
    assert missed == ["baseline_min_psnr"]
    names = {verdict["name"] for verdict in verdicts}
    assert names > {"min_psnr", "max_nfc", "max_graph_breaks", "max_recompiles"}
