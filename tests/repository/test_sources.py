"""The rules about the sources see what they look for; so does import-linter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent)
    from sources import FOLDERS, RULES, Rule, Source, faults, sources

PASS = "passes/rewrites/new.py"
MODULE = "rfc_compile/io/new.py"
SEEN = {
    "is_short_ascii_and_finished": [
        ("tests/new.py", "x = 1\n" * 351),
        ("examples/new.py", "x = '\u00e9'"),
        ("benchmarks/new.py", "# TO" + "DO"),
    ],
    "has_no_relative_import": [
        (MODULE, "from . import files"),
        ("tests/new.py", "from ..io import files"),
    ],
    "names_no_model": [
        (PASS, "# as in Flux"),
        (PASS, "WanTransformer3DModel"),
    ],
    "imports_little_of_the_package": [
        (PASS, "from rfc_compile.config.options import Options"),
        (PASS, "def f():\n    import rfc_compile.runtime.state as state"),
    ],
    "leaves_the_command_line_alone": [
        (MODULE, "from rfc_compile.tools.cli.main import main"),
        ("rfc_compile/testing.py", "from rfc_compile.tools import cli"),
    ],
    "leaves_the_face_alone": [
        (MODULE, "import rfc_compile"),
        (MODULE, "import rfc_compile.errors"),
        (MODULE, "def f():\n    from rfc_compile import stats"),
        (PASS, "from rfc_compile import passes, explain"),
    ],
    "leaves_private_torch_alone": [
        (MODULE, "from torch._guards import tracing"),
        (PASS, "import torch\ntorch._dynamo.config.x"),
    ],
    "executes_and_unpickles_nothing": [
        (MODULE, "import os, pickle.x"),
        (MODULE, "x = torch.load(p)"),
        (PASS, "class A:\n  eval('1')"),
        (MODULE, "import_module(name)"),
        (MODULE, "Model.from_pretrained(p)"),
        (MODULE, "A.from_pretrained(p)\nA.from_pretrained(p, use_safetensors=True)"),
    ],
    "reads_files_in_one_place": [
        (MODULE, "open(p)"),
        (PASS, "Path(p).read_text()"),
        ("rfc_compile/io/files.py", "json.loads(p)"),
    ],
    "writes_out_no_device": [
        (MODULE, "x.to('cuda:1')"),
        (PASS, "f(device='cpu')"),
        (MODULE, "torch.cuda.synchronize()"),
    ],
}
ALLOWED = [
    (MODULE, "from rfc_compile import torch_internals\ntorch._dynamo.reset()"),
    (PASS, "from rfc_compile.passes.fx_utils import is_layout"),
    ("rfc_compile/__main__.py", "from rfc_compile.tools.cli.main import main"),
    ("rfc_compile/torch_internals.py", "from torch._guards import tracing"),
    ("rfc_compile/io/files.py", "path.open()"),
    (MODULE, "A.from_pretrained(p, use_safetensors=True)\n'the cpu'"),
    ("tests/new.py", "import pickle, rfc_compile\nopen(p)\nx.to('cuda:1')"),
]


def test_every_rule_has_something_to_see() -> None:
    assert set(SEEN) == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_sees_what_it_looks_for(rule: Rule) -> None:
    for name, text in SEEN[rule.__name__]:
        assert name.startswith(RULES[rule]), name
        assert list(rule(Source(name, text))), text


def test_what_is_allowed_passes() -> None:
    for name, text in ALLOWED:
        assert not faults(Source(name, text))


def test_every_source_is_seen() -> None:
    names = {source.name for source in sources()}
    assert {name.split("/")[0] for name in names} == set(FOLDERS)
    assert {"passes/pipeline.py", "rfc_compile/io/files.py"} <= names
    assert {f"passes/rewrites/{n}.py" for n in ("conditional", "specialize")} <= names
    assert sum(name.startswith(("rfc_compile/", "passes/")) for name in names) > 100


UPWARD = (
    "def f():\n    from rfc_compile.runtime import registry\n",
    "if TYPE_CHECKING:\n    from rfc_compile.runtime import registry\n",
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import-linter, as `make check` runs it, on a package laid out as installed."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(
        [*command, "--config", ROOT / "pyproject.toml"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )


def test_an_import_that_runs_upward_is_seen(tmp_path: Path) -> None:
    """Late and type-only ones too; those inside `passes` by a contract of their own."""
    shutil.copytree(ROOT / "rfc_compile", tmp_path / "rfc_compile")
    shutil.copytree(ROOT / "passes", tmp_path / "rfc_compile" / "passes")
    whole = lint(tmp_path)
    assert "Contracts: 2 kept, 0 broken." in whole.stdout
    new = tmp_path / "rfc_compile" / "io" / "new.py"
    for upward in UPWARD:
        new.write_text(upward)
        broken = lint(tmp_path)
        assert broken.returncode == 1
        assert "Contracts: 1 kept, 1 broken." in broken.stdout
        assert "rfc_compile.io.new -> rfc_compile.runtime.registry" in broken.stdout
    new.unlink()
    new = tmp_path / "rfc_compile" / "passes" / "analysis" / "new.py"
    new.write_text("from rfc_compile.passes import pipeline\n")
    assert "rfc_compile.passes.analysis.new -> rfc_compile.passes.pipeline" in (
        lint(tmp_path).stdout
    )
