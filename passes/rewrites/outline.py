"""Each region becomes a submodule with explicit inputs and outputs.

    before                                   after
    addmm = aten.addmm(bias, view, t)        region_000_attn = self.region_000_attn(
    ...                                          bias, view, t, ...)
    view_12 = aten.view(addmm_6, ...)        getitem = region_000_attn[0]
    div = aten.div(view_12, 1.0)             div = aten.div(getitem, 1.0)

Nodes keep their metadata, and move only as far as the operands of a call need.
"""

from __future__ import annotations

import operator
from dataclasses import replace

from torch import fx

from rfc_compile.passes.analysis.records import Region
from rfc_compile.passes.fx_utils import part_of, sort_stably

OUTLINED = "rfc_region"
"""Key of ``node.meta`` of a call, with its region: nodes as they are now outside."""


def outline(gm: fx.GraphModule, regions: tuple[Region, ...]) -> fx.GraphModule:
    """Move every region into a submodule named after it; same values, same order."""
    calls: list[fx.Node] = []
    outside: dict[fx.Node, fx.Node] = {}
    for region in regions:
        call, outputs = _move(gm, region)
        calls.append(call)
        outside.update(zip(region.outputs, outputs, strict=True))
    for call, region in zip(calls, regions, strict=True):
        call.meta[OUTLINED] = replace(
            region,
            inputs=tuple(outside.get(node, node) for node in region.inputs),
            outputs=tuple(outside[node] for node in region.outputs),
            bases=tuple(outside.get(node, node) for node in region.bases),
            nodes=(),
            adds=(),
        )
    if regions:
        sort_stably(gm)
        gm.recompile()
    return gm


def outlined_calls(gm: fx.GraphModule) -> list[tuple[fx.Node, Region]]:
    """The calls of outlined regions, in graph order."""
    return [
        (node, node.meta[OUTLINED])
        for node in gm.graph.nodes
        if OUTLINED in node.meta and node.op == "call_module"
    ]


def _move(gm: fx.GraphModule, region: Region) -> tuple[fx.Node, list[fx.Node]]:
    """Outline one region: its call and the replacement of each output."""
    inside = set(region.nodes)
    operands = dict.fromkeys(
        operand
        for node in region.nodes
        for operand in node.all_input_nodes
        if operand not in inside
    )
    taken = {operand.name: operand for operand in operands}
    gm.add_submodule(region.name, part_of(gm, taken, region.nodes, region.outputs))
    with gm.graph.inserting_after(region.nodes[-1]):
        call = gm.graph.call_module(region.name, tuple(operands))
    call._rename(region.name)
    call.meta["val"] = tuple(node.meta["val"] for node in region.outputs)
    outputs = []
    with gm.graph.inserting_before(call.next):
        for position, node in enumerate(region.outputs):
            result = gm.graph.call_function(operator.getitem, (call, position))
            result.meta = dict(node.meta)
            node.replace_all_uses_with(result)
            outputs.append(result)
    for node in reversed(region.nodes):
        gm.graph.erase_node(node)
    return call, outputs
