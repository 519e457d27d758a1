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

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import fx

from rfc_compile.passes.flops import (
    flops,
    is_attention,
    is_conv,
    is_expensive,
    is_matmul_of_activations,
)
from rfc_compile.passes.graph import (
    Ancestry,
    aten,
    is_copy,
    is_layout,
    packet,
    tensor_of,
)
from rfc_compile.passes.residual_stream import ResidualAdd

_ACTIVATIONS = frozenset(
    {aten.gelu, aten.silu, aten.relu, aten.sigmoid, aten.tanh, aten.elu, aten.mish}
)


@dataclass(frozen=True)
class Region:
    """A cacheable part of the forward.

    Attributes:
        name: ``region_007_attn``, unique in the graph.
        kind: ``attention``, ``mlp``, ``attention+mlp`` or ``conv``.
        module: path of the module that holds it, as the user's program names it.
        inputs: I, the last cheap values before the first expensive op.
        outputs: O, one value per residual add, before the gate.
        input_of: for each output, the index of the input on its own stream.
        nodes: what dies when the outputs are supplied, in graph order.
        flops: floating point operations of one execution.

    """

    name: str
    kind: str
    module: str
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    input_of: tuple[int, ...]
    nodes: tuple[fx.Node, ...]
    flops: int


@dataclass(frozen=True)
class Refusal:
    """A candidate that is not cacheable, with the reason."""

    candidate: str
    reason: str


@dataclass(frozen=True)
class Regions:
    """What the analysis found in one graph.

    Attributes:
        found: the regions, in the order of their first input.
        refused: candidates that are not regions.
        flops: floating point operations of the whole forward.

    """

    found: tuple[Region, ...]
    refused: tuple[Refusal, ...]
    flops: int

    @property
    def coverage(self) -> float:
        """Share of the forward's FLOPs inside regions, 0 to 1."""
        inside = sum(region.flops for region in self.found)
        return inside / self.flops if self.flops else 0.0


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
    kept, streams = _without_long_skips(adds, ancestry, refused)
    own = [_without_other_branches(add, streams) for add in kept]
    found: list[Region] = []
    taken: set[fx.Node] = set()
    for group in _sharing_expensive_nodes([add for add in own if add.expensive]):
        candidate = _candidate(group, ancestry, static, streams)
        if isinstance(candidate, Region) and not taken.isdisjoint(candidate.nodes):
            candidate = Refusal(candidate.module, "it overlaps with another region")
        if isinstance(candidate, Refusal):
            refused.append(candidate)
        else:
            found.append(candidate)
            taken.update(candidate.nodes)
    found.sort(key=lambda region: ancestry.index[region.inputs[0]])
    return Regions(
        found=tuple(_numbered(found)),
        refused=tuple(refused),
        flops=sum(flops(node) for node in gm.graph.nodes),
    )


def _without_long_skips(
    adds: Sequence[ResidualAdd], ancestry: Ancestry, refused: list[Refusal]
) -> tuple[list[ResidualAdd], frozenset[fx.Node]]:
    """Refuse adds around a chain of residual adds; drop adds nested inside a branch.

    The second result holds every value of a residual stream, refused adds included.
    """
    streams = {add.stream for add in adds}
    nested: set[fx.Node] = set()
    kept = []
    for outer in reversed(adds):  # outermost first
        if outer.node in nested:
            continue
        inner = [
            add
            for add in adds
            if add is not outer
            and ancestry.depends(outer.branch, add.node)
            and ancestry.depends(add.stream, outer.stream)
        ]
        inner_nodes = {add.node for add in inner}
        chain = {
            node
            for add in inner
            if add.node in streams or add.stream in inner_nodes
            for node in add.expensive
        }
        inside = sum(map(flops, chain.intersection(outer.expensive)))
        if 2 * inside > sum(map(flops, outer.expensive)):
            refused.append(
                Refusal(_module_path([outer.node]), "a long skip around residual adds")
            )
            continue
        if inner_nodes:  # one that is read elsewhere is a stream of its own
            nested |= inner_nodes & _dying([outer.branch], ancestry)
        kept.append(outer)
    kept = [add for add in reversed(kept) if add.node not in nested]
    return kept, frozenset(add.node for add in adds) - nested


def _without_other_branches(
    add: ResidualAdd, streams: frozenset[fx.Node]
) -> ResidualAdd:
    """The add with the expensive ops of its own branch, not those of branches before.

    They differ where a branch reads another stream that has read this one.
    """
    reached = _reached([add.branch], streams)
    own = tuple(node for node in add.expensive if node in reached)
    return replace(add, expensive=own)


def _reached(outputs: Iterable[fx.Node], streams: frozenset[fx.Node]) -> set[fx.Node]:
    """What the outputs are computed from, back to the values of the streams."""
    pending = list(outputs)
    reached = set(pending)
    while pending:
        for operand in pending.pop().all_input_nodes:
            if operand not in reached and operand not in streams:
                reached.add(operand)
                pending.append(operand)
    return reached


def _sharing_expensive_nodes(adds: Sequence[ResidualAdd]) -> list[list[ResidualAdd]]:
    """Union of adds whose branches share an expensive node, in graph order."""
    groups: list[tuple[set[fx.Node], list[ResidualAdd]]] = []
    for add in adds:
        nodes, members = set(add.expensive), [add]
        separate = []
        for group in groups:
            if nodes.isdisjoint(group[0]):
                separate.append(group)
            else:
                nodes, members = nodes | group[0], group[1] + members
        groups = [*separate, (nodes, members)]
    return [members for _, members in groups]


def _candidate(
    adds: Sequence[ResidualAdd],
    ancestry: Ancestry,
    static: frozenset[fx.Node],
    streams: frozenset[fx.Node],
) -> Region | Refusal:
    expensive = {node for add in adds for node in add.expensive}
    label = _module_path(sorted(expensive, key=ancestry.index.__getitem__))
    outputs = list(dict.fromkeys(_output_of(add, ancestry) for add in adds))
    if None in outputs:
        return Refusal(label, "no single tensor carries the branch to the stream")
    supplied = [node for node in outputs if node is not None]
    sources = {_output_of(add, ancestry): add for add in reversed(adds)}
    per_output = [_input_of(sources[node], ancestry) for node in supplied]
    if None in per_output:
        return Refusal(label, "the input of its first expensive op is not one tensor")
    inputs = [node for node in per_output if node is not None]
    dead = _dying(supplied, ancestry) & _reached(supplied, streams)
    escaping = [node for node in expensive if node not in dead]
    if escaping:
        return Refusal(label, f"{escaping[0]} is read outside the region")
    front = ancestry.bits(inputs)
    for node in inputs:
        front |= ancestry.masks[node]
    nodes = [node for node in dead if not front >> ancestry.index[node] & 1]
    nodes.sort(key=ancestry.index.__getitem__)
    inside = ancestry.bits(nodes)
    for operand in {operand for node in nodes for operand in node.all_input_nodes}:
        if (
            ancestry.masks[operand] & inside
            and not inside >> ancestry.index[operand] & 1
        ):
            return Refusal(label, f"it reads {operand}, which depends on its outputs")
    unique = tuple(dict.fromkeys(inputs))
    return Region(
        name="",
        kind=_kind(nodes, ancestry, static),
        module=label,
        inputs=unique,
        outputs=tuple(supplied),
        input_of=tuple(unique.index(node) for node in inputs),
        nodes=tuple(nodes),
        flops=sum(flops(node) for node in nodes),
    )


def _output_of(add: ResidualAdd, ancestry: Ancestry) -> fx.Node | None:
    """The deepest single value that carries the branch, below gates and post-norms."""
    inside = ancestry.bits(add.expensive)
    frontier = {add.branch}
    output = None
    while True:
        node = max(frontier, key=ancestry.index.__getitem__)
        value = tensor_of(node)
        if len(frontier) == 1 and value is not None and value.ndim >= 3:
            output = node
        if is_expensive(node):
            return output
        frontier.remove(node)
        frontier |= {
            operand
            for operand in node.all_input_nodes
            if ancestry.masks[operand] & inside
        }


def _input_of(add: ResidualAdd, ancestry: Ancestry) -> fx.Node | None:
    """The value the branch's first expensive op reads, in the stream's own layout."""
    first = add.expensive[0]
    operands = [
        operand
        for operand in first.all_input_nodes
        if ancestry.depends(operand, add.stream)
    ]
    node = operands[0]
    while (is_layout(node) or is_copy(node)) and node is not add.stream:
        node = node.all_input_nodes[0]
    value = tensor_of(node)
    return node if value is not None and value.is_floating_point() else None


def _dying(outputs: Iterable[fx.Node], ancestry: Ancestry) -> set[fx.Node]:
    """Nodes that nobody needs once the outputs are supplied from outside."""
    dead = set(outputs)
    last = max(ancestry.index[node] for node in dead)
    for node in reversed(ancestry.nodes[:last]):
        if node.op == "call_function" and node.users and dead.issuperset(node.users):
            dead.add(node)
    return dead


def _kind(
    nodes: Sequence[fx.Node], ancestry: Ancestry, static: frozenset[fx.Node]
) -> str:
    if not any(
        is_attention(node) or is_matmul_of_activations(node, static) for node in nodes
    ):
        convs = [node for node in nodes if is_conv(node)]
        return "conv" if convs else "mlp"
    expensive = ancestry.bits(filter(is_expensive, nodes))
    activated = any(
        node.op == "call_function"
        and packet(node) in _ACTIVATIONS
        and ancestry.masks[node] & expensive
        for node in nodes
    )
    return "attention+mlp" if activated else "attention"


def _module_path(nodes: Sequence[fx.Node]) -> str:
    """The deepest module that holds all nodes, from ``nn_module_stack``."""
    stacks = [list(node.meta.get("nn_module_stack", {}).values()) for node in nodes]
    common: list[str] = []
    for level in zip(*(stack for stack in stacks if stack), strict=False):
        if len({entry[0] for entry in level}) > 1:
            break
        common.append(level[0][0])
    path = common[-1] if common else ""
    path = re.sub(r"^L\['[^']*'\]|__dict__|_modules|[\[\]'\"]", ".", path)
    return ".".join(part for part in path.split(".") if part) or "forward"


def _numbered(found: Sequence[Region]) -> Iterable[Region]:
    short = {"attention": "attn", "attention+mlp": "attn_mlp"}
    for number, region in enumerate(found):
        name = f"region_{number:03d}_{short.get(region.kind, region.kind)}"
        fields = {**vars(region), "name": name}
        yield Region(**fields)
