"""What is kept: predicted to the byte, within what was asked for, and given back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import Denoiser
from denoising import LABELS, compiled, guided_steps, small_glyph

import rfc_compile
from rfc_compile import Options
from rfc_compile.dry_run import dry_run
from rfc_compile.estimators import ESTIMATORS

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


@pytest.mark.parametrize("granularity", ["module", "block", "stack"])
@pytest.mark.parametrize(("estimator", "order"), KINDS)
def test_the_state_is_predicted(estimator: str, order: int, granularity: str) -> None:
    branches = 1 + (granularity != "block")
    options = {"estimator": estimator, "order": order, "granularity": granularity}
    check_prediction(compiled(**options), options, branches)


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
