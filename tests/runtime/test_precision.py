"""Weights of other types: half precision, autocast, quantized."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import (
    DIT,
    FLUX,
    FORMS,
    QWEN,
    WAN,
    compare,
    compiled,
    flux_and_wan,
    of_dtype,
    twin,
)
from denoisers.base import Denoiser
from options import MODULES
from torch import nn

import rfc_compile


@pytest.mark.parametrize(
    ("denoiser", "dtype"),
    [
        pytest.param(FLUX, torch.bfloat16, id="flux-bf16"),
        pytest.param(DIT, torch.float16, id="dit-fp16"),
        pytest.param(FLUX, torch.float16, id="flux-fp16", marks=pytest.mark.nightly),
        pytest.param(WAN, torch.float16, id="wan-fp16", marks=pytest.mark.nightly),
        pytest.param(QWEN, torch.bfloat16, id="qwen-bf16", marks=pytest.mark.nightly),
    ],
)
def test_half_precision(denoiser: Denoiser, dtype: torch.dtype) -> None:
    """Full steps are the eager model's, bit for bit; cached ones are close."""
    half = of_dtype(denoiser, dtype)
    model = denoiser.model().to(dtype)
    rfc = compiled(model, **MODULES)
    compare(half, rfc, model).check()
    assert len(rfc_compile.explain(rfc).regions) == denoiser.regions


@flux_and_wan
def test_half_precision_block_by_block(denoiser: Denoiser) -> None:
    half = of_dtype(denoiser, torch.bfloat16)
    model = denoiser.model().to(torch.bfloat16)
    eager = twin(model)
    compare(half, compiled(model, "blocks"), eager).check()


@pytest.mark.parametrize("denoiser", [WAN, QWEN, DIT], ids=["wan", "qwen", "dit"])
def test_autocast_of_a_float32_model(denoiser: Denoiser) -> None:
    model = denoiser.model()
    rfc = compiled(model, **MODULES)
    with torch.autocast("cpu", torch.bfloat16):
        compare(denoiser, rfc, model).check()
    assert len(rfc_compile.explain(rfc).regions) == denoiser.regions


def test_autocast_block_by_block() -> None:
    model = FLUX.model()
    eager = twin(model)
    rfc = compiled(model, "blocks")
    with torch.autocast("cpu", torch.bfloat16):
        compare(FLUX, rfc, eager).check()


def test_autocast_switched_on_and_off() -> None:
    """With and without autocast are two graphs, each with values of its own."""
    model = FLUX.model()
    rfc = compiled(model)
    compare(FLUX, rfc, model).check()
    with torch.autocast("cpu", torch.bfloat16):
        compare(FLUX, rfc, model).check()
    compare(FLUX, rfc, model).check()


def test_another_type_in_the_life_of_a_model() -> None:
    """``model.to(dtype)`` after a run: nothing of the other type is used."""
    model = FLUX.model()
    rfc = compiled(model)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        model.to(dtype)
        compare(of_dtype(FLUX, dtype), rfc, model).check()


@pytest.fixture
def quantize() -> Any:
    """Makes the linears of a model int8, weights only."""
    quantization = pytest.importorskip("torchao.quantization")

    def quantized(model: nn.Module) -> nn.Module:
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        return model

    return quantized


@pytest.mark.parametrize("form", FORMS)
@flux_and_wan
def test_int8_weights(quantize: Any, denoiser: Denoiser, form: str) -> None:
    """Regions hold the operations on the tensors inside a quantized weight."""
    model = quantize(denoiser.model())
    eager = twin(model)
    rfc = compiled(model, form, **MODULES)
    compare(denoiser, rfc, eager).check()
    explanation = rfc_compile.explain(rfc)
    assert explanation.block_coverage > 0.9
    assert not explanation.uncached_reasons
    if form == "whole":
        assert len(explanation.regions) == denoiser.regions


def test_float8_weights() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = FLUX.model()
    quantization.quantize_(model, quantization.Float8WeightOnlyConfig())
    rfc = compiled(model, **MODULES)
    compare(FLUX, rfc, model).check()
    assert len(rfc_compile.explain(rfc).regions) == FLUX.regions
    assert not rfc_compile.explain(rfc).uncached_reasons


def test_int8_weights_may_move(quantize: Any) -> None:
    """Moving swaps a quantized weight, which nothing else may refer to then."""
    model = quantize(FLUX.model())
    rfc = compiled(model)
    compare(FLUX, rfc, model).check()
    model.to(torch.bfloat16)
    compare(of_dtype(FLUX, torch.bfloat16), rfc, model).check()


def test_int8_weights_with_a_probe(quantize: Any) -> None:
    model = quantize(FLUX.model())
    rfc = compiled(model, schedule="rcs", threshold=1.0)
    run = compare(FLUX, rfc, model)
    assert {"F", "C"} == set(run.kinds)
    run.check(run.kinds)


def _quantized_flux(config: str) -> tuple[Denoiser, nn.Module]:
    """In the type that the config wants, wide enough that it takes every linear."""
    quantization = pytest.importorskip("torchao.quantization")
    model = FLUX.model().to(torch.bfloat16)
    quantization.quantize_(model, getattr(quantization, config)())
    return of_dtype(FLUX, torch.bfloat16), model


CONFIGS = [
    "Int8WeightOnlyConfig",
    "Int8DynamicActivationInt8WeightConfig",
    "Float8WeightOnlyConfig",
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("granularity", ["module", "stack"])
def test_quantized_weights_in_half_precision(config: str, granularity: str) -> None:
    """Regions are found, full steps are the model's own, cached ones are close."""
    denoiser, model = _quantized_flux(config)
    eager = twin(model)
    rfc = compiled(model, granularity=granularity)
    compare(denoiser, rfc, eager).check()
    explanation = rfc_compile.explain(rfc)
    assert not explanation.uncached_reasons
    assert explanation.block_coverage > 0.9
    assert len(explanation.regions) == (FLUX.regions if granularity == "module" else 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_defaults_on_quantized_weights(config: str) -> None:
    """With the corrector and error control: noise of rounding is not extrapolated."""
    denoiser, model = _quantized_flux(config)
    eager = twin(model)
    rfc = torch.compile(model, backend="rfc", options={"inner": "eager"})
    run = compare(denoiser, rfc, eager)
    cached = [e for e, kind in zip(run.errors, run.kinds, strict=True) if kind == "C"]
    assert cached
    assert max(run.errors) < 0.2, run
