"""From residual adds to regions: what is skipped at a cached step.

A region is the set of nodes that die when the branch values of its residual adds are
supplied from outside, less the cheap front that computes its inputs:

    x ---------------------------------------------------- add
    norm - modulate = I | linear - attention - linear | = O - gate mul -'
      (stays, cheap)    |           region            |   (stays, cheap)

Regions that share an expensive node are one region with several inputs and outputs
(joint attention). What looks like a region and is not one becomes a ``Refusal``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from torch import fx

from rfc_compile.passes.analysis.candidates import region_or_refusal
from rfc_compile.passes.analysis.flops import flops, is_expensive
from rfc_compile.passes.analysis.long_skips import reached, without_long_skips
from rfc_compile.passes.analysis.records import Refusal, Region, Regions
from rfc_compile.passes.analysis.residual_stream import ResidualAdd
from rfc_compile.passes.fx_utils import Ancestry


def find_regions(
    gm: fx.GraphModule,
    adds: Sequence[ResidualAdd],
    ancestry: Ancestry,
    static: frozenset[fx.Node],
) -> Regions:
    """Group residual adds into regions (analysis only).

    ``static`` are the placeholders of parameters and buffers.
    """
    refused: list[Refusal] = []
    kept, streams = without_long_skips(adds, ancestry, refused)
    found: list[Region] = []
    taken: set[fx.Node] = set()
    for candidate in _candidates(kept, ancestry, static, streams):
        if isinstance(candidate, Refusal):
            refused.append(candidate)
        elif not taken.isdisjoint(candidate.nodes):
            refused.append(Refusal(candidate.module, "it overlaps another region"))
        else:
            found.append(candidate)
            taken.update(candidate.nodes)
    found.sort(key=lambda region: ancestry.index[region.inputs[0]])
    found = without_cycles(found, ancestry, refused)
    return Regions(
        found=tuple(numbered(found)),
        refused=tuple(refused),
        flops=sum(flops(node) for node in gm.graph.nodes),
    )


def _candidates(
    adds: Sequence[ResidualAdd],
    ancestry: Ancestry,
    static: frozenset[fx.Node],
    streams: frozenset[fx.Node],
) -> Iterator[Region | Refusal]:
    """Every group of adds that share expensive nodes, as a region or a refusal.

    An expensive node belongs to the branches that lead to it from their own stream,
    with no other stream between; a text projection that several branches read does not.
    Branches that read what belongs to another one go with it if they can.
    """
    owned: dict[ResidualAdd, set[fx.Node]] = {}
    reads: dict[ResidualAdd, set[fx.Node]] = {}
    for add in adds:
        branch = reached([add.branch], streams)
        own = tuple(node for node in add.expensive if node in branch)
        if own:
            mine = replace(add, expensive=own)
            owned[mine] = set(own)
            reads[mine] = set(filter(is_expensive, branch))
    belonging = set[fx.Node]().union(*owned.values())
    reads = {add: nodes & belonging for add, nodes in reads.items()}
    for group in _sharing(reads):
        whole = region_or_refusal(group, ancestry, static, streams)
        parts = _sharing({add: owned[add] for add in group})
        if isinstance(whole, Region) or len(parts) == 1:
            yield whole
            continue
        for part in parts:
            yield region_or_refusal(part, ancestry, static, streams)


def _sharing(nodes_of: Mapping[ResidualAdd, set[fx.Node]]) -> list[list[ResidualAdd]]:
    """The adds in groups that have a node in common, in graph order."""
    groups: list[tuple[set[fx.Node], list[ResidualAdd]]] = []
    for add, own in nodes_of.items():
        nodes, members = set(own), [add]
        separate = []
        for group in groups:
            if nodes.isdisjoint(group[0]):
                separate.append(group)
            else:
                nodes, members = nodes | group[0], group[1] + members
        groups = [*separate, (nodes, members)]
    return [members for _, members in groups]


def without_cycles(
    found: Sequence[Region], ancestry: Ancestry, refused: list[Refusal]
) -> list[Region]:
    """Refuse regions that would run both before and after another one."""
    inside = {region.nodes: ancestry.bits(region.nodes) for region in found}
    before: dict[Region, list[Region]] = {}
    for region in found:
        needed = ancestry.needed(region.nodes)
        before[region] = [
            other
            for other in found
            if other is not region and needed & inside[other.nodes]
        ]
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        smallest = min(error.args[1], key=lambda region: region.flops)
        reason = "it would run both before and after another region"
        refused.append(Refusal(smallest.module, reason))
        others = [region for region in found if region is not smallest]
        return without_cycles(others, ancestry, refused)
    return list(found)


def numbered(found: Sequence[Region]) -> Iterable[Region]:
    """The regions with their names."""
    short = {"attention": "attn", "attention+mlp": "attn_mlp"}
    for number, region in enumerate(found):
        name = f"region_{number:03d}_{short.get(region.kind, region.kind)}"
        yield replace(region, name=name)
