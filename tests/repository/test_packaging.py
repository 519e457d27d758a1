"""What an installation holds, and how torch finds the backend in it."""

from __future__ import annotations

import ast
import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from paths import ROOT

import rfc_compile
from rfc_compile.backend import rfc

SOURCES = {
    f"rfc_compile/{path.relative_to(ROOT / 'rfc_compile').as_posix()}": path
    for path in (ROOT / "rfc_compile").rglob("*.py")
} | {f"rfc_compile/passes/{path.name}": path for path in (ROOT / "passes").glob("*.py")}

DEVICE = re.compile(r"(cuda|cpu|mps|xpu|hip|rocm|npu|hpu)(:\d+)?")
FALLBACKS = {"rfc_compile/glyph.py": ["cpu"]}
"""``default_device`` returns the CPU where torch knows of no accelerator."""


def python(code: str, cwd: Path) -> str:
    """What a new process prints that runs in a folder without the sources."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_entry_points_are_registered() -> None:
    points = importlib.metadata.distribution("rfc-compile").entry_points
    found = {(point.group, point.name): point.load() for point in points}
    assert set(found) == {
        ("torch_dynamo_backends", "rfc"),
        ("console_scripts", "rfc-compile"),
    }
    assert found["torch_dynamo_backends", "rfc"] is rfc


def test_torch_lists_the_backend() -> None:
    assert "rfc" in torch.compiler.list_backends()


def test_the_version_is_that_of_the_distribution() -> None:
    assert rfc_compile.__version__ == importlib.metadata.version("rfc-compile")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{rfc_compile.__version__}"' in project


BY_NAME = """
import sys, torch
from diffusers import DiTTransformer2DModel
torch.manual_seed(0)
model = DiTTransformer2DModel(
    num_attention_heads=2, attention_head_dim=8, in_channels=3, num_layers=2,
    sample_size=8, patch_size=2, norm_type="ada_norm_zero", num_embeds_ada_norm=10,
    norm_elementwise_affine=False,
).eval()
assert not any(name.startswith("rfc_compile") for name in sys.modules)
options = {"inner": "eager", "schedule": "interval", "min_coverage": 0.0}
compiled = torch.compile(model, backend="rfc", options=options)
start = torch.randn(1, 3, 8, 8)
label = torch.tensor([1])
def steps(model):
    x = start
    for t in range(900, 0, -100):
        x = x - 0.1 * model(x, timestep=torch.tensor([t]), class_labels=label).sample
    return x
with torch.no_grad():
    assert torch.dist(steps(compiled), steps(model)) < 1
full = sys.modules["rfc_compile"].stats(compiled).nfc
print(full)
"""


def test_torch_finds_the_backend_by_name_alone(tmp_path: Path) -> None:
    """The process never imports rfc_compile itself."""
    full = int(python(BY_NAME, tmp_path))
    assert 3 <= full < 9


def test_every_module_imports(tmp_path: Path) -> None:
    """In a fresh process, and the modules found are the files in the sources."""
    found = {
        module.name
        for module in pkgutil.walk_packages(rfc_compile.__path__, "rfc_compile.")
    }
    written = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in SOURCES
    }
    missing = {name for name in written - found if ".passes" not in name}
    assert missing == {"rfc_compile"}
    runnable = sorted(written - {"rfc_compile.__main__"})
    code = f"import importlib\nfor name in {runnable}: importlib.import_module(name)"
    assert python(f"{code}\nprint('imported')", tmp_path) == "imported\n"


def test_importing_the_package_needs_no_extra(tmp_path: Path) -> None:
    code = (
        "import sys, rfc_compile, rfc_compile.backend, rfc_compile.cli\n"
        "extras = {'diffusers', 'matplotlib', 'PIL', 'rich', 'torchmetrics'}\n"
        "print(sorted(extras & set(sys.modules)))"
    )
    assert python(code, tmp_path) == "[]\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel, built from a copy so that nothing left in the checkout gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    readme = ROOT / "README.md"
    if readme.exists():
        shutil.copy(readme, source)
    for name in ("rfc_compile", "passes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", folder, source]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_source(wheel: zipfile.ZipFile) -> None:
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    assert modules == set(SOURCES)
    assert "rfc_compile/passes/regions.py" in modules
    for name, path in SOURCES.items():
        assert wheel.read(name) == path.read_bytes()


def test_the_wheel_holds_the_model_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    assets = ROOT / "rfc_compile" / "assets"
    files = [path for path in assets.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in [*files, ROOT / "rfc_compile" / "py.typed"]:
        name = path.relative_to(ROOT).as_posix()
        assert wheel.read(name) == path.read_bytes()


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    info = f"rfc_compile-{rfc_compile.__version__}.dist-info"
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "rfc = rfc_compile.backend:rfc" in entry_points
    assert "rfc-compile = rfc_compile.cli:main" in entry_points
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Name: rfc-compile\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)
    assert sorted(required) == ["numpy", "safetensors", "torch>=2.6"]
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert folders == {"rfc_compile", info}


def device_names(source: str) -> list[str]:
    """Devices that are written out in code, as strings or as methods."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if DEVICE.fullmatch(node.value) else []
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda":
            found.append("torch.cuda")
    return found


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_no_device_is_written_out(name: str) -> None:
    assert device_names(SOURCES[name].read_text()) == FALLBACKS.get(name, [])


def test_the_check_sees_devices() -> None:
    code = "x.to('cuda:1')\nf(device='cpu')\ntorch.cuda.synchronize()\n'the cpu'"
    assert sorted(device_names(code)) == ["cpu", "cuda:1", "torch.cuda"]
