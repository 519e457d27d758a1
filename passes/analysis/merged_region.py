"""Several regions as one: what it holds, reads and returns.

members      attn of block 0 ... mlp of block 3
nodes        all between their first and last node, and what these alone need
outputs      the values of the stream that are read outside
bases        for each, the value of the same stream and shape before the region
inputs       for each, the first input of a member on that stream
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.passes.analysis.flops import flops
from rfc_compile.passes.analysis.long_skips import dying
from rfc_compile.passes.analysis.records import Region, module_path
from rfc_compile.passes.analysis.residual_stream import ResidualAdd
from rfc_compile.passes.fx_utils import (
    Ancestry,
    base_of,
    is_copy,
    is_layout,
    same_shape,
    tensor_of,
)


class CannotMerge(Exception):
    """Why members are not one region; ``last`` is the index of the one to blame.

    ``leaks``: a value that is no stream is read outside.
    """

    def __init__(self, reason: str, last: int, *, leaks: bool = False) -> None:
        super().__init__(reason)
        self.last = last
        self.leaks = leaks


@dataclass(frozen=True)
class _Merge:
    """Members on their way to one region.

    Attributes:
        members: the regions, in order.
        adds: their residual adds, by node.
        inside: the nodes between the first and the last of the members'.
    """

    members: Sequence[Region]
    adds: dict[fx.Node, ResidualAdd]
    inside: frozenset[fx.Node]
    ancestry: Ancestry

    def in_order(self, nodes: frozenset[fx.Node]) -> list[fx.Node]:
        return sorted(nodes, key=self.ancestry.index.__getitem__)


def merged_region(
    members: Sequence[Region], regions: Sequence[Region], ancestry: Ancestry
) -> Region:
    """One region of these members, ``regions`` being all of the graph."""
    adds = {add.node: add for region in members for add in region.adds}
    inside = _between([n for r in members for n in r.nodes] + list(adds), ancestry)
    merge = _Merge(members, adds, inside, ancestry)
    found: dict[fx.Node, fx.Node] = {}
    raised: set[fx.Node] = set()
    for node in _read_outside(merge):
        output, base, way = _output(node, merge)
        found[output] = base
        raised.update(way)
    wanted = [_input_of(output, base, merge) for output, base in found.items()]
    inputs = tuple(dict.fromkeys(wanted))
    others = [region for region in regions if region not in members]
    nodes = needed_by_outputs_alone(
        inside | raised, [*inputs, *found.values()], others, ancestry
    )
    for region in others:
        if not nodes.isdisjoint(region.nodes):
            raise CannotMerge(f"{region.module} is between them", len(members) - 1)
    return Region(
        name="",
        kind="",
        module="",
        inputs=inputs,
        outputs=tuple(found),
        input_of=tuple(inputs.index(node) for node in wanted),
        nodes=tuple(merge.in_order(nodes)),
        flops=sum(map(flops, nodes)),
        adds=tuple(adds.values()),
        bases=tuple(found.values()),
    )


def _between(nodes: Sequence[fx.Node], ancestry: Ancestry) -> frozenset[fx.Node]:
    """The nodes and all that is on a way from one to another."""
    core, needed = ancestry.bits(nodes), ancestry.needed(nodes)
    return frozenset(
        node
        for index, node in enumerate(ancestry.nodes)
        if needed >> index & 1 and ancestry.masks[node] & core
    )


def _read_outside(merge: _Merge) -> Iterator[fx.Node]:
    """The values that are read outside; they must be those where a stream leaves."""
    streams = {base_of(_skip_of(add)) for add in merge.adds.values()}
    streams |= {add.stream for add in merge.adds.values()}
    for node in merge.in_order(merge.inside):
        reader = next((user for user in node.users if user not in merge.inside), None)
        if reader is None:
            continue
        root = base_of(node)
        last = _last_before(root, merge)
        where = merge.members[last].module
        if root not in merge.adds:
            what = f"a value of {module_path([node])}"
            reason = f"{where}: {what} is read outside, {_where(reader)}"
            raise CannotMerge(reason, last, leaks=True)
        if root in streams:
            raise CannotMerge(
                f"{where}: the stream after it is read {_where(reader)}", last
            )
        yield node


def _where(reader: fx.Node) -> str:
    if reader.op == "output":
        return "as a result of the forward"
    return f"in {module_path([reader])}"


def _last_before(node: fx.Node, merge: _Merge) -> int:
    """Index of the last member that a value is computed from."""
    mask = merge.ancestry.masks[node]
    return max(
        index
        for index, region in enumerate(merge.members)
        if mask & merge.ancestry.bits(region.nodes)
    )


def _output(node: fx.Node, merge: _Merge) -> tuple[fx.Node, fx.Node, Sequence[fx.Node]]:
    """Output and base of a stream that leaves at ``node``, and the way to the output.

    The output is raised through casts and views that alone read the stream, as far as
    there is a base of its shape: what is kept may be smaller there.
    """
    way = [node]
    while True:
        readers = [user for user in way[-1].users if user not in merge.inside]
        if len(readers) != 1 or not (is_layout(readers[0]) or is_copy(readers[0])):
            break
        (reader,) = readers
        if any(operand in merge.inside for operand in reader.all_input_nodes[1:]):
            break
        way.append(reader)
    for length in range(len(way), 0, -1):
        base = _base_of(way[length - 1], base_of(node), merge)
        if base is not None:
            return way[length - 1], base, way[1:length]
    last = _last_before(node, merge)
    where = merge.members[last].module
    raise CannotMerge(
        f"{where}: no stream before it has the shape of what it adds", last
    )


def _base_of(output: fx.Node, root: fx.Node, merge: _Merge) -> fx.Node | None:
    """The value that the stream comes from, or another stream's of the same shape."""
    value: fx.Node | None = root
    while value in merge.inside:
        value = _before(value, merge)
    skips = [_skip_of(add) for add in merge.adds.values()]
    for node in (value, *skips):
        if node is None or node in merge.inside or not _alike(node, output):
            continue
        if merge.ancestry.depends(output, node):
            return node
    return None


def _before(value: fx.Node, merge: _Merge) -> fx.Node | None:
    """The value of the stream before this one, None where it is not one value."""
    if value in merge.adds:
        return _skip_of(merge.adds[value])
    operands = [n for n in value.all_input_nodes if n in merge.inside]
    if is_layout(value) or is_copy(value):
        return operands[0]
    alike = [node for node in operands if _alike(node, value)]
    return alike[0] if len(alike) == 1 else None


def _alike(node: fx.Node, other: fx.Node) -> bool:
    """Whether both are floating point tensors of one shape."""
    a, b = tensor_of(node), tensor_of(other)
    if a is None or b is None or not a.is_floating_point():
        return False
    return b.is_floating_point() and same_shape(a, b)


def _skip_of(add: ResidualAdd) -> fx.Node:
    """The operand of a residual add that is not the branch."""
    first, *others = add.node.args[:2]
    skip = others[0] if first is add.branch else first
    assert isinstance(skip, fx.Node)
    return skip


def _input_of(output: fx.Node, base: fx.Node, merge: _Merge) -> fx.Node:
    """The first input of a member on the base's stream, else the base itself."""
    wanted = tensor_of(output)
    assert wanted is not None
    start = base_of(base)
    for node in (node for region in merge.members for node in region.inputs):
        value = tensor_of(node)
        if (
            node not in merge.inside
            and merge.ancestry.depends(node, start)
            and value is not None
            and statically_known_true(value.shape[0] == wanted.shape[0])
        ):
            return node
    return base


def joined_region(members: Sequence[Region], ancestry: Ancestry) -> Region | None:
    """One region up to the value that all which is read outside flows into.

    before   block 0 -> skip 0 -.        the skips of a gated stack, read outside of it
             block 1 -> skip 1 -+- sum -> head
    after    outputs   sum, kept as it is

    None where the ways to the results part, or the value is a result.
    """
    core = [node for region in members for node in region.nodes]
    where = ancestry.index.__getitem__
    output = _meeting_point(core, ancestry)
    if output is None:
        return None
    first = min((n for region in members for n in region.inputs), key=where)
    while not _predicts(first, output) and (is_layout(first) or is_copy(first)):
        first = first.all_input_nodes[0]  # rows of the layers may be parts of a sample
    if not _predicts(first, output):
        return None
    nodes = needed_by_outputs_alone(frozenset([output]), [first], [], ancestry)
    if not nodes.issuperset(core):
        return None
    return Region(
        name="",
        kind="",
        module="",
        inputs=(first,),
        outputs=(output,),
        input_of=(0,),
        nodes=tuple(sorted(nodes, key=where)),
        flops=sum(map(flops, nodes)),
        adds=tuple(add for region in members for add in region.adds),
    )


def _predicts(first: fx.Node, output: fx.Node) -> bool:
    """Whether both hold floating point tokens of the same samples."""
    a, b = tensor_of(first), tensor_of(output)
    if a is None or b is None or a.ndim < 3 or b.ndim < 3:
        return False
    numbers = a.is_floating_point() and b.is_floating_point()
    return numbers and statically_known_true(a.shape[0] == b.shape[0])


def _meeting_point(nodes: Sequence[fx.Node], ancestry: Ancestry) -> fx.Node | None:
    """The first value that every way from the nodes to the results goes through.

    Of values of one another's content (a stack that is summed) the smallest.
    """
    behind = ancestry.bits(nodes)
    after = [node for node in ancestry.nodes if ancestry.masks[node] & behind]
    last = max(map(ancestry.index.__getitem__, nodes))
    open_ways: set[fx.Node] = set()
    found: fx.Node | None = None
    for node in after:
        if node.op == "output":
            break
        open_ways = {way for way in open_ways if _read_after(way, node, ancestry)}
        open_ways.add(node)
        if ancestry.index[node] < last or open_ways != {node}:
            if found is not None:
                break
            continue
        if found is not None and not _is_smaller(node, found):
            break
        found = node
    return found


def _read_after(value: fx.Node, node: fx.Node, ancestry: Ancestry) -> bool:
    """Whether a value is read behind ``node``, itself not counted."""
    return any(ancestry.index[user] > ancestry.index[node] for user in value.users)


def _is_smaller(node: fx.Node, before: fx.Node) -> bool:
    a, b = tensor_of(node), tensor_of(before)
    return (
        a is not None and b is not None and statically_known_true(a.numel() < b.numel())
    )


def needed_by_outputs_alone(
    inside: frozenset[fx.Node],
    kept: Sequence[fx.Node],
    others: Sequence[Region],
    ancestry: Ancestry,
) -> frozenset[fx.Node]:
    """These nodes with what they alone need, less what ``kept`` or ``others`` need."""
    elsewhere = ancestry.bits(node for region in others for node in region.nodes)
    last = max(map(ancestry.index.__getitem__, inside))
    front = ancestry.needed(kept)

    def may_die(node: fx.Node) -> bool:
        index = ancestry.index[node]
        return (
            index <= last
            and not front >> index & 1
            and not ancestry.masks[node] & elsewhere
        )

    return frozenset(dying(inside, ancestry, may_die))
