"""Find the residual adds: where a branch is added back to the residual stream.

    stream ------------------------------.
      |                                   add -> stream
      '- norm - linear - ... - gate mul -'
                  (branch)

A residual add is ``add(x, b)`` (or ``addcmul(x, gate, v)``) with equal shapes where
``x``, walked through casts, views, slices and earlier adds of the same chain, is an
ancestor of ``b``, depends on the latent or text input, and an expensive op lies
between. Scores of attention with a bias are no stream. A vector per sample (the
conditioning of a mapping network, a pooled text) is no stream of tokens. No model
names: the graph itself shows where the stream is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.fx_utils import (
    Ancestry,
    aten,
    base_of,
    is_copy,
    is_layout,
    packet,
    same_shape,
    tensor_of,
)


@dataclass(frozen=True)
class ResidualAdd:
    """One add on the residual stream.

    Attributes:
        node: the add (or addcmul).
        stream: the value of the stream, the same for all views and casts of it.
        start: the view or cast of ``stream`` that the branch starts from.
        branch: the operand that the branch computes.
        expensive: matmuls, convolutions and attention between stream and branch.
    """

    node: fx.Node
    stream: fx.Node
    start: fx.Node
    branch: fx.Node
    expensive: tuple[fx.Node, ...]


def residual_stream(
    gm: fx.GraphModule, sources: frozenset[fx.Node], ancestry: Ancestry
) -> tuple[ResidualAdd, ...]:
    """All residual adds of a functional graph, in graph order (analysis only).

    ``sources`` are the latent and text placeholders: a stream depends on one.
    """
    samples = _samples(sources)
    expensive = ancestry.bits(
        node
        for node in ancestry.nodes
        if is_expensive(node) and not _holds_vectors(node, samples)
    )
    from_sources = ancestry.bits(sources)
    found: dict[fx.Node, ResidualAdd] = {}
    for node in gm.graph.nodes:
        if _holds_vectors(node, samples):
            continue
        for skip, branch in _operands(node):
            add = _residual_add(
                node, skip, branch, found, ancestry, expensive, from_sources
            )
            if add is not None and not _are_scores(node):
                found[node] = add
    return tuple(found.values())


def _samples(sources: frozenset[fx.Node]) -> list[Any]:
    """The numbers of samples of the sources; none where a source is itself vectors."""
    shapes = [node.meta["val"].shape for node in sources]
    return [] if any(len(shape) < 3 for shape in shapes) else [s[0] for s in shapes]


def _holds_vectors(node: fx.Node, samples: Sequence[Any]) -> bool:
    """Whether a node is one vector per sample, (B, C) or (B, 1, C)."""
    value = tensor_of(node)
    if value is None or value.ndim < 2:
        return False
    rows, *between, _ = value.shape
    return all(statically_known_true(size == 1) for size in between) and any(
        statically_known_true(rows == size) for size in samples
    )


def _operands(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Every (skip, branch) reading of an add; none for other nodes."""
    if node.op != "call_function":
        return
    if packet(node) is aten.add and node.kwargs.get("alpha", 1) == 1:
        a, b = node.args[:2]
        if isinstance(a, fx.Node) and isinstance(b, fx.Node):
            yield a, b
            yield b, a
    elif packet(node) is aten.addcmul and node.kwargs.get("value", 1) == 1:
        skip, gate, value = node.args[:3]
        assert isinstance(skip, fx.Node)
        for branch in (value, gate):
            if isinstance(branch, fx.Node):
                yield skip, branch


def _residual_add(
    node: fx.Node,
    skip: fx.Node,
    branch: fx.Node,
    found: dict[fx.Node, ResidualAdd],
    ancestry: Ancestry,
    expensive: int,
    from_sources: int,
) -> ResidualAdd | None:
    result, operand, added = tensor_of(node), tensor_of(skip), tensor_of(branch)
    if result is None or operand is None or added is None:
        return None
    if not (same_shape(operand, result) and same_shape(added, result)):
        return None
    stream = base_of(skip)
    while not ancestry.depends(branch, stream) and stream in found:
        stream = found[stream].stream  # parallel branches: x + attn(x) + mlp(x)
    if stream is branch or not ancestry.depends(branch, stream):
        return None
    if not ancestry.masks[stream] & from_sources:
        return None
    start = skip  # two streams may be slices of one value
    while not ancestry.depends(branch, start) and start is not base_of(skip):
        start = start.all_input_nodes[0]
    if not ancestry.depends(branch, start):
        start = stream
    inside = ancestry.between(start, branch, expensive)
    return ResidualAdd(node, stream, start, branch, tuple(inside)) if inside else None


def _are_scores(node: fx.Node) -> bool:
    """Whether a sum goes to a softmax with little work between."""
    reached = [node]
    for value in reached:
        for user in value.users:
            if packet(user) in _SOFTMAX:
                return True
            follows = is_layout(user) or is_copy(user) or packet(user) in _ON_SCORES
            if follows and user not in reached and len(reached) < _NEAR:
                reached.append(user)
    return False


_NEAR = 8
"""Operations on the scores: masks, scales, casts."""

_SOFTMAX = (aten._softmax, aten._safe_softmax, aten.softmax)
_ON_SCORES = (aten.add, aten.mul, aten.div, aten.where, aten.masked_fill)
