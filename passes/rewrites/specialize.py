"""Loop unswitching: one graph with conditionals becomes straight-line graphs.

    before                     after, dynamic schedule     after, static schedule
    x = ...                    probe:  x, I, signal        full:   x, I, region, ...
    I = modulate(norm(x))      full:   region, gate, ...   cached: x, I, estimate, ...
    signal, predicate          cached: estimate, gate, ...
    O = conditional(...)
    out = x + gate * O ...

``probe`` runs up to the signal; ``full`` and ``cached`` continue from its live values,
so no work is done twice. Without a probe, ``full`` and ``cached`` are whole forwards
that return the signal after the model's outputs. A standalone probe returns only the
signal, and ``full`` and ``cached`` are whole forwards without it: for graphs that may
follow the decision of another one. Writes to the state come last in ``full``.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from rfc_compile.passes.fx_utils import (
    Ancestry,
    aten,
    inline,
    is_layout,
    part_of,
    remove_dead_code,
    results_of,
)
from rfc_compile.passes.rewrites.conditional import conditional, decide
from rfc_compile.torch_internals import graph_module


@dataclass(frozen=True)
class Subgraph:
    """A straight-line graph and where its inputs come from.

    Attributes:
        gm: the graph; its outputs are a tuple.
        takes: names of its inputs, in order: placeholders of the whole graph, or
            names of the probe's live values.
        gives: names of its outputs, in order.
    """

    gm: fx.GraphModule
    takes: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Specialized:
    """The graphs of one forward.

    Attributes:
        probe: up to the signal, or None where full and cached are whole forwards.
        inputs: names of all inputs: the model's, the state's, ``weights``, ``limit``.
        examples: their fake values.
    """

    probe: Subgraph | None
    full: Subgraph
    cached: Subgraph
    inputs: tuple[str, ...]
    examples: tuple[Any, ...]

    @property
    def graphs(self) -> dict[str, Subgraph]:
        """The graphs that exist, by name."""
        named = {"probe": self.probe, "full": self.full, "cached": self.cached}
        return {name: graph for name, graph in named.items() if graph is not None}


_ORIGIN = "rfc_origin"  # key of node.meta: the node's name in the conditional graph


def specialize(
    gm: fx.GraphModule, *, probe: bool, standalone_probe: bool = False
) -> Specialized:
    """Split a hoisted conditional graph; ``gm`` itself is left as it is."""
    before = _before_signal(gm)
    full, cached = _branch(gm, taken=True), _branch(gm, taken=False)
    remove_dead_code(full)
    remove_dead_code(cached)
    placeholders = gm.graph.find_nodes(op="placeholder")
    inputs = tuple(node.name for node in placeholders)
    examples = tuple(node.meta["val"] for node in placeholders)
    if standalone_probe:
        head = _head(gm, before, [])
        whole = (_whole(full, signal=False), _whole(cached, signal=False))
        return Specialized(head, *whole, inputs, examples)
    if not probe:
        return Specialized(None, _whole(full), _whole(cached), inputs, examples)
    full_tail, cached_tail = _tail(full, before), _tail(cached, before)
    live = dict.fromkeys((*full_tail.takes, *cached_tail.takes))
    head = _head(gm, before, [name for name in live if name not in inputs])
    return Specialized(head, full_tail, cached_tail, inputs, examples)


def _branch(gm: fx.GraphModule, *, taken: bool) -> fx.GraphModule:
    """A copy of ``gm`` with every conditional replaced by one of its branches.

    Its outputs are the model's outputs, then the signal.
    """
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    inlined: dict[fx.Node, tuple[fx.Node, ...]] = {}
    writes: list[tuple[fx.Node, fx.Node]] = []
    signal: fx.Node | None = None
    parts = _parts_of_conditionals(gm)
    for node in gm.graph.nodes:
        source = node.args[0] if node.args else None
        if node.target is decide or node in parts:
            continue
        if node.target is conditional:
            inlined[node] = _taken(gm, graph, node, mapping, writes, taken=taken)
        elif node.op == "call_module":
            operands = [mapping[operand] for operand in node.args]
            inlined[node] = inline(graph, _module(gm, node.target), operands)
            (signal,) = inlined[node]
        elif source in inlined:
            mapping[node] = inlined[source][node.args[1]]
        elif node.op == "output":
            for slot, value in writes:
                write = graph.call_function(aten.copy_.default, (slot, value))
                write.meta["val"] = slot.meta["val"]
            outputs = fx.map_arg(node.args[0], mapping.__getitem__)
            graph.output((*outputs, signal))
        else:
            mapping[node] = graph.node_copy(node, mapping.__getitem__)
            mapping[node].meta[_ORIGIN] = node.name
    return graph_module(gm, graph)


def _taken(
    gm: fx.GraphModule,
    graph: fx.Graph,
    node: fx.Node,
    mapping: dict[fx.Node, fx.Node],
    writes: list[tuple[fx.Node, fx.Node]],
    *,
    taken: bool,
) -> tuple[fx.Node, ...]:
    """Inline the branch of one conditional; its writes are collected."""
    given: Any = node.args
    _, region, observe, estimate, *rest = given
    operands, inputs, state, written, weights = fx.map_arg(
        tuple(rest), mapping.__getitem__
    )
    if not taken:
        return inline(graph, _module(gm, estimate), (*inputs, *state, weights))
    outputs = inline(graph, _module(gm, region), operands)
    values = inline(graph, _module(gm, observe), (*inputs, *outputs, *state))
    writes += [
        (state[index], value)
        for index, value in zip(written, values, strict=True)
        if index is not None
    ]
    return outputs


def _parts_of_conditionals(gm: fx.GraphModule) -> set[fx.Node]:
    """The submodules that conditionals name; others belong to higher-order ops."""
    calls = gm.graph.find_nodes(op="call_function", target=conditional)
    return {part for call in calls for part in call.args[1:4]}


def _module(gm: fx.GraphModule, reference: object) -> fx.GraphModule:
    name = reference.target if isinstance(reference, fx.Node) else reference
    module = gm.get_submodule(str(name))
    assert isinstance(module, fx.GraphModule)
    return module


def _before_signal(gm: fx.GraphModule) -> set[str]:
    """Names of the values that the probe can return: what the signal needs, computed.

    Of the conditional graph, since a branch may lack what the other one reads.
    """
    ancestry = Ancestry(gm.graph)
    (signal,) = gm.graph.find_nodes(op="call_module")
    needed = [
        node
        for node in ancestry.nodes
        if node.op != "placeholder" and ancestry.depends(signal, node)
    ]
    others = [  # other results of ops that the probe runs anyway
        user
        for node in needed
        for user in node.users
        if user.target is operator.getitem and not is_layout(user)
    ]
    return {node.name for node in (*needed, *others)}


def _prefix(gm: fx.GraphModule, before: set[str]) -> set[fx.Node]:
    """What the probe runs of a branch: the inlined signal and what it can give."""
    ancestry = Ancestry(gm.graph)
    signal = results_of(gm.graph)[-1]
    return {
        node
        for node in ancestry.nodes
        if node.op != "placeholder"
        and (node.meta.get(_ORIGIN) in before or ancestry.depends(signal, node))
    }


def _whole(gm: fx.GraphModule, *, signal: bool = True) -> Subgraph:
    outputs = results_of(gm.graph)
    if not signal:
        gm.graph.output_node().args = (outputs[:-1],)
        remove_dead_code(gm)
    used = [node for node in gm.graph.find_nodes(op="placeholder") if node.users]
    return _extract(gm, used, _kept(gm, set()), results_of(gm.graph))


def _tail(gm: fx.GraphModule, before: set[str]) -> Subgraph:
    """What remains of a branch after the probe; views of live values are made again."""
    prefix = _prefix(gm, before)
    outputs = results_of(gm.graph)[:-1]
    kept = _kept(gm, prefix)
    pending = list(kept)
    pending += [node for node in outputs if isinstance(node, fx.Node)]
    takes: dict[fx.Node, None] = {}
    nodes = set(kept)
    while pending:
        node = pending.pop()
        outside = node in prefix or node.op == "placeholder"
        operands = [node] if outside else node.all_input_nodes
        for operand in operands:
            if operand in nodes or operand in takes:
                continue
            if operand.op != "get_attr" and not is_layout(operand):
                takes[operand] = None
            else:
                nodes.add(operand)
                pending += operand.all_input_nodes
    ordered = [node for node in gm.graph.nodes if node in takes]
    return _extract(gm, ordered, nodes, outputs)


def _head(gm: fx.GraphModule, before: set[str], live: Sequence[str]) -> Subgraph:
    """The probe: the signal, then the live values of these names."""
    gm = _branch(gm, taken=False)
    prefix = _prefix(gm, before)
    by_name = {node.meta.get(_ORIGIN): node for node in prefix}
    outputs = [results_of(gm.graph)[-1], *(by_name[name] for name in live)]
    takes = [
        node
        for node in gm.graph.find_nodes(op="placeholder")
        if any(user in prefix for user in node.users)
    ]
    return _extract(gm, takes, prefix, outputs)


def _kept(gm: fx.GraphModule, prefix: set[fx.Node]) -> set[fx.Node]:
    return {
        node
        for node in gm.graph.nodes
        if node.op not in ("placeholder", "output") and node not in prefix
    }


def _extract(
    gm: fx.GraphModule,
    takes: Sequence[fx.Node],
    nodes: set[fx.Node],
    outputs: Sequence[Any],
) -> Subgraph:
    inside = [node for node in gm.graph.nodes if node in nodes]
    result = part_of(gm, {_name(node): node for node in takes}, inside, outputs)
    remove_dead_code(result)
    result.graph.lint()
    return Subgraph(
        gm=result,
        takes=tuple(_name(node) for node in takes),
        gives=tuple(
            _name(node) if isinstance(node, fx.Node) else "" for node in outputs
        ),
    )


def _name(node: fx.Node) -> str:
    return str(node.meta.get(_ORIGIN, node.name))
