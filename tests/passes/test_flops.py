"""flops: torch's own counter on the running model, and formulas by hand."""

from __future__ import annotations

import pytest
import torch
from capture import zoo_capture
from models import TOKENS, WIDTH
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from rfc_compile.passes.analysis.flops import (
    flops,
    is_attention,
    is_conv,
    is_expensive,
    is_matmul_of_activations,
)

BATCH = 2
NO_FUSED_ATTENTION = ("MatmulBlock", "Small")


@pytest.mark.parametrize("name", NO_FUSED_ATTENTION)
def test_total_equals_torchs_counter(name: str) -> None:
    captured = zoo_capture(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        captured.model(*captured.call)
    assert captured.found.regions.flops == counter.get_total_flops()
    assert captured.found.regions.flops > 0


def test_by_hand() -> None:
    """Fused attention on a CPU is not in torch's registry."""
    attention, mlp, *_ = zoo_capture("Block").found.regions.found
    rows = BATCH * TOKENS
    assert mlp.flops == 2 * rows * WIDTH * 2 * WIDTH * 2
    projections = 2 * rows * WIDTH * (3 * WIDTH + WIDTH)
    assert attention.flops == projections + 2 * BATCH * 2 * TOKENS * TOKENS * WIDTH


def test_depthwise_convolution_is_cheap_per_channel() -> None:
    conv = zoo_capture("ConvBlock").found.regions.found[1]
    rows, hidden = BATCH * TOKENS, 2 * WIDTH
    pointwise = 2 * rows * WIDTH * hidden * 2
    assert conv.flops >= pointwise


def test_coverage_is_the_share_inside() -> None:
    regions = zoo_capture("Small").found.regions
    assert regions.coverage == 1.0
    assert 0 < zoo_capture("LeakingBlock").found.regions.coverage < 0.5


def test_kinds_of_nodes() -> None:
    gm = zoo_capture("MatmulBlock").functional
    static = frozenset(n for n in gm.graph.nodes if n.op == "placeholder")
    calls = [n for n in gm.graph.nodes if n.op == "call_function"]
    assert sum(is_matmul_of_activations(node, static) for node in calls) == 4
    assert not any(map(is_attention, calls))
    fused = zoo_capture("Block").functional.graph.nodes
    assert sum(map(is_attention, fused)) == 2
    assert sum(map(is_conv, zoo_capture("ConvBlock").functional.graph.nodes)) == 6


def test_cheap_nodes_cost_nothing() -> None:
    for node in zoo_capture("Joint").functional.graph.nodes:
        assert (flops(node) > 0) == is_expensive(node)


def test_blocks_are_entries_of_lists_that_hold_more_than_a_layer() -> None:
    assert zoo_capture("Block").found.block_flops == sum(
        region.flops for region in zoo_capture("Block").found.regions.found
    )  # neither the embedding nor layers of an nn.Sequential in it


def test_a_graph_without_blocks_is_a_block() -> None:
    found = zoo_capture("Small").found
    assert found.block_flops == found.regions.flops


def test_matmuls_of_experts_count() -> None:
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    x.meta["val"] = torch.empty(6, 4)
    weight.meta["val"] = torch.empty(3, 4, 5)
    node = graph.call_function(torch.ops.aten._grouped_mm.default, (x, weight))
    node.meta["val"] = torch.empty(6, 5)
    assert flops(node) == 2 * 6 * 4 * 5
