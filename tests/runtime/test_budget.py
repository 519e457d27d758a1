"""memory_budget: the state stays within it, or the model runs uncached and says so."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Stack, build, timesteps, tokens
from options import MODULES
from random_models import RECIPES, Recipe, random_model
from torch import nn
from whole_models import FromLinear

import rfc_compile
from rfc_compile import Explanation, Options, UncachedWarning
from rfc_compile.tools.inspection.dry_run import dry_run

OPTIONS = {
    **MODULES,
    "estimator": "subspace",  # of merged regions too
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
}
KINDS = st.sampled_from(
    [
        {},
        {"estimator": "taylor", "order": 1},
        {"cache_dtype": "float8"},
        {"input_sketch": 2},
    ]
)


class Deep(Stack):
    """Four blocks."""

    depth = 4


def planned(model: nn.Module, **options: Any) -> Explanation:
    """What would be done, without running it."""
    call = (tokens(), timesteps(9))
    return dry_run(model, call, Options(**{**OPTIONS, **options})).explanation


def check_run(model: nn.Module, budget: int, options: dict[str, Any]) -> Explanation:
    """A run whose full steps are exact and whose state is the one predicted."""
    given_options = {**OPTIONS, **options, "memory_budget": budget}
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="rfc", options=given_options)
    for step in range(6):
        call = (tokens(step) * 0.1 + tokens(99), timesteps(20 - step))
        with torch.no_grad():
            found, exact = compiled(*call), model(*call)
        decisions = rfc_compile.stats(compiled).decisions
        if not decisions or decisions[-1].full:
            assert torch.equal(found.isnan(), exact.isnan())
            assert torch.equal(found.nan_to_num(), exact.nan_to_num())
    explanation = rfc_compile.explain(compiled)
    stats = rfc_compile.stats(compiled)
    branches = len({decision.branch for decision in stats.decisions})
    assert stats.cache_bytes == branches * explanation.cache_bytes
    return explanation


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    recipe=RECIPES,
    seed=st.integers(0, 1000),
    kind=KINDS,
    granularity=st.sampled_from(["module", "block", "stack"]),
    share=st.floats(0.05, 1.1),
)
def test_within_the_budget_or_uncached(
    recipe: Recipe,
    seed: int,
    kind: dict[str, Any],
    granularity: str,
    share: float,
) -> None:
    model = random_model(recipe, seed)
    options = {**kind, "granularity": granularity}
    usual = planned(model, **options)
    budget = max(1, int(share * usual.cache_bytes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UncachedWarning)
        found = check_run(model, budget, options)
    if found.regions:
        assert 0 < found.cache_bytes <= budget
        assert (
            found.cache_bytes
            == planned(model, **options, memory_budget=budget).cache_bytes
        )
        merged = any("memory_budget" in text for text in found.notes)
        assert merged == (usual.cache_bytes > budget)
    elif usual.regions:
        (reason,) = found.fallbacks
        assert f"{budget} bytes are too few" in reason


def test_blocks_are_merged_before_any_region_is_left_out() -> None:
    """As the budget shrinks: single blocks, runs of blocks, all, and then nothing."""
    model = build(Deep)
    usual = planned(model)
    done, sizes, counts = [], [], []
    budget = usual.cache_bytes
    while True:
        found = planned(model, memory_budget=budget)
        if not found.regions:
            break
        assert found.cache_bytes <= budget
        assert not found.refused
        sizes.append(found.cache_bytes)
        counts.append(len(found.regions))
        done += [text.rpartition(": ")[2] for text in found.notes]
        budget = found.cache_bytes - 1
    assert done == [
        *(f"{number} of 4 blocks merged" for number in range(1, 5)),
        *(f"runs of {number} blocks merged" for number in (2, 4)),
    ]
    assert counts == [8, 7, 6, 5, 4, 2, 1]
    assert sizes == sorted(set(sizes), reverse=True)
    (reason,) = found.fallbacks
    assert reason.endswith(f"takes {sizes[-1]} or more")
    assert planned(model, granularity="stack").cache_bytes == sizes[-1]


def test_a_budget_that_is_large_enough_changes_nothing() -> None:
    model = build(Deep)
    assert planned(model, memory_budget="1 GB") == planned(model)
    note = planned(model, memory_budget="10 KiB").notes[0]
    size = planned(model).cache_bytes
    assert note.startswith(f"memory_budget='10 KiB': {size} bytes became ")


def test_too_small_a_budget_warns() -> None:
    model = torch.compile(
        build(Deep), backend="rfc", options={**OPTIONS, "memory_budget": 100}
    )
    with torch.no_grad(), pytest.warns(UncachedWarning, match="100 bytes are too few"):
        model(tokens(), timesteps(9))
    assert not rfc_compile.explain(model).regions


def test_regions_are_left_out_last() -> None:
    """Two parts that cannot be one region: the one that saves less runs every step."""
    model = build(FromLinear)
    whole = planned(model, granularity="stack")
    assert len(whole.regions) == 2
    found = check_run(model, whole.cache_bytes - 1, {"granularity": "stack"})
    (kept,) = found.regions
    assert kept.flops == max(region.flops for region in whole.regions)
    assert found.cache_bytes < whole.cache_bytes
    assert [item.reason for item in found.refused] == [
        "memory_budget: it runs at every step"
    ]
    with pytest.warns(UncachedWarning, match="regions hold .* less than min_coverage"):
        check_run(
            model, whole.cache_bytes - 1, {"granularity": "stack", "min_coverage": 0.9}
        )
