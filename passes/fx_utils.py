"""Small facts about nodes of a functional ATen graph, shared by the passes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.errors import InvariantError
from rfc_compile.torch_internals import graph_module

aten = torch.ops.aten

LAYOUT_OPS = frozenset(
    {
        aten.alias,
        aten.chunk,
        aten.detach,
        aten.expand,
        aten.permute,
        aten.reshape,
        aten.select,
        aten.slice,
        aten.split,
        aten.split_with_sizes,
        aten.squeeze,
        aten.t,
        aten.transpose,
        aten.unbind,
        aten.unsqueeze,
        aten.view,
    }
)
"""Ops that only look at their input in another layout: no arithmetic, no copy."""

COPY_OPS = frozenset({aten._to_copy, aten.clone, aten.contiguous, aten._unsafe_view})
"""Ops that copy or cast their input, value for value."""


_FILLS: dict[Any, Callable[[fx.Node], Any]] = {
    **dict.fromkeys((aten.zeros, aten.new_zeros, aten.zeros_like), lambda node: 0),
    **dict.fromkeys((aten.ones, aten.new_ones, aten.ones_like), lambda node: 1),
    **dict.fromkeys((aten.full, aten.full_like), lambda node: node.args[1]),
    aten.new_full: lambda node: node.args[2],
    aten.scalar_tensor: lambda node: node.args[0],
}


def packet(node: fx.Node) -> Any:
    """The op without its overload (``aten.add`` for ``aten.add.Tensor``)."""
    target = node.target
    return (
        target.overloadpacket if isinstance(target, torch._ops.OpOverload) else target
    )


def is_layout(node: fx.Node) -> bool:
    """Whether the node is a view of its input, or bookkeeping on sizes."""
    if node.op != "call_function":
        return False
    if not isinstance(node.meta.get("val"), torch.Tensor | list | tuple):
        return True
    if node.target is operator.getitem:
        return is_layout(node.all_input_nodes[0])
    return packet(node) in LAYOUT_OPS


def is_copy(node: fx.Node) -> bool:
    """Whether the node casts or copies its input, value for value."""
    return node.op == "call_function" and packet(node) in COPY_OPS


def fill_of(node: fx.Node) -> Any:
    """What an op that reads no values fills its tensor with; None for other ops."""
    find = _FILLS.get(packet(node)) if node.op == "call_function" else None
    return None if find is None else find(node)


def has_symbols(value: Any) -> bool:
    """Whether a number, or a size of a tensor, is a symbol."""
    sizes = value.shape if isinstance(value, torch.Tensor) else [value]
    return any(isinstance(size, torch.SymInt | torch.SymFloat) for size in sizes)


def base_of(node: fx.Node) -> fx.Node:
    """The value a node shows in another layout or dtype."""
    while is_layout(node) or is_copy(node):
        node = node.all_input_nodes[0]
    return node


def tensor_of(node: fx.Node) -> torch.Tensor | None:
    """The fake tensor a node computes, None if it computes something else."""
    value = node.meta.get("val")
    return value if isinstance(value, torch.Tensor) else None


def twin(example: torch.Tensor) -> torch.Tensor:
    """Another tensor of the same kind; make it under the fake mode of ``example``."""
    return torch.empty_strided(
        example.shape, example.stride(), dtype=example.dtype, device=example.device
    )


def results_of(graph: fx.Graph) -> tuple[Any, ...]:
    """What a graph returns: nodes and constants."""
    results: Any = graph.output_node().args[0]
    return tuple(results)


def same_shape(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two shapes are equal for certain, without a guard on symbolic sizes."""
    return a.ndim == b.ndim and all(
        statically_known_true(m == n) for m, n in zip(a.shape, b.shape, strict=True)
    )


class Ancestry:
    """Which nodes each node is computed from, as bit sets over the graph's order.

    Built once in one walk; ``depends(b, a)`` is then one bit test, so that analyses
    stay linear in practice for graphs of ten thousand nodes.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.nodes: list[fx.Node] = list(graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.masks: dict[fx.Node, int] = {}
        for i, node in enumerate(self.nodes):
            mask = 1 << i
            for operand in node.all_input_nodes:
                mask |= self.masks[operand]
            self.masks[node] = mask

    def bits(self, nodes: Iterable[fx.Node]) -> int:
        """The set of these nodes as a bit set."""
        mask = 0
        for node in nodes:
            mask |= 1 << self.index[node]
        return mask

    def needed(self, nodes: Iterable[fx.Node]) -> int:
        """These nodes and all that they are computed from, as a bit set."""
        mask = 0
        for node in nodes:
            mask |= self.masks[node]
        return mask

    def depends(self, node: fx.Node, on: fx.Node) -> bool:
        """Whether ``node`` is ``on`` or is computed from it."""
        return bool(self.masks[node] >> self.index[on] & 1)

    def between(self, start: fx.Node, end: fx.Node, among: int) -> list[fx.Node]:
        """Nodes of the set ``among`` on a path from ``start`` to ``end``, in order."""
        first = self.index[start] + 1
        candidates = (self.masks[end] & among) >> first
        found = []
        while candidates:
            low = (candidates & -candidates).bit_length() - 1
            node = self.nodes[first + low]
            if self.depends(node, start):
                found.append(node)
            candidates &= candidates - 1
        return found


def sort_stably(gm: fx.GraphModule) -> None:
    """Topological order that moves a node only as far as its operands need."""
    placed: set[fx.Node] = set()
    waiting: dict[fx.Node, list[fx.Node]] = {}
    last: fx.Node | None = None
    for start in list(gm.graph.nodes):
        ready = [start]
        while ready:
            node = ready.pop(0)
            missing = next((n for n in node.all_input_nodes if n not in placed), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(node)
                continue
            if last is not None:
                last.append(node)
            last = node
            placed.add(node)
            ready = waiting.pop(node, []) + ready
    if waiting:
        raise InvariantError(f"a cycle through {next(iter(waiting))}")


def remove_dead_code(gm: fx.GraphModule) -> None:
    """Drop unused nodes; in-place writes and placeholders stay."""
    gm.graph.eliminate_dead_code(
        lambda node: (
            node.op in ("placeholder", "output") or node.target is aten.copy_.default
        )
    )
    gm.recompile()


def inline(
    graph: fx.Graph, module: fx.GraphModule, arguments: Sequence[fx.Node]
) -> tuple[fx.Node, ...]:
    """Copy a submodule's nodes to the graph's insert point; its outputs."""
    placeholders = module.graph.find_nodes(op="placeholder")
    mapping = dict(zip(placeholders, arguments, strict=True))
    for node in module.graph.nodes:
        if node.op not in ("placeholder", "output"):
            mapping[node] = graph.node_copy(node, mapping.__getitem__)
    return tuple(mapping[result] for result in results_of(module.graph))


def part_of(
    gm: fx.GraphModule,
    inputs: Mapping[str, fx.Node],
    nodes: Iterable[fx.Node],
    outputs: Iterable[Any],
) -> fx.GraphModule:
    """A graph of its own with copies of these nodes, in their order.

    ``inputs`` are the values that it is given, by the names of its placeholders;
    ``outputs`` what it returns: nodes and constants.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for name, node in inputs.items():
        copies[node] = graph.placeholder(name)
        copies[node].meta = dict(node.meta)
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.map_arg(tuple(outputs), copies.__getitem__))
    return graph_module(gm, graph)
