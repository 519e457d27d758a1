"""`tune` and `analyse` with little time, bad calls or no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from tuning_factory import SPEC

from rfc_compile import OptionError, Tuned
from rfc_compile.tools.cli import main
from rfc_compile.tools.cli.target_arguments import target_of
from rfc_compile.tools.cli.tune import interrupted
from rfc_compile.tools.measure.target import Settings, Target, resolve_target
from rfc_compile.tools.tuning.progress import Clock, SearchProgress
from rfc_compile.tools.tuning.study import STUDY_FILE

LITTLE = ("tune", SPEC, "--seeds", "1", "--inner", "eager", "--time-limit", "0.0001")


def test_without_time_the_defaults_are_told_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    assert main.main([*LITTLE, "--target-nfc", "7", "--output", str(tmp_path)]) == 0
    assert time.monotonic() - start < 100  # no graph is searched and none is timed
    output = capsys.readouterr()
    assert "Nothing was searched: the time was up after " in output.out
    assert "not timed" in output.out
    tuned = Tuned.read(tmp_path / "rfc.json")
    assert tuned.options["target_nfc"] == 7
    assert tuned.measured is not None
    assert tuned.measured.nfc <= 7
    page = (tmp_path / "report.html").read_text()
    assert "time was up before anything was searched" in page
    assert "1 region holds " in page  # of the best, whatever else was compiled
    phases = [line.split(" s  ")[1] for line in output.err.splitlines()]
    assert [phase for phase in phases if ":" not in phase] == [
        "reference",
        "climb",
        "finals",
    ]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [(0, "nothing to resume"), (1, "nothing to resume"), (2, "--resume")],
)
def test_an_interrupt_says_whether_there_is_something_to_resume(
    lines: int, wanted: str, tmp_path: Path
) -> None:
    if lines:
        (tmp_path / STUDY_FILE).write_text('{"a": 1}\n' * lines)
    assert wanted in interrupted(tmp_path)


def test_a_clock_knows_its_shares() -> None:
    assert Clock(0.0).is_past(0.5)
    assert not Clock(None).is_past()
    assert not Clock(1000).is_past(0.5)


def test_there_is_a_line_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SearchProgress(True)
    progress.begin("climb")
    progress.note("soon after: no line of its own")
    progress.begin("finals")
    assert capsys.readouterr().err.splitlines() == ["    0 s  climb", "    0 s  finals"]


def test_nothing_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    SearchProgress(False).begin("climb")
    assert capsys.readouterr() == ("", "")


SAMPLERS = """
from tuning_factory import make, sample

def fails():
    model, _ = make()
    return model, lambda model, seed: model(class_labels=3)

def short():
    model, _ = make()
    return model, sample
"""


@pytest.fixture
def samplers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "newcomer_samplers.py").write_text(SAMPLERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_call_that_fails_is_one_line(
    samplers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["analyse", "newcomer_samplers:fails"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "newcomer_samplers:fails: drawing seed 0 fails: TypeError: " in line


def test_analyse_names_regions_and_gives_advice(
    samplers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)),
    )
    assert main.main(["analyse", "newcomer_samplers:short"]) == 0
    advice = capsys.readouterr().out
    assert "Least error at the steps that all of them predict: " in advice
    assert "`rfc-compile tune --options granularity=module --options est" in advice
    (figure,) = drawn
    names = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert names[:2] == ["transformer_blocks.0.attn1", "transformer_blocks.0.ff"]


def check_target(*arguments: str, drawn: Mapping[str, Any] | None) -> Target:
    """The target of `check` with a tuned file that holds this."""
    args = main.parse(["check", *arguments])
    return target_of(args, drawn)


DRAWN = {"target": "glyph-dit", "steps": 12, "images": 1, "guidance": 1.5}


def test_a_tuned_file_says_how_to_draw_again(tmp_path: Path) -> None:
    settings = Settings(steps=12, images=1, guidance=1.5)
    target = resolve_target("glyph-dit", settings)
    assert target.drawn == DRAWN
    file = tmp_path / "rfc.json"
    Tuned({}, None, target.fingerprint(), drawn=target.drawn).save(file)
    again = check_target(drawn=Tuned.read(file).drawn)
    assert (again.name, again.steps, again.sampler) == (
        "glyph-dit",
        12,
        "ddim, guidance 1.5",
    )
    assert again.drawn == DRAWN


def test_what_is_given_goes_before_the_file() -> None:
    target = check_target("--steps", "9", drawn=DRAWN)
    assert target.drawn == {**DRAWN, "steps": 9}
    assert check_target("--target", "glyph-dit", drawn=DRAWN).drawn == {
        "target": "glyph-dit"
    }


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"target": "os:getcwd"}, "a file may not choose what code runs: give --tar"),
        ({"steps": 3}, "a file may not choose"),
        ({"target": "glyph-dit", "steps": "many"}, r"\$\.drawn\.steps is 'many'"),
        ({"target": "glyph-dit", "colour": 1}, r"\$\.drawn\.colour is not known"),
    ],
)
def test_a_file_chooses_no_code(drawn: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_target(drawn=drawn)
