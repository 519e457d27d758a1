"""`rfc-compile bench` in a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rfc_compile.bench.records import Records


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rfc_compile", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.slow
def test_the_command_writes_json_markdown_and_a_plot(tmp_path: Path) -> None:
    output = ("--output", str(tmp_path))
    only = ("--methods", "FORA in rfc", "--models", "glyph-dit")
    result = bench("--quick", *output, *only)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    found = Records.load(tmp_path / "bench.json")
    assert [q.selection and q.selection.nfc for q in found.qualities] == [17, 13]
    assert [q.report and q.report.nfc for q in found.qualities] == [None, 13]
    assert [t.error for t in found.timings] == [None]
    assert min(found.timings[0].seconds) > 0
    page = (tmp_path / "bench.md").read_text()
    assert "## Verdicts" in page
    assert "| FORA in rfc |" in page
    with Image.open(tmp_path / "bench.png") as picture:
        picture.load()


def test_an_unknown_method_is_one_line(tmp_path: Path) -> None:
    result = bench("--output", str(tmp_path), "--methods", "nobody")
    assert result.returncode == 2
    assert "'nobody'" in result.stderr
    assert "Traceback" not in result.stderr
