"""Rules about the sources, a function each; `make check` runs this file.

A rule takes a source and yields what is wrong with it. Which sources a rule is about
stands in `RULES`.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("rfc_compile", "passes", "tests", "examples", "benchmarks")
PACKAGE = ("rfc_compile/", "passes/")
PASSES = ("passes/",)
MAX_LINES = 350

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
GENERAL = frozenset(
    {"attention", "block", "feedforward", "head", "modulation", "transformer"}
)
"""Words that happen to be class names too; none of them names a model."""

PASSES_MAY_IMPORT = {"errors", "estimators", "passes", "torch_internals"}

ALLOWED_PRIVATE = {"torch._ops.OpOverload", "torch._dynamo.reset"}
"""``OpOverload`` has no public name; torch's user guide documents ``reset``."""

MAY_NAME_PRIVATE = {
    "rfc_compile/dynamo_frames.py",
    "rfc_compile/torch_internals.py",
}

RUNNING = {
    *("eval", "exec", "compile", "__import__", "breakpoint", "input"),
    *("os.system", "os.popen", "torch.load", "torch.save", "torch.jit.load"),
    *("yaml.load", "joblib.load", "numpy.load", "np.load", "runpy.run_path"),
}
MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "subprocess", "runpy"}
MAY_IMPORT_BY_NAME = {
    "rfc_compile/integrations/adapters.py",
    "rfc_compile/report/drawing.py",
    "rfc_compile/tools/cli/main.py",
    "rfc_compile/tools/measure/factory.py",
}
READING = {"json.load", "json.loads", "open", "load_file", "safe_open"}
READING_METHODS = (".open", ".read_text", ".read_bytes")
MAY_READ = {
    "rfc_compile/io/files.py": {"path.open", "file.open"},
    "rfc_compile/io/json_files.py": {"json.loads"},
    # safetensors, of a size that is checked
    "rfc_compile/tools/bench/frechet.py": {"load_file"},
    # to add to it
    "rfc_compile/tools/checking/reports.py": {"self.summary.open"},
    # the processor's name
    "rfc_compile/tools/measure/environment.py": {"information.read_text"},
    # safetensors, of a size that is checked
    "rfc_compile/tools/measure/word_table.py": {"load_file"},
    # to add to it; a copy
    "rfc_compile/tools/tuning/journal.py": {"self._path.open", "json.loads"},
    # of this package
    "rfc_compile/tools/tuning/report.py": {"_TEMPLATE.read_text"},
    "rfc_compile/tools/tuning/runner.py": {"Journal.open"},
}
"""Calls that read files, by file."""

DEVICE = re.compile(r"(cuda|cpu|mps|xpu|hip|rocm|npu|hpu)(:\d+)?")
FALLBACKS = {"rfc_compile/tools/measure/glyph_dit.py": ["cpu"]}
"""``default_device`` returns the CPU where torch knows of no accelerator."""


@dataclass(frozen=True)
class Source:
    """A file of Python: its path from the root of the checkout, and its text."""

    name: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The file parsed."""
        return ast.parse(self.text)

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the file."""
        return list(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> list[str]:
        """Full names of what the file imports, `.` first where it is relative."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                found += [f"{module}.{alias.name}" for alias in node.names]
        return found

    @functools.cached_property
    def calls(self) -> list[tuple[str, ast.Call]]:
        """Every call, with the name of what is called."""
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        return [(ast.unparse(call.func), call) for call in calls]


Rule = Callable[[Source], Iterator[str]]


def is_short_ascii_and_finished(source: Source) -> Iterator[str]:
    if not source.text.isascii():
        yield "not ASCII"
    if source.text.count("\n") > MAX_LINES:
        yield f"more than {MAX_LINES} lines"
    for word in ("TO" + "DO", "FIX" + "ME"):
        if word in source.text:
            yield word


def has_no_relative_import(source: Source) -> Iterator[str]:
    yield from (f"relative import of {n}" for n in source.imports if n[0] == ".")


@functools.cache
def model_names() -> frozenset[str]:
    """Every class of diffusers' transformers, and the families by hand."""
    package = importlib.util.find_spec("diffusers")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "models" / "transformers"
    classes = {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(classes) > 200
    return frozenset(name.lower() for name in classes if len(name) > 3) | FAMILIES


def names_no_model(source: Source) -> Iterator[str]:
    words = set(re.findall(r"[A-Za-z0-9]+", source.text.lower()))
    yield from (f"names a model: {w}" for w in words & (model_names() - GENERAL))


def imports_little_of_the_package(source: Source) -> Iterator[str]:
    for name in source.imports:
        parts = name.split(".")
        if parts[0] == "rfc_compile" and parts[1] not in PASSES_MAY_IMPORT:
            yield f"imports {name}"


def leaves_the_command_line_alone(source: Source) -> Iterator[str]:
    """Nothing but the command line imports the command line."""
    allowed = ("rfc_compile/tools/cli/", "rfc_compile/__main__.py")
    if not source.name.startswith(allowed):
        for name in source.imports:
            if name.startswith("rfc_compile.tools.cli"):
                yield f"imports {name}"


@functools.cache
def parts_of_the_package() -> frozenset[str]:
    """The modules and packages directly below `rfc_compile`."""
    paths = (ROOT / "rfc_compile").iterdir()
    return frozenset({path.stem for path in paths} | {"passes"})


def leaves_the_face_alone(source: Source) -> Iterator[str]:
    """The public names of `rfc_compile` are for users."""
    for node in source.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "rfc_compile":
                    yield f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module == "rfc_compile":
            for alias in node.names:
                if alias.name not in parts_of_the_package():
                    yield f"from rfc_compile import {alias.name}"


def leaves_private_torch_alone(source: Source) -> Iterator[str]:
    """Private names of torch live in two files."""
    if source.name in MAY_NAME_PRIVATE:
        return
    found = {name for name in source.imports if re.match(r"torch\b.*\._[a-z]", name)}
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if re.fullmatch(r"torch(\.\w+)*\._[a-z]\w*(\.\w+)*", dotted):
                found.add(dotted)
    longest = {n for n in found if not any(m.startswith(f"{n}.") for m in found)}
    yield from (f"private: {name}" for name in longest - ALLOWED_PRIVATE)


def executes_and_unpickles_nothing(source: Source) -> Iterator[str]:
    called = {name for name, _ in source.calls}
    yield from (f"calls {name}" for name in called & RUNNING)
    packages = {name.partition(".")[0] for name in source.imports}
    yield from (f"imports {name}" for name in packages & MODULES)
    if "import_module" in called and source.name not in MAY_IMPORT_BY_NAME:
        yield "imports modules by name"
    for name, call in source.calls:
        if name.endswith(".from_pretrained"):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if given.get("use_safetensors") != "True":
                yield f"{name} without use_safetensors=True"


def reads_files_in_one_place(source: Source) -> Iterator[str]:
    """Files are read by `io`, which bounds their sizes."""
    allowed = MAY_READ.get(source.name, set())
    for name in {name for name, _ in source.calls} - allowed:
        if name in READING or name.endswith(READING_METHODS):
            yield f"reads by {name}"


def writes_out_no_device(source: Source) -> Iterator[str]:
    """Devices come from the model, neither as strings nor by `torch.cuda`."""
    found = []
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if DEVICE.fullmatch(node.value) else []
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda":
            found.append("torch.cuda")
    if found != FALLBACKS.get(source.name, []):
        yield f"devices: {found}"


RULES: dict[Rule, tuple[str, ...]] = {
    is_short_ascii_and_finished: (*FOLDERS, "integrations"),
    has_no_relative_import: FOLDERS,
    names_no_model: PASSES,
    imports_little_of_the_package: PASSES,
    leaves_the_command_line_alone: PACKAGE,
    leaves_the_face_alone: PACKAGE,
    leaves_private_torch_alone: PACKAGE,
    executes_and_unpickles_nothing: PACKAGE,
    reads_files_in_one_place: PACKAGE,
    writes_out_no_device: PACKAGE,
}
"""What the names of the sources of a rule begin with."""


def sources() -> list[Source]:
    """Every source of the checkout."""
    paths = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths
    ]


def faults(source: Source) -> list[str]:
    """What is wrong with a source, a line each."""
    return [
        f"{source.name}: {fault}"
        for rule, begins in RULES.items()
        if source.name.startswith(begins)
        for fault in sorted(rule(source))
    ]


if __name__ == "__main__":
    sys.exit("\n".join(f for source in sources() for f in faults(source)) or 0)
