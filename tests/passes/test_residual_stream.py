"""residual_stream: every residual add, nothing else, and no change to the graph."""

from __future__ import annotations

import pytest
import torch
from capture import Capture, copy_graph, each_model, zoo_capture
from model_zoo import ZOO
from torch import fx, nn

from rfc_compile.passes.analysis.residual_stream import ResidualAdd, residual_stream
from rfc_compile.passes.fx_utils import Ancestry

ADDS = {
    "Block": 4,
    "MatmulBlock": 4,
    "RotatedBlock": 4,
    "ConvBlock": 4,
    "RoutedBlock": 4,
    "CrossBlock": 6,
    "ParallelBlock": 2,
    "TwoGateBlock": 4,
    "SummedBlock": 4,
    "SharedNormBlock": 4,
    "PostNormBlock": 4,
    "AddcmulBlock": 4,
    "WholeBlock": 4,  # each inner sum counts; find_regions folds it in
    "NestedBlock": 6,
    "LeakingBlock": 4,
    "LoneLinearBlock": 6,
    "PermutedBlock": 4,
    "GatedAttentionBlock": 4,
    "LinearAttentionBlock": 4,
    "TwoWayBlock": 6,
    "Joint": 6,
    "TextFirst": 6,
    "Refined": 8,
    "BareText": 5,
    "Chained": 5,
    "Packed": 6,
    "Crossed": 4,
    "FromLinear": 5,
    "LongSkip": 5,
    "TimeOnly": 4,
    "Mixed": 3,
    "Half": 2,
    "Images": 4,
    "Small": 2,
    "WindowBlock": 4,
    "OpaqueBlock": 4,
    "Mapped": 4,  # none on the conditioning
    "Pooled": 4,
    "Decoupled": 6,
    "Guided": 8,
    "EncoderLayers": 4,
    "GatedSkips": 8,
}


def find(captured: Capture) -> tuple[ResidualAdd, ...]:
    gm = captured.functional
    names = {node.name for node in captured.found.inputs.sources}
    sources = frozenset(node for node in gm.graph.nodes if node.name in names)
    return residual_stream(gm, sources, Ancestry(gm.graph))


def test_every_model_is_listed() -> None:
    assert set(ADDS) == set(ZOO)


@each_model
def test_counts_and_analysis_only(name: str) -> None:
    captured = zoo_capture(name)
    before = captured.functional.graph.python_code("self").src
    adds = find(captured)
    assert len(adds) == ADDS[name]
    assert captured.functional.graph.python_code("self").src == before
    ancestry = Ancestry(captured.functional.graph)
    for add in adds:
        assert add.expensive
        assert ancestry.depends(add.branch, add.stream)
        assert add.branch in add.node.all_input_nodes


def test_the_chain_of_streams() -> None:
    adds = find(zoo_capture("Block"))
    assert [add.stream for add in adds[1:]] == [add.node for add in adds[:-1]]


def test_parallel_branches_share_their_stream() -> None:
    first, second, *_ = find(zoo_capture("SummedBlock"))
    assert first.stream is second.stream
    assert second.node.args[0] is first.node


def test_without_sources_there_is_no_stream() -> None:
    gm = zoo_capture("Block").functional
    assert residual_stream(gm, frozenset(), Ancestry(gm.graph)) == ()


@pytest.mark.parametrize(
    ("change", "count"), [({"alpha": 2}, 1), ({"alpha": 1}, 2), ({}, 2)]
)
def test_a_scaled_add_is_not_residual(change: dict[str, int], count: int) -> None:
    gm = copy_graph(zoo_capture("Small").functional)
    adds = gm.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    adds[0].kwargs = change
    sources = frozenset(n for n in gm.graph.nodes if n.op == "placeholder")
    assert len(residual_stream(gm, sources, Ancestry(gm.graph))) == count


def test_operands_of_another_shape_are_no_residual() -> None:
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, 6, 4)
    weight = graph.placeholder("weight")
    weight.meta["val"] = torch.empty(4, 4)
    mean = graph.call_function(torch.ops.aten.mean.dim, (x, [1]))
    mean.meta["val"] = torch.empty(2, 4)
    mm = graph.call_function(torch.ops.aten.mm.default, (mean, weight))
    mm.meta["val"] = torch.empty(2, 4)
    wide = graph.call_function(torch.ops.aten.unsqueeze.default, (mm, 1))
    wide.meta["val"] = torch.empty(2, 1, 4)
    add = graph.call_function(torch.ops.aten.add.Tensor, (x, wide))
    add.meta["val"] = torch.empty(2, 6, 4)
    graph.output((add,))
    gm = fx.GraphModule(Broadcast(), graph)
    assert residual_stream(gm, frozenset({x}), Ancestry(graph)) == ()
