"""Identical stretches of a graph, as repeated blocks leave them, become one submodule.

    before                                 after
    mul = aten.mul(x, w_0)                 invoke_subgraph = invoke_subgraph(
    add = aten.add(x, mul)                     repeat_0, "repeat_0", x, w_0)
    mul_1 = aten.mul(add, w_1)             getitem = invoke_subgraph[0]
    add_1 = aten.add(add, mul_1)           invoke_subgraph_1 = invoke_subgraph(
    ...                                        repeat_0, "repeat_0", getitem, w_1)

The inner compiler then compiles one block and calls it for all: its work, and the size
of its code, no longer grow with the number of blocks. It cannot fuse across a border of
two blocks, so the borders lie where the fewest values pass: on the residual stream.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import fx

from rfc_compile.passes.fx_utils import (
    aten,
    has_symbols,
    is_copy,
    is_layout,
    part_of,
    tensor_of,
)
from rfc_compile.torch_internals import invoke_subgraph

FEWEST = 3
"""The fewest repetitions that become a submodule."""

SHORTEST = 16
"""The fewest nodes of a submodule."""

_PERIODS = 64  # distances that are looked at: those between the most equal nodes
_FORBIDDEN = 1 << 20  # values at a border that count as too many


def fold_repeats(gm: fx.GraphModule) -> fx.GraphModule:
    """Turn every long run of identical stretches into calls of one submodule.

    The graph computes the same, input by input and output by output. A graph that
    works with symbolic sizes is left alone.
    """
    if any(has_symbols(node.meta.get("val")) for node in gm.graph.nodes):
        return gm
    folded = 0
    while (repeats := _find(gm)) is not None:
        _fold(gm, repeats, f"repeat_{folded}")
        folded += 1
    if folded:
        gm.graph.lint()
        gm.recompile()
    return gm


@dataclass(frozen=True)
class Repeats:
    """Stretches of nodes that compute the same.

    Attributes:
        copies: the nodes of each stretch, in order, as many in each.
        operands: for each value from outside that a stretch reads, its node in each.
        outputs: positions of the nodes that are read outside, in any copy.
    """

    copies: tuple[tuple[fx.Node, ...], ...]
    operands: tuple[tuple[fx.Node, ...], ...]
    outputs: tuple[int, ...]


def _find(gm: fx.GraphModule) -> Repeats | None:
    """The run that saves the most nodes."""
    nodes = [node for node in gm.graph.nodes if node.op == "call_function"]
    kinds = _kinds(nodes)
    runs = {
        (length * (size // length - 1), length, start, size)
        for length in _periods(kinds)
        for start, size in _runs(kinds, length)
        if size // length >= FEWEST
    }
    for _, length, start, size in sorted(runs, key=lambda run: (-run[0], run[1:])):
        run = nodes[start : start + size]
        if (first := _border(run, length)) is None:
            continue
        starts = range(first, size - length + 1, length)
        repeats = _checked([tuple(run[i : i + length]) for i in starts])
        if repeats is not None:
            return repeats
    return None


def _kinds(nodes: Sequence[fx.Node]) -> list[int]:
    """A number per node, equal where op, constants and kinds of values are."""
    known: dict[Hashable, int] = {}
    values: dict[fx.Node, str] = {}

    def describe(node: fx.Node) -> str:
        if node not in values:
            values[node] = _describe(node.meta.get("val"))
        return values[node]

    def kind(node: fx.Node) -> Hashable:
        if node.target in (invoke_subgraph, aten.copy_.default):
            return node
        given = fx.map_arg((node.args, node.kwargs), describe)
        return node.target, describe(node), repr(given)

    return [known.setdefault(kind(node), len(known)) for node in nodes]


def _describe(value: object) -> str:
    if isinstance(value, list | tuple):
        return str([_describe(part) for part in value])
    if not isinstance(value, torch.Tensor):
        return repr(value)
    aligned = value.storage_offset() * value.element_size() % 16 == 0
    return f"{value.dtype}{[*value.shape]}{value.stride()}{value.device}{aligned}"


def _periods(kinds: Sequence[int]) -> list[int]:
    """The distances at which the most nodes are of the same kind."""
    numbers = np.array(kinds)
    equal = {
        n: int((numbers[n:] == numbers[:-n]).sum())
        for n in range(SHORTEST, len(kinds) // FEWEST + 1)
    }
    return heapq.nlargest(_PERIODS, equal, key=equal.__getitem__)


def _runs(kinds: Sequence[int], length: int) -> Iterator[tuple[int, int]]:
    """Where, and for how many nodes, the kinds repeat."""
    same = (a == b for a, b in zip(kinds, kinds[length:], strict=False))
    start = 0
    for equal, stretch in groupby(same):
        size = len(list(stretch))
        if equal:
            yield start, size + length
        start += size


def _border(run: Sequence[fx.Node], length: int) -> int | None:
    """The start of the first copy: where the fewest values cross into the next one.

    Views must not cross: a submodule may not return what it was given.
    """
    place = {node: i for i, node in enumerate(run)}
    crossing = [0] * (2 * length + 1)
    for i, node in enumerate(run[: 2 * length]):
        last = max((place.get(user, len(run)) for user in node.users), default=i)
        view = tensor_of(node) is None or is_layout(node) or is_copy(node)
        weight = _FORBIDDEN if view else 1
        crossing[i + 1] += weight
        crossing[min(last, i + length, 2 * length - 1) + 1] -= weight
    counts = list(accumulate(crossing))[length : 2 * length]
    room = len(run) - FEWEST * length
    fewest, first = min((count, i) for i, count in enumerate(counts) if i <= room)
    return first if fewest < _FORBIDDEN else None


def _operands(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments, one for each place."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _checked(copies: Sequence[tuple[fx.Node, ...]]) -> Repeats | None:
    """The longest run of copies that are connected inside in the same way."""
    wired = ((_wiring(copy), copy) for copy in copies)
    groups = groupby(wired, key=operator.itemgetter(0))
    alike = [[copy for _, copy in group] for _, group in groups]
    longest = max(alike, key=len)
    operands = dict.fromkeys(
        tuple(_operands(copy[i])[j] for copy in longest)
        for i, places in enumerate(_wiring(longest[0]))
        for j, place in enumerate(places)
        if place is None
    )
    outputs = {i for copy in longest for i in _read_outside(copy)}
    repeats = Repeats(tuple(longest), tuple(operands), tuple(sorted(outputs)))
    return repeats if len(longest) >= FEWEST and _may_fold(repeats) else None


def _wiring(copy: Sequence[fx.Node]) -> list[list[int | None]]:
    """For every operand of every node its place in the copy, None if outside."""
    place = {node: i for i, node in enumerate(copy)}
    return [[place.get(operand) for operand in _operands(node)] for node in copy]


def _read_outside(copy: Sequence[fx.Node]) -> Iterator[int]:
    inside = set(copy)
    for i, node in enumerate(copy):
        if not inside.issuperset(node.users):
            yield i


def _may_fold(repeats: Repeats) -> bool:
    """Whether tensors only go in and out, no view comes out, none goes in twice.

    A tracer merges a tensor that is passed twice, which may differ between copies.
    """
    for copy in repeats.copies:
        if any(
            tensor_of(copy[i]) is None or is_layout(copy[i]) for i in repeats.outputs
        ):
            return False
    for given in zip(*repeats.operands, strict=True):
        distinct = {_identity(node) for node in given}
        if len(distinct) < len(given) or any(tensor_of(node) is None for node in given):
            return False
    return True


def _identity(node: fx.Node) -> Hashable:
    """Equal for nodes that may turn out to be one tensor when they are traced."""
    while is_layout(node) or is_copy(node):
        if node.target is operator.getitem:
            return node.args
        (source, *_) = node.all_input_nodes
        if _describe(source.meta["val"]) != _describe(node.meta["val"]):
            break
        node = source
    return node


def _fold(gm: fx.GraphModule, repeats: Repeats, name: str) -> None:
    """Add the submodule and call it in place of every copy."""
    first = repeats.copies[0]
    taken = {f"arg{i}_1": node for i, (node, *_) in enumerate(repeats.operands)}
    given = [first[i] for i in repeats.outputs]
    gm.add_submodule(name, part_of(gm, taken, first, given))
    replaced: dict[fx.Node, fx.Node] = {}
    for number, copy in enumerate(repeats.copies):
        with gm.graph.inserting_after(copy[-1]):
            reference = gm.graph.get_attr(name)
        operands = [nodes[number] for nodes in repeats.operands]
        operands = [replaced.get(node, node) for node in operands]
        results = [copy[i] for i in repeats.outputs]
        with gm.graph.inserting_after(reference):
            call = gm.graph.call_function(invoke_subgraph, (reference, name, *operands))
        call.meta["val"] = tuple(node.meta["val"] for node in results)
        with gm.graph.inserting_after(call):
            for i, node in enumerate(results):
                result = gm.graph.call_function(operator.getitem, (call, i))
                result.meta.update(node.meta)
                node.replace_all_uses_with(result)
                replaced[node] = result
        for node in reversed(copy):
            gm.graph.erase_node(node)
