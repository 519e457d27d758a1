"""Random residual networks through all passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from capture import FORMS, Capture, Walk, capture, copy_graph, count_ops, same_bits
from fuzzing import fuzz
from hypothesis import assume, event, note
from hypothesis import strategies as st
from models import timesteps
from random_models import AFFINE_RECIPES, ANY_RECIPES, Recipe, random_model
from torch import Tensor, fx

from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.step_weights import coefficients_tensor
from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.fx_utils import remove_dead_code
from rfc_compile.passes.rewrites.fold_repeats import fold_repeats
from rfc_compile.passes.rewrites.functionalize import functionalize
from rfc_compile.passes.rewrites.hoist_predicate import hoist_predicate
from rfc_compile.passes.rewrites.outline import outline
from rfc_compile.passes.rewrites.retrace import trace_by_op
from rfc_compile.passes.rewrites.small_matmuls import small_matmuls

pytestmark = pytest.mark.slow

STEPS = 6
KINDS = [(name, order) for name, kind in ESTIMATORS.items() for order in kind.orders]
STORED = [{}, {"cache_dtype": "bfloat16"}, {"cache_dtype": "float16"}]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""What the order of sums may change."""

SEEDS = st.integers(0, 1000)
GRANULARITIES = st.sampled_from(("module", "block", "stack"))
PLANS = st.lists(st.booleans(), min_size=STEPS - 1, max_size=STEPS - 1)


def captured_of(
    recipe: Recipe, seed: int, kind: tuple[str, int], batch: int = 2, **options: Any
) -> Capture:
    """All graphs of a random model; the example is thrown away if it has no region."""
    model = random_model(recipe, seed)
    call = recipe.latent(0, batch), timesteps(9, batch)
    chosen = {"estimator": kind[0], "order": kind[1], **options}
    captured = capture(model, *call, **chosen)
    note(captured.functional.code)
    regions = captured.found.regions
    assert regions.found or regions.refused, "no branch was looked at"
    event("has regions" if regions.found else "all refused")
    with torch.no_grad():
        ours = captured.functional(*captured.flat(*call))
        assert same_bits(ours, results(model(*call)))
    assume(regions.found)
    return captured


def results(returned: Any) -> list[Tensor]:
    """What a forward returns, as a list."""
    return [returned] if isinstance(returned, Tensor) else list(returned)


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
    assert not read_by_regions_alone(captured) & set(whole.cached.takes)
    probe = count_ops(split.probe.gm)[1]
    for name in ("full", "cached"):
        tail = count_ops(split.graphs[name].gm)[1]
        assert probe + tail == count_ops(whole.graphs[name].gm)[1]


def read_by_regions_alone(captured: Capture) -> set[str]:
    """Names of the weights that no node outside the regions reads."""
    inside = {n.name for region in captured.found.regions.found for n in region.nodes}
    return {
        node.name
        for node in captured.functional.graph.find_nodes(op="placeholder")
        if node.users and {user.name for user in node.users} <= inside
    }


def check_values(captured: Capture, recipe: Recipe, plan: Sequence[bool]) -> None:
    """Every form gives the same bits, at full steps those of the model."""
    walks = [Walk(captured, form) for form in FORMS]
    for step, full in enumerate([True, *plan]):
        call = (recipe.latent(step) * 0.1 + recipe.latent(99), timesteps(9 - step))
        outputs = [walk(*call, full=full) for walk in walks]
        if full:
            with torch.no_grad():
                assert same_bits(outputs[0], results(captured.model(*call)))
        for form, ours in zip(FORMS, outputs, strict=True):
            assert same_bits(ours, outputs[0]), (form, step)


@fuzz(
    5,
    recipe=ANY_RECIPES,
    seed=SEEDS,
    kind=st.sampled_from(KINDS),
    plan=PLANS,
    granularity=GRANULARITIES,
    stored=st.sampled_from(STORED),
)
def test_all_forms_agree(
    recipe: Recipe,
    seed: int,
    kind: tuple[str, int],
    plan: list[bool],
    granularity: str,
    stored: dict[str, object],
) -> None:
    captured = captured_of(recipe, seed, kind, granularity=granularity, **stored)
    check_graphs(captured)
    check_values(captured, recipe, plan)
    check_second_runs(captured)


def check_second_runs(captured: Capture) -> None:
    """A pass changes nothing in what it, or a later one, has made."""
    functional = captured.functional
    fakes = [n.meta["val"] for n in functional.graph.find_nodes(op="placeholder")]
    again = functionalize(copy_graph(functional), fakes, captured.fake_mode)
    assert shape_of(again) == shape_of(functional)
    with captured.fake_mode, torch.no_grad():
        by_op = trace_by_op(captured.stages["dynamo"], fakes)
    event("traced as a whole" if by_op is None else "traced op by op")
    if by_op is not None:
        remove_dead_code(by_op)
        assert shape_of(by_op) == shape_of(functional)
    hoisted = copy_graph(captured.stages["hoist_predicate"])
    before = shape_of(hoisted)
    assert hoist_predicate(outline(hoisted, ())) is hoisted
    assert shape_of(hoisted) == before
    assert captured.split is not None
    for graph in captured.split.graphs.values():
        gm = copy_graph(graph.gm)
        given = [
            like(node.meta["val"]) for node in gm.graph.find_nodes(op="placeholder")
        ]
        expected = gm(*given)
        for _ in range(2):
            before = shape_of(gm)
            fold_repeats(small_matmuls(gm, captured.fake_mode))
        assert shape_of(gm) == before
        for ours, theirs in zip(gm(*given), expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE, equal_nan=True)


def like(value: Tensor) -> Tensor:
    """Positive numbers in the form of a fake tensor."""
    generator = torch.Generator().manual_seed(value.numel())
    return torch.rand(value.shape, generator=generator).to(value.dtype)


def shape_of(gm: fx.GraphModule) -> list[tuple[str, str, list[int]]]:
    """The nodes of a graph, each with its operands by number."""
    number = {node: i for i, node in enumerate(gm.graph.nodes)}
    return [
        (node.op, str(node.target), [number[n] for n in node.all_input_nodes])
        for node in gm.graph.nodes
    ]


COEFFICIENTS = st.lists(
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=STEPS, max_size=STEPS
)
"""How far the latent goes along two directions from step to step."""


@fuzz(
    4,
    recipe=AFFINE_RECIPES,
    seed=SEEDS,
    kind=st.sampled_from([k for k in KINDS if k[0] in ("rfe", "subspace")]),
    granularity=GRANULARITIES,
    plan=PLANS,
    moves=COEFFICIENTS,
)
def test_exact_where_affine(
    recipe: Recipe,
    seed: int,
    kind: tuple[str, int],
    granularity: str,
    plan: list[bool],
    moves: list[tuple[float, float]],
) -> None:
    """Proposition 1 for norms; ``subspace`` needs no fixed direction."""
    name, order = kind
    if name == "rfe" or order == 1:  # straight on, never back
        moves = [(0.3 + abs(along), 0.0) for along, _ in moves]
    captured = captured_of(recipe, seed, kind, granularity=granularity, ridge=0.0)
    walk = Walk(captured, "whole")
    places = np.cumsum(moves, axis=0)
    start, *directions = (recipe.latent(i) for i in (1, 2, 3))
    for step, full in enumerate([True, *plan]):
        steps = zip(places[step], directions, strict=True)
        latent = start + sum(float(along) * by for along, by in steps)
        known = determined(name, order, step, walk.state.full_steps, places)
        (ours,) = walk(latent, timesteps(9), full=full)
        if known or full:
            with torch.no_grad():
                exact = captured.model(latent, timesteps(9))
            torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3)


def determined(
    name: str, order: int, step: int, full: Sequence[int], places: np.ndarray
) -> bool:
    """Whether the history says where the latent is, and clearly so."""
    kept = places[list(full[: order + 1])]
    changes = kept[:-1] - kept[1:]
    if name == "rfe":
        taylor, _ = coefficients_tensor(step, full, order)
        ahead = sum(w * c[0] for w, c in zip(taylor, changes, strict=False))
        return len(changes) > 0 and ahead > 0.05
    wanted = 2 if places[:, 1].any() else 1
    sizes = np.linalg.svd(changes, compute_uv=False) if len(changes) else [0.0]
    return len(sizes) >= wanted and sizes[wanted - 1] > 0.3


BATCH = 4
TOLERANCES = {None: 1e-4, "bfloat16": 0.05}


@fuzz(
    4,
    recipe=ANY_RECIPES,
    seed=SEEDS,
    kind=st.sampled_from(KINDS),
    granularity=GRANULARITIES,
    stored=st.sampled_from([{}, {"cache_dtype": "bfloat16"}]),
    plan=PLANS,
    rows=st.lists(st.integers(0, BATCH - 1), min_size=1, unique=True),
)
def test_samples_do_not_see_their_batch_mates(
    recipe: Recipe,
    seed: int,
    kind: tuple[str, int],
    granularity: str,
    stored: dict[str, Any],
    plan: list[bool],
    rows: list[int],
) -> None:
    """Samples put in another order, or left out, leave the others as they were."""
    stored = {"granularity": granularity, **stored}
    together = Walk(captured_of(recipe, seed, kind, BATCH, **stored), "split")
    alone = Walk(captured_of(recipe, seed, kind, len(rows), **stored), "split")
    close = TOLERANCES[stored.get("cache_dtype")]
    for step, full in enumerate([True, *plan]):
        latent = recipe.latent(step, BATCH) * 0.1 + recipe.latent(99, BATCH)
        found = together(latent, timesteps(9 - step, BATCH), full=full)
        own = alone(latent[rows], timesteps(9 - step, len(rows)), full=full)
        for whole, part in zip(found, own, strict=True):
            torch.testing.assert_close(part, whole[rows], rtol=close, atol=close)
