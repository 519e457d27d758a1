"""Random residual networks through all passes; RFC_FUZZ_EXAMPLES sets how many."""

from __future__ import annotations

import os

import torch
from helpers import FORMS, Capture, Walk, capture, count_ops, same_bits
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from models import timesteps, tokens
from random_models import RECIPES, random_model

from rfc_compile.estimators import ESTIMATORS
from rfc_compile.passes.flops import is_expensive

STEPS = 6
KINDS = [(name, order) for name, kind in ESTIMATORS.items() for order in kind.orders]
STORED = [
    {},
    {"cache_dtype": "bfloat16"},
    {"cache_dtype": "float8"},
    {"input_sketch": 2},
    {"input_sketch": 4, "cache_dtype": "float8"},
]
fuzz = settings(
    max_examples=int(os.environ.get("RFC_FUZZ_EXAMPLES", "8")),
    deadline=None,
    derandomize="RFC_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)


def check_graphs(captured: Capture) -> None:
    """Cached holds no op of a region, and nothing is computed twice."""
    whole, split = captured.whole, captured.split
    assert whole is not None
    assert split is not None
    assert split.probe is not None
    regions = captured.found.regions.found
    inside = sum(sum(map(is_expensive, region.nodes)) for region in regions)
    total = captured.expensive("functionalize")
    assert count_ops(whole.full.gm)[0] == total
    assert count_ops(whole.cached.gm)[0] <= total - inside
    probe = count_ops(split.probe.gm)[1]
    for name in ("full", "cached"):
        tail = count_ops(split.graphs[name].gm)[1]
        assert probe + tail == count_ops(whole.graphs[name].gm)[1]


def check_values(captured: Capture, plan: list[bool]) -> None:
    """Every form gives the same bits, at full steps those of the model."""
    walks = [Walk(captured, form) for form in FORMS]
    for step, full in enumerate([True, *plan]):
        call = (tokens(step) * 0.1 + tokens(99), timesteps(9 - step))
        outputs = [walk(*call, full=full) for walk in walks]
        if full:
            with torch.no_grad():
                assert same_bits(outputs[0][0], captured.model(*call))
        for form, ours in zip(FORMS, outputs, strict=True):
            assert same_bits(ours, outputs[0]), (form, step)


@fuzz
@given(
    recipe=RECIPES,
    seed=st.integers(0, 1000),
    kind=st.sampled_from(KINDS),
    plan=st.lists(st.booleans(), min_size=STEPS - 1, max_size=STEPS - 1),
    granularity=st.sampled_from(("module", "block", "stack")),
    stored=st.sampled_from(STORED),
)
def test_all_forms_agree(
    recipe: tuple[object, ...],
    seed: int,
    kind: tuple[str, int],
    plan: list[bool],
    granularity: str,
    stored: dict[str, object],
) -> None:
    assume(kind[1] or stored.get("cache_dtype") != "float8")
    model = random_model(recipe, seed)
    name, order = kind
    options = {"estimator": name, "order": order, "granularity": granularity}
    options |= stored
    captured = capture(model, tokens(), timesteps(9), **options)
    note(captured.functional.code)
    call = (tokens(seed), timesteps(3))
    with torch.no_grad():
        (ours,) = captured.functional(*captured.flat(*call))
        assert same_bits(ours, model(*call))
    assert captured.found.regions.found
    check_graphs(captured)
    check_values(captured, plan)
