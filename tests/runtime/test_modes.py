"""Ways of calling: grad modes, autocast, dynamic shapes, compiling in place."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, run, small_glyph
from options import MODULES
from paths import ROOT
from torch import Tensor, nn

import rfc_compile

STATIC = {"schedule": "interval", "interval": 3, "warmup": 2}
ALL_FULL = {"schedule": "interval", "interval": 1}
DYNAMIC = {"threshold": 0.6, "warmup": 3}


def walk(model: Any, count: int = 8, batch: int = 2, labels: Tensor = LABELS) -> Tensor:
    """Euler steps of a flow from noise; the last output."""
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    for step in range(count):
        timestep = torch.full((batch,), 900 - 20 * step)
        given = labels[:1].expand(batch)
        sample = model(x, timestep=timestep, class_labels=given).sample
        x = x - 0.05 * sample
    return sample


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_grad_modes(
    mode: Callable[[], AbstractContextManager[None]], inner: str
) -> None:
    """Inference mode and no_grad give the same run, and may follow each other."""
    rfc = compiled(inner=inner, **STATIC)
    with mode():
        first = walk(rfc)
    with torch.no_grad():
        expected = walk(compiled(**STATIC))
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)
    assert {d.full for d in rfc_compile.stats(rfc).decisions} == {True, False}


@pytest.mark.parametrize(
    "options", [ALL_FULL, {"threshold": 0.0}], ids=["whole", "probe"]
)
def test_autocast_is_part_of_the_graph(options: dict[str, Any]) -> None:
    """Casts are baked in while tracing and not applied a second time."""
    model = small_glyph()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = walk(model)
        rfc = compiled(model, **options)
        found = walk(rfc)
    assert rfc_compile.stats(rfc).nfc == 8
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("dynamic", "inner"), [(None, "aot_eager"), (True, "eager"), (False, "eager")]
)
@torch.no_grad()
def test_batch_sizes_and_dynamic_shapes(dynamic: bool | None, inner: str) -> None:
    """Three batch sizes in one process, each as the plain model computes it.

    The second makes Dynamo compile with symbolic sizes, unless they are forbidden.
    """
    model = small_glyph()
    options = {**ALL_FULL, "inner": inner, "min_coverage": 0.0}
    rfc = torch.compile(model, backend="rfc", options=options, dynamic=dynamic)
    for batch in (2, 3, 5, 2):
        torch.testing.assert_close(
            walk(rfc, batch=batch), walk(model, batch=batch), rtol=0, atol=1e-5
        )
    assert rfc_compile.explain(rfc).uncached_reasons == ()


@torch.no_grad()
def test_cached_steps_with_dynamic_shapes_equal_static_ones() -> None:
    model = small_glyph()
    options = {**STATIC, "inner": "eager", "min_coverage": 0.0}
    results = {}
    for dynamic in (True, False):
        torch._dynamo.reset()
        rfc = torch.compile(model, backend="rfc", options=options, dynamic=dynamic)
        results[dynamic] = [walk(rfc, batch=batch) for batch in (2, 4)]
        kinds = {d.full for d in rfc_compile.stats(rfc).decisions}
        assert kinds == {True, False}
    for a, b in zip(results[True], results[False], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_in_place_compile_and_explain_on_the_plain_module() -> None:
    """``pipe.transformer.compile(backend="rfc")`` leaves the module itself."""
    model = small_glyph()
    model.compile(backend="rfc", options={**DYNAMIC, "inner": "eager"})
    run(model)
    assert [region.kind for region in rfc_compile.explain(model).regions] == ["stack"]
    assert rfc_compile.stats(model).steps == 20


def custom_dit() -> nn.Module:
    """The DiT of examples/custom_dit.py: nothing in it comes from diffusers."""
    path = ROOT / "examples" / "custom_dit.py"
    spec = importlib.util.spec_from_file_location("custom_dit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_dit"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model: nn.Module = module.CustomDiT(module.Config(width=32, depth=2, heads=2))
    return model.eval().requires_grad_(requires_grad=False)


def flow(model: Any, steps: int = 20) -> Tensor:
    """Euler steps of a flow, time from 1 to 0."""
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for step in range(steps):
        t = torch.full((2,), 1 - step / steps)
        x = x - model(x, t, LABELS) / steps
    return x


@pytest.mark.parametrize("regions", [MODULES, {}], ids=["modules", "stack"])
@pytest.mark.parametrize("options", [ALL_FULL, {"threshold": 0.0}, STATIC, DYNAMIC])
@torch.no_grad()
def test_a_dit_that_is_not_from_diffusers(
    options: dict[str, Any], regions: dict[str, Any]
) -> None:
    """Fused qkv, SwiGLU, RMSNorm; the timestep is found without its usual name."""
    model = custom_dit()
    rfc = compiled(model, **options, **regions)
    found, expected = flow(rfc), flow(model)
    explanation = rfc_compile.explain(rfc)
    kinds = [region.kind for region in explanation.regions]
    assert kinds == (["attention", "mlp"] * 2 if regions else ["stack"])
    assert explanation.timestep == ("t",)
    assert explanation.coverage > 0.8
    if rfc_compile.stats(rfc).nfc == 20:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert 0 < (found - expected).abs().mean() < 0.02 * expected.abs().mean()
