"""`rfc-compile bench`: what it writes, and how it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from denoising import small_glyph
from PIL import Image

from rfc_compile.tools.bench import session, workloads
from rfc_compile.tools.bench.records import Records
from rfc_compile.tools.cli import main


@pytest.mark.slow
def test_the_command_writes_json_markdown_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two blocks of the model: twelve take a minute to compile."""
    small = replace(workloads.GLYPH, make=small_glyph)
    monkeypatch.setitem(workloads.WORKLOADS, small.name, small)
    monkeypatch.setattr(session, "GLYPH", small)
    output = ("--output", str(tmp_path))
    only = ("--methods", "FORA in rfc", "--models", small.name)
    assert main.main(["bench", "--quick", *output, *only]) == 0
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


def test_an_unknown_method_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "--output", str(tmp_path), "--methods", "nobody"]
    assert main.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rfc-compile bench: error: ")
    assert "'nobody'" in line
