"""The residual streams of a graph, and where its regions hang on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from rfc_compile.passes.analysis.records import Captured
from rfc_compile.passes.analysis.residual_stream import ResidualAdd, residual_stream
from rfc_compile.passes.fx_utils import Ancestry

_RESUMED = "___stack"
"""How Dynamo names the inputs of a graph that resumes after a graph break."""


@dataclass(frozen=True)
class Stream:
    """A chain of residual adds.

    Attributes:
        name: the inputs of the forward that it starts from.
        into: index of the stream that it becomes a part of, None if it does not.
    """

    name: str
    into: int | None


@dataclass(frozen=True)
class Streams:
    """The streams of a graph that regions are added to.

    Attributes:
        found: in the order in which they start.
        of_region: for each region, by name, the indices of the streams it adds to.
    """

    found: tuple[Stream, ...]
    of_region: dict[str, tuple[int, ...]]


def find_streams(captured: Captured) -> Streams:
    """The streams that the regions of a graph are added to (analysis only)."""
    ancestry = Ancestry(captured.gm.graph)
    adds = residual_stream(captured.gm, captured.inputs.sources, ancestry)
    roots = _roots(adds)
    of_region = {
        region.name: [
            roots[add.node]
            for add in (_add_of(output, adds, ancestry) for output in region.outputs)
            if add is not None
        ]
        for region in captured.regions.found
    }
    used = {root for chosen in of_region.values() for root in chosen}
    order = sorted(used, key=ancestry.index.__getitem__)
    ends = {root: root for root in order}
    ends |= {roots[add.node]: add.node for add in adds if roots[add.node] in used}
    stream_of, into = _continued(_followers(order, ends, ancestry))
    return Streams(
        found=tuple(
            Stream(_name(order[i], captured, ancestry), after)
            for i, after in into.items()
        ),
        of_region={
            name: tuple(sorted({stream_of[order.index(root)] for root in chosen}))
            for name, chosen in of_region.items()
        },
    )


def _followers(
    order: Sequence[fx.Node], ends: dict[fx.Node, fx.Node], ancestry: Ancestry
) -> list[int | None]:
    """For each chain the first one that starts from its end."""
    return [
        next(
            (
                i
                for i, other in enumerate(order)
                if other is not root and ancestry.depends(other, ends[root])
            ),
            None,
        )
        for root in order
    ]


def _continued(
    followers: Sequence[int | None],
) -> tuple[list[int], dict[int, int | None]]:
    """Chains that are one stream: a chain that starts from a single other continues it.

    Returns the stream of each chain, and by the first chain of every stream the stream
    that it becomes a part of.
    """
    firsts: list[int] = []
    lasts: dict[int, int] = {}
    for i in range(len(followers)):
        before = [j for j, after in enumerate(followers[:i]) if after == i]
        firsts.append(firsts[before[0]] if len(before) == 1 else i)
        lasts[firsts[i]] = i
    number = {first: i for i, first in enumerate(lasts)}
    ends = {first: followers[last] for first, last in lasts.items()}
    into = {
        first: None if after is None else number[firsts[after]]
        for first, after in ends.items()
    }
    return [number[first] for first in firsts], into


def _name(root: fx.Node, captured: Captured, ancestry: Ancestry) -> str:
    placeholders = captured.gm.graph.find_nodes(op="placeholder")
    return " + ".join(
        "a value from before the break" if name.startswith(_RESUMED) else name
        for node, name in zip(placeholders, captured.inputs.names, strict=True)
        if node in captured.inputs.sources and ancestry.depends(root, node)
    )


def _roots(adds: Sequence[ResidualAdd]) -> dict[fx.Node, fx.Node]:
    """For each add the value that its chain of adds starts from."""
    roots: dict[fx.Node, fx.Node] = {}
    for add in adds:
        roots[add.node] = roots.get(add.stream, add.stream)
    return roots


def _add_of(
    output: fx.Node, adds: Sequence[ResidualAdd], ancestry: Ancestry
) -> ResidualAdd | None:
    """The add that brings a region's output into its stream.

    The output itself, or the first add after it; else the last one before it, as of a
    stack whose output is a part of the stream.
    """
    own = next((add for add in adds if add.node is output), None)
    after = (add for add in adds if ancestry.depends(add.branch, output))
    before = (add for add in reversed(adds) if ancestry.depends(output, add.node))
    return own or next(after, None) or next(before, None)
