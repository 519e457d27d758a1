"""One candidate: the residual adds that share expensive ops, as a region or a refusal.

    adds of two streams                   region
    x + gate * linear(part 0 of A)        inputs   norm(x), norm(y)
    y + linear(part 1 of A)               nodes    projections, attention A, linears
                                          outputs  both linears, before the gate

The output of an add is the deepest single value that carries the branch, so that
gates and post-norms stay outside. It is raised towards the add where the region
would otherwise read it again through a value outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.passes.analysis.flops import flops, is_expensive
from rfc_compile.passes.analysis.long_skips import dying, reached
from rfc_compile.passes.analysis.records import Refusal, Region, module_path
from rfc_compile.passes.analysis.region_kind import is_single_linear_map, kind_of
from rfc_compile.passes.analysis.residual_stream import ResidualAdd
from rfc_compile.passes.fx_utils import Ancestry, is_copy, is_layout, tensor_of


class _Refused(Exception):
    """Why a candidate is not a region."""


@dataclass
class _Candidate:
    """A group of adds on its way to a region.

    Attributes:
        adds: the residual adds, in graph order.
        carriers: for each add, the single values that carry its branch, deepest last.
    """

    adds: Sequence[ResidualAdd]
    carriers: list[list[fx.Node]]
    ancestry: Ancestry
    streams: frozenset[fx.Node]

    def output(self, position: int) -> fx.Node:
        return self.carriers[position][-1]

    def outputs(self) -> dict[fx.Node, ResidualAdd]:
        """The outputs in graph order, each with the first add that it belongs to."""
        owners: dict[fx.Node, ResidualAdd] = {}
        for position, add in enumerate(self.adds):
            owners.setdefault(self.output(position), add)
        order = self.ancestry.index.__getitem__
        return {node: owners[node] for node in sorted(owners, key=order)}


def region_or_refusal(
    adds: Sequence[ResidualAdd],
    ancestry: Ancestry,
    static: frozenset[fx.Node],
    streams: frozenset[fx.Node],
) -> Region | Refusal:
    """The region of a group of residual adds, or why it is none."""
    order = ancestry.index.__getitem__
    label = module_path(sorted({n for add in adds for n in add.expensive}, key=order))
    try:
        return _region(adds, label, ancestry, static, streams)
    except _Refused as refused:
        return Refusal(label, str(refused))


def _region(
    adds: Sequence[ResidualAdd],
    label: str,
    ancestry: Ancestry,
    static: frozenset[fx.Node],
    streams: frozenset[fx.Node],
) -> Region:
    carriers = [_carriers(add, ancestry) for add in adds]
    if not all(carriers):
        raise _Refused("no single tensor carries the branch to the stream")
    candidate = _Candidate(adds, carriers, ancestry, streams)
    _separate(candidate)
    inputs = _inputs(candidate)
    nodes = _nodes(candidate, inputs)
    front: list[fx.Node] = []
    while (leak := _leak(nodes, ancestry)) is not None:
        if _is_cheap(leak, nodes, ancestry):
            front.append(leak)  # it needs some of the cheap nodes outside
        else:
            _raise_to(candidate, leak)
            inputs = _inputs(candidate)
        nodes = _nodes(candidate, [*inputs, *front])
    if is_single_linear_map(nodes, static):
        raise _Refused("a single linear map: neither attention nor MLP")
    unique = tuple(dict.fromkeys(inputs))
    return Region(
        name="",
        kind=kind_of(nodes, ancestry, static),
        module=label,
        inputs=unique,
        outputs=tuple(candidate.outputs()),
        input_of=tuple(unique.index(node) for node in inputs),
        nodes=tuple(nodes),
        flops=sum(flops(node) for node in nodes),
        adds=tuple(adds),
    )


def _carriers(add: ResidualAdd, ancestry: Ancestry) -> list[fx.Node]:
    """The single values that carry the branch, from the add down to the region."""
    inside = ancestry.bits(add.expensive)
    result = tensor_of(add.node)
    rank = 3 if result is None else min(3, result.ndim)
    frontier = {add.branch}
    found = []
    while True:
        node = max(frontier, key=ancestry.index.__getitem__)
        value = tensor_of(node)
        if len(frontier) == 1 and value is not None and value.ndim >= rank:
            found.append(node)
        if is_expensive(node):
            return found
        frontier.remove(node)
        frontier |= {
            operand
            for operand in node.all_input_nodes
            if ancestry.masks[operand] & inside
        }


def _separate(candidate: _Candidate) -> None:
    """Raise an output that another one is computed from to where the two part."""
    ancestry = candidate.ancestry
    for position in range(len(candidate.adds)):
        own = candidate.output(position)
        others = [node for node in candidate.outputs() if node is not own]
        chain = candidate.carriers[position]
        for depth in reversed(range(len(chain))):
            if not any(ancestry.depends(other, chain[depth]) for other in others):
                del chain[depth + 1 :]
                break


def _raise_to(candidate: _Candidate, leak: fx.Node) -> None:
    """Make ``leak`` an output: a value behind an output that the region reads again."""
    for chain in candidate.carriers:
        if leak in chain[:-1]:
            del chain[chain.index(leak) + 1 :]
            return
    raise _Refused(f"it reads {leak}, which depends on its outputs")


def _inputs(candidate: _Candidate) -> list[fx.Node]:
    """For each output the value that the first expensive op of its branch reads."""
    ancestry = candidate.ancestry
    inside = ancestry.bits(n for add in candidate.adds for n in add.expensive)
    outputs = candidate.outputs()
    found = {
        output: _input_of(add, output, ancestry) for output, add in outputs.items()
    }
    first = [n for n in found.values() if n and not ancestry.masks[n] & inside]
    if not first:
        raise _Refused("the input of its first expensive op is not one tensor")
    # a branch that starts inside the region has no input of its own
    return [node if node in first else first[0] for node in found.values()]


def _input_of(add: ResidualAdd, output: fx.Node, ancestry: Ancestry) -> fx.Node | None:
    """The value the branch's first expensive op reads, in the stream's own layout.

    It has a leading dimension of the same size as the output's, the samples. Where the
    op reads several (windows that are cut and stacked), the last that all come from.
    """
    wanted = tensor_of(output)
    assert wanted is not None
    found = None
    frontier = _tensors_from(add, add.expensive[0], ancestry)
    while frontier:
        node = max(frontier, key=ancestry.index.__getitem__)
        alone, value = len(frontier) == 1, tensor_of(node)
        if (
            alone
            and value is not None
            and value.is_floating_point()
            and value.ndim >= min(3, wanted.ndim)
            and statically_known_true(value.shape[0] == wanted.shape[0])
        ):
            found = node
        layout = alone and (is_layout(node) or is_copy(node))
        if node is add.start or (found is not None and not layout):
            return found
        frontier.remove(node)
        frontier |= _tensors_from(add, node, ancestry)
    return found


def _tensors_from(add: ResidualAdd, node: fx.Node, ancestry: Ancestry) -> set[fx.Node]:
    """The operands that come from the start of the branch; sizes are none."""
    return {
        operand
        for operand in node.all_input_nodes
        if tensor_of(operand) is not None and ancestry.depends(operand, add.start)
    }


def _nodes(candidate: _Candidate, kept: Sequence[fx.Node]) -> list[fx.Node]:
    """What dies when the outputs are supplied, less what the ``kept`` values need."""
    ancestry, outputs = candidate.ancestry, list(candidate.outputs())
    dead = dying(outputs, ancestry) & reached(outputs, candidate.streams)
    for add in candidate.adds:
        for node in add.expensive:
            if node not in dead:
                what = f"a value of {module_path([node])}"
                raise _Refused(f"{what} is read outside the region")
    front = ancestry.needed(kept)
    nodes = [node for node in dead if not front >> ancestry.index[node] & 1]
    return sorted(nodes, key=ancestry.index.__getitem__)


def _is_cheap(leak: fx.Node, nodes: Sequence[fx.Node], ancestry: Ancestry) -> bool:
    """Whether a value needs no expensive op of a region with these nodes."""
    return not ancestry.masks[leak] & ancestry.bits(filter(is_expensive, nodes))


def _leak(nodes: Sequence[fx.Node], ancestry: Ancestry) -> fx.Node | None:
    """A value outside the region that it reads and that depends on the region."""
    inside = ancestry.bits(nodes)
    for operand in (operand for node in nodes for operand in node.all_input_nodes):
        outside = not inside >> ancestry.index[operand] & 1
        if outside and ancestry.masks[operand] & inside:
            return operand
    return None
