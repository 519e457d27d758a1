"""Residual adds that are not a branch of their own: long skips and nested adds.

x - block - block - add      a long skip: the branch is a chain of residual adds
'-------------------'

x - up - add - down - add    a nested add: it belongs to the branch around it
|    '----'            |
'----------------------'

x - norm - attention - scale - add    no long skip: the branch has work of its own on
|--- block - block ------'     |      its stream, and reads another stream that starts
'------------------------------'      there
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

from torch import fx

from rfc_compile.passes.analysis.flops import flops, is_expensive
from rfc_compile.passes.analysis.records import Refusal, module_path
from rfc_compile.passes.analysis.residual_stream import ResidualAdd
from rfc_compile.passes.fx_utils import Ancestry, aten, is_copy, is_layout, packet


def without_long_skips(
    adds: Sequence[ResidualAdd], ancestry: Ancestry, refused: list[Refusal]
) -> tuple[list[ResidualAdd], frozenset[fx.Node]]:
    """Refuse adds around a chain of residual adds; drop adds nested inside a branch.

    The second result holds every value of a residual stream, refused adds included.
    """
    streams = {add.stream for add in adds}
    by_node = {add.node: add for add in adds}
    all_adds = ancestry.bits(by_node)
    nested: set[fx.Node] = set()
    kept = []
    for outer in reversed(adds):  # outermost first
        if outer.node in nested:
            continue
        within = ancestry.between(outer.stream, outer.branch, all_adds)
        inner = [
            add
            for add in map(by_node.__getitem__, within)
            if ancestry.depends(add.stream, outer.stream)
        ]
        inner_nodes = {add.node for add in inner}
        before = {add.node: _joined(add.stream, inner_nodes) for add in inner}
        followed = streams.union(*before.values())
        chain = {
            node
            for add in inner
            if add.node in followed or before[add.node]
            for node in add.expensive
        }
        inside = sum(map(flops, chain.intersection(outer.expensive)))
        if 2 * inside > sum(map(flops, outer.expensive)):
            if _works_on_its_stream(outer, streams.union(by_node)):
                kept.append(outer)
                continue
            refused.append(
                Refusal(module_path([outer.node]), "a long skip around residual adds")
            )
            continue
        if inner_nodes:  # one that is read elsewhere is a stream of its own
            nested |= inner_nodes & dying([outer.branch], ancestry)
        kept.append(outer)
    kept = [add for add in reversed(kept) if add.node not in nested]
    return kept, frozenset(add.node for add in adds) - nested


def _joined(stream: fx.Node, adds: set[fx.Node]) -> set[fx.Node]:
    """The adds that a stream is put together from: text and image tokens joined."""
    pending = [stream]
    for value in pending:
        if is_layout(value) or is_copy(value) or packet(value) is aten.cat:
            pending.extend(n for n in value.all_input_nodes if n not in pending)
    return adds.intersection(pending)


def _works_on_its_stream(add: ResidualAdd, streams: set[fx.Node]) -> bool:
    """Whether an expensive op of the branch reads its stream, with no other between."""
    branch = reached([add.branch], frozenset(streams))
    reading = {add.stream}
    for node in add.node.graph.nodes:
        if node in branch and not reading.isdisjoint(node.all_input_nodes):
            if is_expensive(node):
                return True
            reading.add(node)
    return False


def reached(outputs: Iterable[fx.Node], streams: frozenset[fx.Node]) -> set[fx.Node]:
    """What the outputs are computed from, back to the values of the streams."""
    pending = list(outputs)
    found = set(pending)
    while pending:
        for operand in pending.pop().all_input_nodes:
            if operand not in found and operand not in streams:
                found.add(operand)
                pending.append(operand)
    return found


def dying(
    outputs: Iterable[fx.Node],
    ancestry: Ancestry,
    may_die: Callable[[fx.Node], bool] = lambda node: True,
) -> set[fx.Node]:
    """Nodes that nobody needs once the outputs are supplied from outside."""
    dead = set(outputs)
    place = ancestry.index.__getitem__
    waiting = [-place(operand) for node in dead for operand in node.all_input_nodes]
    heapq.heapify(waiting)
    while waiting:  # the last one first: all its users are settled
        node = ancestry.nodes[-heapq.heappop(waiting)]
        alive = node.op != "call_function" or not dead.issuperset(node.users)
        if alive or node in dead or not may_die(node):
            continue
        dead.add(node)
        for operand in node.all_input_nodes:
            heapq.heappush(waiting, -place(operand))
    return dead
