"""check_invariants: each broken invariant is found and the node named."""

from __future__ import annotations

import pytest
import torch
from capture import copy_graph, each_model, zoo_capture
from torch import fx

from rfc_compile.errors import InvariantError
from rfc_compile.passes.fx_utils import sort_stably
from rfc_compile.passes.invariants import check_invariants

aten = torch.ops.aten


@each_model
def test_every_stage_keeps_them(name: str) -> None:
    captured = zoo_capture(name)
    for stage, gm in captured.stages.items():
        if stage != "dynamo":
            check_invariants(gm)
    for specialized in (captured.whole, captured.split):
        assert specialized is not None
        for graph in specialized.graphs.values():
            check_invariants(graph.gm)


def small() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    gm = copy_graph(zoo_capture("Small").functional)
    return gm, {node.name: node for node in gm.graph.nodes}


def test_missing_value() -> None:
    gm, nodes = small()
    del nodes["mm"].meta["val"]
    with pytest.raises(InvariantError, match="mm has no meta"):
        check_invariants(gm)


def test_write_to_an_intermediate_value() -> None:
    gm, nodes = small()
    nodes["mul_1"].target = aten.mul_.Tensor
    with pytest.raises(InvariantError, match="mul_1 writes to unsqueeze_1"):
        check_invariants(gm)


@pytest.mark.parametrize(("target", "allowed"), [("arg1_1", True), ("mul_1", False)])
def test_only_inputs_are_copied_into(target: str, allowed: bool) -> None:
    gm, nodes = small()
    with gm.graph.inserting_before(gm.graph.output_node()):
        copied = gm.graph.call_function(
            aten.copy_.default, (nodes[target], nodes["mul_1"])
        )
    copied.meta["val"] = nodes["mul_1"].meta["val"]
    if allowed:
        check_invariants(gm)
        return
    with pytest.raises(InvariantError, match="not functional"):
        check_invariants(gm)


def test_wrong_order() -> None:
    gm, nodes = small()
    nodes["mul_2"].append(nodes["sin"])
    with pytest.raises(InvariantError):
        check_invariants(gm)
    sort_stably(gm)
    check_invariants(gm)


def test_stable_sort_leaves_a_sorted_graph_alone() -> None:
    gm, _ = small()
    before = [node.name for node in gm.graph.nodes]
    sort_stably(gm)
    assert [node.name for node in gm.graph.nodes] == before


def test_a_cycle_is_reported() -> None:
    gm, nodes = small()
    nodes["mul"].args = (nodes["mul"].args[0], nodes["mul_1"])
    with pytest.raises(InvariantError, match="cycle"):
        sort_stably(gm)
