"""Rules about the sources themselves."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("rfc_compile", "passes", "tests", "examples", "benchmarks")
PASSES = sorted((ROOT / "passes").glob("*.py"))
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if (ROOT / folder).exists()
)
MAY_IMPORT = {
    "config",
    "errors",
    "estimators",
    "observe",
    "passes",
    "signal",
    "torch_internals",
}
FAMILIES = frozenset(
    {
        *("allegro", "aura", "auraflow", "bria", "chroma", "chronoedit", "cogvideo"),
        *("cogvideox", "cogview", "consisid", "cosmos", "diffusers", "easyanimate"),
        *("flux", "flux2", "glyph", "hidream", "hunyuan", "hunyuandit", "hunyuanvideo"),
        *("kandinsky", "krea", "latte", "lumina", "ltx", "mochi", "omnigen", "pixart"),
        *("prx", "qwen", "qwenimage", "sana", "sd3", "skyreels", "stableaudio"),
        *("wan", "wan2", "zimage"),
    }
)
MAX_LINES = 350


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_source = pytest.mark.parametrize("path", SOURCES, ids=relative)
each_pass = pytest.mark.parametrize("path", PASSES, ids=relative)


@functools.cache
def model_names() -> frozenset[str]:
    """Every class of diffusers' transformers, and the families by hand."""
    import diffusers.models.transformers as package

    folder = Path(package.__file__).parent
    classes = {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(classes) > 200
    return frozenset(name.lower() for name in classes if len(name) > 3) | FAMILIES


# general words that happen to be class names too; none of them names a model
GENERAL = frozenset(
    {"attention", "block", "feedforward", "head", "modulation", "transformer"}
)


@each_pass
def test_passes_name_no_model(path: Path) -> None:
    words = set(re.findall(r"[A-Za-z0-9]+", path.read_text().lower()))
    assert not words & (model_names() - GENERAL)


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_pass
def test_passes_import_little_of_the_package(path: Path) -> None:
    names = imported(ast.parse(path.read_text()))
    ours = [name.split(".") for name in names if name.split(".")[0] == "rfc_compile"]
    assert {parts[1] for parts in ours} <= MAY_IMPORT


@each_source
def test_only_the_command_line_imports_the_command_line(path: Path) -> None:
    names = set(imported(ast.parse(path.read_text())))
    if path.parent.name == "rfc_compile" and path.name != "__main__.py":
        assert not {n for n in names if n.startswith("rfc_compile.cli")}


@each_source
def test_files_are_short_ascii_and_finished(path: Path) -> None:
    data = path.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") <= MAX_LINES
    assert b"TO" + b"DO" not in data
    assert b"FIX" + b"ME" not in data


def private_names(tree: ast.AST) -> set[str]:
    """``torch._x.y`` as far as it is written out, and private names imported."""
    found = {name for name in imported(tree) if re.match(r"torch\b.*\._[a-z]", name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"torch(\.\w+)*\._[a-z]\w*(\.\w+)*", dotted):
                found.add(dotted)
    return {n for n in found if not any(m.startswith(f"{n}.") for m in found)}


ALLOWED_PRIVATE = {"torch._ops.OpOverload", "torch._dynamo.reset"}
"""``OpOverload`` has no public name; torch's user guide documents ``reset``."""


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if p.parts[len(ROOT.parts)] in ("rfc_compile", "passes")],
    ids=relative,
)
def test_private_names_of_torch_live_in_two_files(path: Path) -> None:
    if path.name in ("torch_internals.py", "dynamo_frames.py"):
        return
    assert private_names(ast.parse(path.read_text())) <= ALLOWED_PRIVATE


def test_the_check_sees_private_names() -> None:
    code = "import torch\nfrom torch._guards import tracing\ntorch._dynamo.reset()"
    assert private_names(ast.parse(code)) == {
        "torch._guards.tracing",
        "torch._dynamo.reset",
    }


def test_every_pass_file_is_seen() -> None:
    assert {path.stem for path in PASSES} >= {
        "conditional",
        "functionalize",
        "hoist_predicate",
        "outline",
        "regions",
        "residual_stream",
        "specialize",
    }


PACKAGE = ("rfc_compile/", "passes/")
RUNNING = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "torch.load", "torch.save", "torch.jit.load"),
    *("yaml.load", "joblib.load", "numpy.load", "np.load", "runpy.run_path"),
}
MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "subprocess", "runpy"}
READING = {"json.load", "json.loads", "open", "load_file", "safe_open"}
READING_METHODS = (".open", ".read_text", ".read_bytes")
MAY_IMPORT_BY_NAME = {
    "cli.py",
    "explanation.py",
    "factories.py",
    "integrations/adapters.py",
}
MAY_READ = {
    "bench/frechet.py": {"load_file"},  # safetensors, of a size that is checked
    "bench/report.py": {"information.read_text"},  # the processor's name
    "checking/reports.py": {"self.summary.open"},  # to add to it
    "files.py": {"path.open", "file.open"},
    "json_files.py": {"json.loads"},
    "tuning/journal.py": {"self._path.open", "json.loads"},  # to add; a copy
    "tuning/report.py": {"_TEMPLATE.read_text"},  # of this package
    "tuning/study.py": {"Journal.open"},
}
"""Calls that read files, by the file of this package."""


def calls_of(source: str) -> dict[str, ast.Call]:
    """The calls in a source, by the name of what is called."""
    nodes = ast.walk(ast.parse(source))
    return {ast.unparse(n.func): n for n in nodes if isinstance(n, ast.Call)}


def modules_of(source: str) -> set[str]:
    """The packages that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_nothing_is_executed_or_unpickled() -> None:
    package = [path for path in SOURCES if relative(path).startswith(PACKAGE)]
    assert len(package) > 100
    for path in package:
        source = path.read_text()
        name = relative(path).removeprefix("rfc_compile/")
        calls = calls_of(source)
        assert not RUNNING.intersection(calls), name
        assert not modules_of(source) & MODULES, name
        assert "import_module" not in calls or name in MAY_IMPORT_BY_NAME, name
        reading = {x for x in calls if x in READING or x.endswith(READING_METHODS)}
        assert reading <= MAY_READ.get(name, set()), name
        for called, call in calls.items():
            if called.endswith(".from_pretrained"):
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert given["use_safetensors"] == "True", name


def test_the_check_sees_what_it_looks_for() -> None:
    source = "import os, pickle.x\nx = torch.load(p)\nclass A:\n  eval('1')"
    assert set(calls_of(source)) & RUNNING == {"torch.load", "eval"}
    assert modules_of(source) & MODULES == {"pickle"}
