"""The adapters for inference engines, with the real packages where they import."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import tomllib
import torch
from denoising import run, small_glyph
from torch import nn

import rfc_compile

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "engines"
STEPS = 12


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin module, with the eager inner backend."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("RFC_OPTIONS", '{"inner": "eager", "target_nfc": 5}')
    return importlib.import_module("rfc_engines")


def real(*names: str) -> list[ModuleType]:
    """Modules of an engine; skips where it is not installed or refuses this machine."""
    try:
        return [importlib.import_module(name) for name in names]
    except Exception as error:
        pytest.skip(f"{names[0].partition('.')[0]} does not import here: {error!r}")


def check(model: nn.Module) -> None:
    """It is cached as asked, and draws nearly the image of the plain model."""
    found, expected = run(model, steps=STEPS), run(small_glyph(), steps=STEPS)
    assert rfc_compile.stats(model).nfc == 5
    assert 0 < torch.dist(found, expected) < 0.2 * expected.norm()


def test_the_entry_points_name_the_adapters(adapters: ModuleType) -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    for points in project["entry-points"].values():
        module, _, function = points["rfc"].partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert adapters.options() == {"inner": "eager", "target_nfc": 5}


def test_vllm_omni(adapters: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    (runner,) = real("vllm_omni.diffusion.worker.diffusion_model_runner")
    kind = runner.DiffusionModelRunner
    monkeypatch.setattr(kind, "_compile_transformer", kind._compile_transformer)
    adapters.in_vllm_omni()
    one = object.__new__(kind)
    one.pipeline = SimpleNamespace(transformer=small_glyph())
    one.od_config = SimpleNamespace(diffusion_compile_dynamic=True)
    one._compile_transformer("transformer")
    one._compile_transformer("transformer_2")  # there is none
    check(one.pipeline.transformer)


def test_sglang(adapters: ModuleType) -> None:
    plugins, compiling = real(
        "sglang.multimodal_gen.runtime.platforms.plugins",
        "sglang.multimodal_gen.runtime.utils.torch_compile",
    )
    adapters.in_sglang()
    plugins.HookRegistry.apply_hooks()
    kwargs, _ = compiling.resolve_torch_compile_kwargs(
        "SGLANG_TORCH_COMPILE_MODE", default="max-autotune-no-cudagraphs"
    )
    model = small_glyph()
    compiling.CompiledModuleRegistry().compile_once(model, compile_kwargs=kwargs)
    check(model)


def test_xdit() -> None:
    """A script of one's own chooses the backend; its wrapper gets a compiled model."""
    real("xfuser")
    model = small_glyph()
    model.compile(backend="rfc", options={"inner": "eager", "target_nfc": 5})
    check(model)
