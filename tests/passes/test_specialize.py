"""specialize: straight-line graphs, no work twice, values of the conditional form."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from capture import (
    FORMS,
    Capture,
    Walk,
    count_ops,
    each_model,
    same_bits,
    walk_inputs,
    zoo_capture,
)

from rfc_compile.estimators import ESTIMATORS
from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.rewrites.conditional import conditional, decide
from rfc_compile.passes.rewrites.specialize import Specialized, specialize

PLAN = (True, True, True, False, False, True, False)


def both(captured: Capture) -> tuple[Specialized, Specialized]:
    assert captured.whole is not None
    assert captured.split is not None
    return captured.whole, captured.split


def check_no_work_is_done_twice(name: str) -> None:
    whole, split = both(zoo_capture(name))
    assert split.probe is not None
    probe = count_ops(split.probe.gm)[1]
    for graph in ("full", "cached"):
        tail = count_ops(split.graphs[graph].gm)[1]
        assert probe + tail == count_ops(whole.graphs[graph].gm)[1]


def check_full_computes_what_the_model_computes_once(name: str) -> None:
    captured = zoo_capture(name)
    whole, _ = both(captured)
    wanted, ops = count_ops(captured.functional)
    found, all_ops = count_ops(whole.full.gm)
    assert found == wanted
    assert not ops - all_ops


def check_cached_holds_no_expensive_op_of_a_region(name: str) -> None:
    captured = zoo_capture(name)
    whole, split = both(captured)
    regions = captured.found.regions.found
    inside = sum(sum(map(is_expensive, region.nodes)) for region in regions)
    total = captured.expensive("functionalize")
    assert inside > 0
    # with all of them estimated, the refined text reaches nothing: nor its modulation
    unread = 1 if name == "Refined" else 0
    assert count_ops(whole.cached.gm)[0] == total - inside - unread
    assert split.probe is not None
    parts = count_ops(split.probe.gm)[0] + count_ops(split.cached.gm)[0]
    assert parts == total - inside - unread


def check_no_conditional_is_left(name: str) -> None:
    for specialized in both(zoo_capture(name)):
        for graph in specialized.graphs.values():
            for node in graph.gm.graph.nodes:
                assert node.target not in (conditional, decide)
                assert node.op in ("placeholder", "call_function", "output")


def check_writes_come_last_and_only_in_full(name: str) -> None:
    captured = zoo_capture(name)
    slots = captured.layout.slots
    for specialized in both(captured):
        for kind, graph in specialized.graphs.items():
            nodes = [n for n in graph.gm.graph.nodes if n.op == "call_function"]
            writing = [n for n in nodes if n.target is torch.ops.aten.copy_.default]
            if kind != "full":
                assert not writing
                continue
            assert nodes[-len(writing) :] == writing
            written = [node.args[0] for node in writing]
            assert len(set(written)) == len(written) <= slots


def check_every_input_can_be_routed(name: str) -> None:
    for specialized in both(zoo_capture(name)):
        known = set(specialized.inputs)
        if specialized.probe is not None:
            assert set(specialized.probe.takes) <= known
            assert specialized.probe.gives[0] not in known  # the signal
            known |= set(specialized.probe.gives)
        for kind in ("full", "cached"):
            graph = specialized.graphs[kind]
            assert set(graph.takes) <= known
            places = graph.gm.graph.find_nodes(op="placeholder")
            assert len(places) == len(graph.takes)
            assert "limit" not in graph.takes


def test_the_probe_needs_no_region_and_little_state() -> None:
    captured = zoo_capture("Block")
    _, split = both(captured)
    assert split.probe is not None
    expensive = count_ops(split.probe.gm)[0]
    assert expensive == 4  # embedding, two of the timestep's, the modulation
    assert not any("output" in name for name in split.probe.takes)


def test_the_conditional_graph_is_left_as_it_is() -> None:
    gm = zoo_capture("Block").stages["hoist_predicate"]
    before = gm.graph.python_code("self").src
    first = specialize(gm, probe=True)
    assert gm.graph.python_code("self").src == before
    second = specialize(gm, probe=True)
    for name, graph in first.graphs.items():
        again = second.graphs[name]
        assert (again.takes, again.gives) == (graph.takes, graph.gives)
        assert again.gm.code == graph.gm.code


def check_every_form_gives_the_same_bits(name: str) -> None:
    captured = zoo_capture(name)
    walks = {form: Walk(captured, form) for form in FORMS}
    for step, full in enumerate(PLAN):
        call = walk_inputs(name, step)
        outputs = {form: walk(*call, full=full) for form, walk in walks.items()}
        if full:
            with torch.no_grad():
                assert same_bits(outputs["whole"][0], captured.model(*call))
        for form in FORMS:
            assert same_bits(outputs[form], outputs["conditional"]), (form, step)
    for a, b in zip(walks["whole"].signals, walks["split"].signals, strict=True):
        assert same_bits(a, b)
    slots = [walk.state.slots for walk in walks.values()]
    assert all(same_bits(one, slots[0]) for one in slots)


@each_model
def test_every_model(name: str) -> None:
    """The graphs of every model: their work, their inputs, their values."""
    check_no_work_is_done_twice(name)
    check_full_computes_what_the_model_computes_once(name)
    check_cached_holds_no_expensive_op_of_a_region(name)
    check_no_conditional_is_left(name)
    check_writes_come_last_and_only_in_full(name)
    check_every_input_can_be_routed(name)
    check_every_form_gives_the_same_bits(name)


@pytest.mark.parametrize(
    ("estimator", "order"),
    [(name, order) for name, kind in ESTIMATORS.items() for order in kind.orders],
)
def test_every_estimator_in_every_form(estimator: str, order: int) -> None:
    captured = zoo_capture("Mixed", estimator=estimator, order=order)
    walks = [Walk(captured, form) for form in FORMS]
    cached: list[torch.Tensor] = []
    for step, full in enumerate(PLAN):
        call = walk_inputs("Mixed", step)
        outputs = [walk(*call, full=full) for walk in walks]
        assert all(same_bits(one, outputs[0]) for one in outputs)
        assert outputs[0][0].isfinite().all()
        if not full:
            cached.append(outputs[0][0])
            with torch.no_grad():
                assert not torch.equal(cached[-1], captured.model(*call))
    assert len(cached) == PLAN.count(False)


@pytest.mark.parametrize("estimator", ["rfe", "subspace"])
def test_regions_may_share_an_input(estimator: str) -> None:
    """The input's history stays as it was until the last of them has seen it."""
    captured = zoo_capture("SharedNormBlock", estimator=estimator)
    inputs = [ring for ring in captured.layout.rings if ring.name.startswith("input")]
    assert len(inputs) == 2  # for four regions
    walks = [Walk(captured, form) for form in FORMS]
    for step, full in enumerate(PLAN):
        call = walk_inputs("SharedNormBlock", step)
        outputs = [walk(*call, full=full) for walk in walks]
        assert all(same_bits(one, outputs[0]) for one in outputs)


def test_counting_ops_sees_a_difference() -> None:
    whole, _ = both(zoo_capture("Block"))
    assert count_ops(whole.full.gm)[1] != count_ops(whole.cached.gm)[1]
    assert Counter() != count_ops(whole.cached.gm)[1]
