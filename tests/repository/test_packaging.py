"""What an installation holds, and how torch finds the backend in it."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from paths import ROOT

import rfc_compile
from rfc_compile.backend import rfc

SOURCES = {
    f"rfc_compile/{path.relative_to(ROOT / 'rfc_compile').as_posix()}": path
    for path in (ROOT / "rfc_compile").rglob("*.py")
} | {
    f"rfc_compile/{path.relative_to(ROOT).as_posix()}": path
    for path in (ROOT / "passes").rglob("*.py")
}
REQUIRED = ("numpy", "safetensors", "torch")
EXTRAS = {"diffusers", "jinja2", "matplotlib", "PIL", "rich", "torchmetrics"}


def python(code: str, cwd: Path, executable: str | Path = sys.executable) -> str:
    """What a new process prints that runs in a folder without the sources."""
    result = subprocess.run(
        [executable, "-c", code],
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel, built from a copy so that nothing left in the checkout gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
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
    assert "rfc_compile/passes/analysis/regions.py" in modules
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
    assert "rfc-compile = rfc_compile.tools.cli.main:main" in entry_points
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Name: rfc-compile\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    required = re.findall(r"^Requires-Dist: ([^;\n]+)$", metadata, re.MULTILINE)
    assert sorted(required) == ["numpy", "safetensors", "torch>=2.6"]
    assert [Requirement(text).name for text in sorted(required)] == list(REQUIRED)
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert folders == {"rfc_compile", info}


WITHOUT_EXTRAS = """
import sys, torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    def forward(self, x, c):
        q, k, v = self.qkv(self.norm(x) + c).chunk(3, dim=-1)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.mlp(self.norm(x) + c)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(1, 16)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 16)
    def forward(self, x, timestep):
        c = self.time(timestep[:, None] / 1000)[:, None]
        for block in self.blocks:
            x = block(x, c)
        return self.head(x)

torch.manual_seed(0)
model, start = Model().eval(), torch.randn(2, 6, 16)
def draw(model):
    x = start
    for t in range(900, 0, -100):
        x = x - 0.1 * model(x, torch.full((2,), float(t)))
    return x
options = {"inner": "eager", "schedule": "interval", "min_coverage": 0.0}
with torch.no_grad():
    compiled = torch.compile(model, backend="rfc", options=options)
    assert 0 < torch.dist(draw(compiled), draw(model)) < 1
import rfc_compile
assert 3 <= rfc_compile.stats(compiled).nfc < 9
print(rfc_compile.__file__)
print(sorted(name for name in EXTRAS if importlib.util.find_spec(name)))
"""


def requirements_of(distribution: str) -> set[str]:
    """Top-level names in site-packages of what a distribution needs, itself as well."""
    todo, found = [distribution], dict[str, set[str]]()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        installed = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in installed.files or ()}
        found[name] = tops - {"..", "__pycache__"}
        for text in installed.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed.name)
    return set().union(*found.values())


@pytest.mark.slow
def test_an_installed_wheel_works_without_the_extras(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """In an environment of its own that has what torch needs, by links, and no more."""
    venv.create(tmp_path / "venv", with_pip=False)
    interpreter = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    installed = Path(sysconfig.get_path("purelib"))
    for name in sorted(set().union(*map(requirements_of, REQUIRED))):
        (packages / name).symlink_to(installed / name)
    command = [sys.executable, "-m", "pip", "--python", interpreter, "install"]
    command += ["--no-deps", "--no-index", wheel.filename or ""]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    code = f"import importlib.util\nEXTRAS = {EXTRAS}\n{WITHOUT_EXTRAS}"
    file, extras = python(code, tmp_path, interpreter).splitlines()
    assert Path(file) == packages / "rfc_compile" / "__init__.py"
    assert extras == "['jinja2']"  # which torch needs as well
