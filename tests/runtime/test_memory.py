"""What is kept: predicted to the byte, within what was asked for, and given back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import Denoiser
from denoising import LABELS, compiled, guided_steps, small_glyph, steps_of
from options import MODULES
from torch import Tensor

import rfc_compile
from rfc_compile import Options
from rfc_compile.config.options import GRANULARITIES
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.inspection.dry_run import dry_run

KINDS = [(name, order) for name, kind in ESTIMATORS.items() for order in kind.orders]
CALL = {
    "hidden_states": torch.zeros(len(LABELS), 3, 32, 32),
    "timestep": torch.zeros(len(LABELS)),
    "class_labels": LABELS,
}


def held(model: Any) -> tuple[int, int]:
    """Bytes of state and number of CFG branches of the running trajectory."""
    stats = rfc_compile.stats(model)
    branches = len({decision.branch for decision in stats.decisions})
    return stats.cache_bytes, branches


def check_prediction(model: Any, options: dict[str, Any], branches: int) -> None:
    """Inspected, explained and held are the same bytes, in the middle of a run."""
    settings = Options.from_mapping({"inner": "eager", "min_coverage": 0.0, **options})
    inspected = dry_run(small_glyph(), CALL, settings).explanation
    names = ("cond", "empty")[:branches]
    steps = guided_steps(model, order=lambda step: names)
    for _ in range(5):
        next(steps)
    predicted = rfc_compile.explain(model).cache_bytes
    assert held(model) == (branches * predicted, branches)
    assert inspected.cache_bytes == predicted > 0


@pytest.mark.parametrize(
    ("kind", "granularity"), zip(KINDS, itertools.cycle(GRANULARITIES))
)
def test_the_state_is_predicted(kind: tuple[str, int], granularity: str) -> None:
    estimator, order = kind
    options = {"estimator": estimator, "order": order, "granularity": granularity}
    check_prediction(compiled(**options), options, 1 + order % 2)


def test_the_state_is_predicted_for_a_static_schedule() -> None:
    options = {"schedule": "interval", "estimator": "reuse"}
    check_prediction(compiled(**options), options, 2)


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "WanTransformer3DModel"])
@pytest.mark.parametrize("estimator", ["subspace", "reuse"])
def test_the_state_is_predicted_block_by_block(name: str, estimator: str) -> None:
    """Layers that follow keep no latent."""
    denoiser: Denoiser = ALL[name]
    model = denoiser.model()
    options = {"inner": "eager", "min_coverage": 0.0, "estimator": estimator}
    model.compile_repeated_blocks(backend="rfc", options=options)
    for _ in denoiser.walk(model, steps=3):
        pass
    predicted = rfc_compile.explain(model).cache_bytes
    assert held(model) == (predicted, 1)
    assert predicted > 0


STATIC = {"schedule": "interval", "interval": 4, "warmup": 2, "corrector": "off"}


def checked_run(model: Any, plain: Any) -> Tensor:
    """Latents of a run whose full steps are those of the plain model, bit for bit."""

    def denoise(x: Tensor, **given: Any) -> Any:
        result = model(x, **given)
        if rfc_compile.stats(model).decisions[-1].full:
            assert torch.equal(result.sample, plain(x, **given).sample)
        assert result.sample.dtype == x.dtype
        return result

    return torch.stack(list(steps_of(denoise)))


@pytest.mark.parametrize(
    ("estimator", "granularity"),
    [("subspace", "module"), ("rfe", "block"), ("taylor", "module")],
)
def test_a_smaller_dtype_is_nearly_as_good(estimator: str, granularity: str) -> None:
    """Full steps are exact, cached ones close, and the state as small as predicted."""
    errors, sizes = {}, {}
    plain = small_glyph()
    expected = torch.stack(list(steps_of(plain)))
    for dtype in (None, "bfloat16", "float16"):
        options = {**STATIC, "estimator": estimator, "granularity": granularity}
        model = compiled(cache_dtype=dtype, **options)
        found = checked_run(model, plain)
        assert {d.full for d in rfc_compile.stats(model).decisions} == {True, False}
        errors[dtype] = float((found - expected).norm())
        sizes[dtype] = rfc_compile.explain(model).cache_bytes
    assert 0 < max(errors.values()) < 1.25 * errors[None]
    assert sizes[None] > sizes["bfloat16"] == sizes["float16"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_smaller_dtype_is_predicted(dtype: str) -> None:
    options = {**MODULES, "cache_dtype": dtype}
    model = compiled(**options)
    check_prediction(model, options, 2)
    explanation = rfc_compile.explain(model)
    latent = len(LABELS) * 3 * 32 * 32 * 4
    of_regions = sum(region.cache_bytes for region in explanation.regions)
    assert of_regions + latent == explanation.cache_bytes
    layout = dispatchers_of(model)[-1]._layout
    kept = {ring.name: ring.example.dtype for ring in layout.rings}
    assert {d for name, d in kept.items() if "statistics" in name} == {torch.float32}
    assert {d for name, d in kept.items() if "latent" in name} == {torch.float32}
    assert list(kept.values()).count(torch.float32) > 5  # the watched input and more
