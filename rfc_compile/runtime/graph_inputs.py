"""The inputs of a forward's graphs: picked by position; what the graphs compute."""

from __future__ import annotations

import itertools
from bisect import bisect
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from torch import Tensor, fx

from rfc_compile.passes.analysis.input_roles import ForwardInputs
from rfc_compile.passes.fx_utils import fill_of, is_copy, is_layout
from rfc_compile.passes.rewrites.specialize import Specialized
from rfc_compile.passes.state.state_layout import StateLayout

Pick = Callable[[Sequence[Any]], tuple[Any, ...]]

_LONG: Final = 8
"""Positions in a row, on average, from which on slices are the faster way to pick."""


def picker(positions: Sequence[int]) -> Pick:
    """A fast function from a sequence to its values at these positions."""
    slices = list(_in_a_row(positions))
    if len(slices) == 1:
        (only,) = slices
        return lambda values: tuple(values[only])
    if _LONG * len(slices) > len(positions):
        return itemgetter(*positions) if slices else lambda values: ()

    def pick(values: Sequence[Any]) -> tuple[Any, ...]:
        picked: list[Any] = []
        for part in slices:
            picked += values[part]
        return tuple(picked)

    return pick


def _in_a_row(positions: Sequence[int]) -> Iterator[slice]:
    """The positions as slices, as long as possible."""
    start = 0
    for end in range(1, len(positions) + 1):
        if end == len(positions) or positions[end] != positions[end - 1] + 1:
            yield slice(positions[start], positions[end - 1] + 1)
            start = end


class GraphInputs(NamedTuple):
    """What the graphs of a step pick their inputs from.

    Not one list, so that a graph reads only the parameters that it takes.

    Attributes:
        arguments: what Dynamo passes.
        slots: the state, as ``BranchState.slots``.
        others: the coefficients, behind the probe its results, too.
    """

    arguments: Sequence[Any]
    slots: Sequence[Tensor]
    others: list[Any]


InputPicker = Callable[[GraphInputs], tuple[Any, ...]]


def input_pickers(specialized: Specialized, slots: int) -> dict[str, InputPicker]:
    """For each graph, what picks its inputs; ``slots`` is the length of the state."""
    names = list(specialized.inputs[:-1])  # the last is the limit, which no graph takes
    first_slot, weights = len(names) - 1 - slots, len(names) - 1
    if specialized.probe is not None:
        names += specialized.probe.gives
    index = {name: i for i, name in enumerate(names)}
    starts = 0, first_slot, weights, len(names)
    return {
        name: _route([index[taken] for taken in graph.takes], starts)
        for name, graph in specialized.graphs.items()
    }


def _route(positions: Sequence[int], starts: Sequence[int]) -> InputPicker:
    """A graph takes its inputs group by group, in the order of the pool."""
    groups = [bisect(starts, i) for i in positions]
    assert groups == sorted(groups), "placeholders come before what the probe gives"
    arguments, slots, others = (
        picker([i - start for i in positions if start <= i < end])
        for start, end in itertools.pairwise(starts)
    )
    return lambda pool: (
        *arguments(pool.arguments),
        *slots(pool.slots),
        *others(pool.others),
    )


def owned_by_modules(
    specialized: Specialized, inputs: ForwardInputs, count: int
) -> list[int]:
    """The arguments that belong to modules and are no parameters or buffers."""
    names = {node.name for node in inputs.static}
    return [
        i
        for i, name in enumerate(specialized.inputs[:count])
        if name in names and i not in inputs.static_indices
    ]


def without_reader(
    specialized: Specialized, layout: StateLayout, first: int
) -> frozenset[int]:
    """The rings that a following call does not read.

    A standalone probe runs only in a leading call.
    """
    graphs = [specialized.full, specialized.cached]
    if specialized.probe is not None and len(specialized.probe.gives) > 1:
        graphs.append(specialized.probe)
    used = {name for graph in graphs for name in graph.takes}
    slots = iter(specialized.inputs[first:])
    names = [[next(slots) for _ in range(ring.length)] for ring in layout.rings]
    return frozenset(i for i, ring in enumerate(names) if used.isdisjoint(ring))


def computation_of(specialized: Specialized) -> Hashable:
    """What a full step computes: equal for one forward traced for different sizes.

    Constants are known by their value: where a size is a symbol, other ops make them.
    """

    def numbers(node: fx.Node) -> tuple[float, ...]:
        values = (*node.args, *node.kwargs.values())
        return tuple(value for value in values if isinstance(value, float))

    def constant(node: fx.Node) -> Hashable:
        fill = fill_of(node)
        return fill if isinstance(fill, int | float) else None

    return tuple(
        (str(node.target), numbers(node)) if fill_of(node) is None else constant(node)
        for node in specialized.full.gm.graph.nodes
        if node.op == "call_function" and not is_layout(node) and not is_copy(node)
    )
