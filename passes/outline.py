"""Each region becomes a submodule with explicit inputs and outputs.

    before                                   after
    addmm = aten.addmm(bias, view, t)        region_000_attn = self.region_000_attn(
    ...                                          bias, view, t, ...)
    view_12 = aten.view(addmm_6, ...)        getitem = region_000_attn[0]
    div = aten.div(view_12, 1.0)             div = aten.div(getitem, 1.0)

torch's own partition fuser does the cut (cycle check, stable order, metadata kept).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx
from torch.fx.passes.utils.fuser_utils import fuse_by_partitions

from rfc_compile.passes.graph import results_of
from rfc_compile.passes.records import Region

OUTLINED = "rfc_region"
"""Key of ``node.meta`` that marks the call of an outlined region."""


@dataclass(frozen=True)
class OutlinedRegion:
    """A region after outlining, kept in the meta of its call node.

    Attributes:
        name: name of the region and of its submodule.
        inputs: I, nodes of the outer graph.
        outputs: O, the ``getitem`` nodes of the call.
        input_of: for each output, the index of its input.
        bases: for each output, the stream before the region; empty where outputs are
            kept as they are.

    """

    name: str
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    input_of: tuple[int, ...]
    bases: tuple[fx.Node, ...] = ()


def outline(gm: fx.GraphModule, regions: tuple[Region, ...]) -> fx.GraphModule:
    """Move every region into a submodule named after it; same values, same order."""
    if not regions:
        return gm
    for region in regions:
        for position, node in enumerate(region.outputs):
            node.meta["rfc_output"] = position
    partitions: list[dict[fx.Node, int | None]] = [
        dict.fromkeys(region.nodes) for region in regions
    ]
    gm = fuse_by_partitions(
        gm, partitions, prefix="rfc_outline_", always_return_tuple=True
    )
    nodes = {node.name: node for node in gm.graph.nodes}  # the fuser made new ones
    calls = [
        _rename(gm, f"rfc_outline_{number}", region, nodes)
        for number, region in enumerate(regions)
    ]
    for call, region in zip(calls, regions, strict=True):
        call.meta[OUTLINED] = OutlinedRegion(
            name=region.name,
            inputs=tuple(nodes[node.name] for node in region.inputs),
            outputs=tuple(nodes[node.name] for node in region.outputs),
            input_of=region.input_of,
            bases=tuple(nodes[node.name] for node in region.bases),
        )
    gm.recompile()
    return gm


def outlined_calls(gm: fx.GraphModule) -> list[tuple[fx.Node, OutlinedRegion]]:
    """The calls of outlined regions, in graph order."""
    return [
        (node, node.meta[OUTLINED])
        for node in gm.graph.nodes
        if OUTLINED in node.meta and node.op == "call_module"
    ]


def _rename(
    gm: fx.GraphModule, old: str, region: Region, nodes: dict[str, fx.Node]
) -> fx.Node:
    """Name a submodule after its region; its outputs stand for their old nodes."""
    call: fx.Node
    (call,) = gm.graph.find_nodes(op="call_module", target=old)
    module = gm.get_submodule(old)
    assert isinstance(module, fx.GraphModule)
    gm.delete_submodule(old)
    gm.add_submodule(region.name, module)
    call.target = region.name
    call._rename(region.name)
    returned = results_of(module.graph)
    calls = {user.args[1]: user for user in call.users}
    for index, value in enumerate(returned):
        getitem = calls[index]
        getitem.meta["val"] = value.meta["val"]
        nodes[region.outputs[value.meta["rfc_output"]].name] = getitem
    call.meta["val"] = tuple(value.meta["val"] for value in returned)
    return call
