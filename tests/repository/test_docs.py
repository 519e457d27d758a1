"""What the documentation shows works: options, commands, snippets, files, links."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

import rfc_compile
from rfc_compile import Options
from rfc_compile.config.presets import PRESETS
from rfc_compile.report.statistics import REASONS
from rfc_compile.tools.cli.main import COMMANDS, parse

DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "passes" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
OPTIONS = {item.name for item in fields(Options)} - {"process_group"}

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language; "" for those that name none."""
    fence = rf"^( *)```{language}\n(.*?)^\1```$"
    found = re.findall(fence, page.read_text(), re.MULTILINE | re.DOTALL)
    return [inspect.cleandoc(f"\n{code}") for _, code in found]


def inline(page: Path) -> list[str]:
    """What stands between single backticks outside of blocks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


def calls(page: Path) -> Iterator[ast.Call]:
    """Every call in the Python of a page, whose code is parsed."""
    for code in blocks(page, "python"):
        yield from (x for x in ast.walk(ast.parse(code)) if isinstance(x, ast.Call))


def literal(node: ast.expr) -> Any:
    """A value that is written out; a stand-in of the right kind for a name."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return "a name"


def options_of(page: Path) -> Iterator[dict[str, Any]]:
    """Every dict in Python, and options between backticks: alone or as a dict."""
    for code in blocks(page, "python"):
        dicts = [x for x in ast.walk(ast.parse(code)) if isinstance(x, ast.Dict)]
        yield from map(ast.literal_eval, dicts)
    for text in inline(page):
        name, _, value = text.partition("=")
        if name == "options" and "..." not in value:
            yield ast.literal_eval(value)
        elif value and name in OPTIONS:
            yield {name: literal(ast.parse(value, mode="eval").body)}


@each_page
def test_options_are_allowed(page: Path) -> None:
    if page.name in ("CHANGELOG.md", "changelog.md"):
        return  # tells of options that are gone
    for options in options_of(page):
        if options.get("schedule") == "mask":
            options.setdefault("full_steps", [0])
        Options.from_mapping(options)


@each_page
def test_calls_of_the_package_fit_its_signatures(page: Path) -> None:
    for call in calls(page):
        name = ast.unparse(call.func)
        if not name.startswith("rfc_compile.") or name.count(".") > 1:
            continue
        function = getattr(rfc_compile, name.partition(".")[2])
        words = {x.arg: literal(x.value) for x in call.keywords if x.arg is not None}
        bound = inspect.signature(function).bind(*map(literal, call.args), **words)
        if function is rfc_compile.trajectory:
            with function(*bound.args, **bound.kwargs):
                pass


@each_page
def test_names_of_the_package_exist(page: Path) -> None:
    for name in re.findall(r"\brfc_compile\.(\w+)\(", page.read_text()):
        assert name in rfc_compile.__all__, name


@each_page
def test_commands_parse(page: Path) -> None:
    lines = [line for code in blocks(page, "") for line in code.splitlines()]
    for line in [*lines, *inline(page)]:
        if not line.startswith("rfc-compile ") or "COMMAND" in line:
            continue
        _, command, *words = shlex.split(line, comments=True)
        assert command in COMMANDS, line
        if words:
            parse([command, *words])


@each_page
def test_targets_of_make_and_benchmarks_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(
        r"^([a-z]+)(?: [a-z ]+)?:", (ROOT / "Makefile").read_text(), re.M
    )
    for name in re.findall(r"`make ([a-z]+)", text):
        assert name in targets, name
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    for name in re.findall(r"`python -m benchmarks[ .]([a-z_]+)", text):
        assert name in modules | {"speed_xl"}, name


@each_page
def test_files_and_links_exist(page: Path) -> None:
    folders = r"(?:docs|examples|benchmarks|passes|tests|rfc_compile|\.ci)/[\w./*-]+"
    for name in re.findall(rf"`({folders})`", page.read_text()):
        assert list(ROOT.glob(name.rstrip("/"))), name
    if page.is_relative_to(DOCS):
        return  # `make docs` follows those
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@each_page
def test_reasons_are_those_of_stats(page: Path) -> None:
    for table in re.findall(r"^\| reason \|.*?\n\n", page.read_text(), re.M | re.S):
        rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
        assert {x for row in rows for x in re.findall(r"`(\w+)`", row)} <= set(REASONS)


def test_the_presets_are_told_as_they_are() -> None:
    text = (DOCS / "quality.md").read_text()
    printed = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|$", text, re.M))
    assert {name: float(value) for name, value in printed.items()} == {
        name: preset.tolerance for name, preset in PRESETS.items()
    }


def test_every_public_name_is_in_the_reference() -> None:
    pages = (DOCS / "reference").glob("*.md")
    text = "\n".join(page.read_text() for page in pages)
    shown = set(re.findall(r"^::: rfc_compile\.(\w+)$", text, re.M))
    assert shown >= set(rfc_compile.__all__)


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 150


def of_two_blocks(model: Any) -> Any:
    model.transformer_blocks = model.transformer_blocks[:2]
    return model


def test_the_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its blocks of code one after the other, on two blocks and without inductor."""
    names: dict[str, Any] = {"of_two_blocks": of_two_blocks}
    with torch.no_grad():
        for code in blocks(DOCS / "quickstart.md", "python"):
            code = code.replace("compile(model", "compile(of_two_blocks(model)")
            code = code.replace('"rfc"', '"rfc", options={"inner": "eager"}')
            exec(code, names)
    printed = capsys.readouterr().out
    assert "cached steps predict 1 region" in printed
    assert re.search(r"^50 steps: \d+ full, \d+ cached", printed, re.M)
    assert names["images"].shape == (2, 3, 32, 32)
    assert rfc_compile.stats(names["model"]).name == "left"


def test_the_stages_shown_are_those_of_the_passes() -> None:
    """By their names: the graphs themselves change with every release of torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        from benchmarks import stages
    recorder = stages.record()
    written = {path.stem for path in (DOCS / "stages").glob("*.txt")}
    assert set(recorder.texts) == written, "run python -m benchmarks.stages"
    drawn = recorder.drawings()
    assert set(drawn) == {path.stem for path in (DOCS / "stages").glob("*.svg")}
    page = (DOCS / "stages.md").read_text()
    for stage in written:
        assert f"stages/{stage}.txt" in page
    assert "attention" not in drawn["cached"]
    assert drawn["full"].count("attention") == 2
