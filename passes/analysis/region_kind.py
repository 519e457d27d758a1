"""What a region is: attention, an MLP, both, or convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.passes.analysis.flops import (
    is_attention,
    is_conv,
    is_expensive,
    is_matmul_of_activations,
)
from rfc_compile.passes.fx_utils import Ancestry, aten, packet, tensor_of
from rfc_compile.torch_internals import is_collective

_ACTIVATIONS = frozenset(
    {aten.gelu, aten.silu, aten.relu, aten.sigmoid, aten.tanh, aten.elu, aten.mish}
)


def kind_of(
    nodes: Sequence[fx.Node], ancestry: Ancestry, static: frozenset[fx.Node]
) -> str:
    """The kind of a region with these nodes."""
    maps = ancestry.bits(filter(is_expensive, nodes))
    attention = {
        node
        for node in nodes
        if is_attention(node)
        or is_matmul_of_activations(node, static)
        or _is_opaque_attention(node, ancestry, maps)
    }
    if not attention:
        return "conv" if any(map(is_conv, nodes)) else "mlp"
    attended = ancestry.bits(attention)
    activated = any(
        node.op == "call_function"
        and packet(node) in _ACTIVATIONS
        and ancestry.masks[node] & maps
        and _feeds_a_linear(node, ancestry, attended)
        for node in nodes
    )
    return "attention+mlp" if activated else "attention"


def is_single_linear_map(nodes: Sequence[fx.Node], static: frozenset[fx.Node]) -> bool:
    """Whether the nodes hold one linear or convolution and nothing else expensive.

    Collectives do not count: they bring the parts of one map together.
    """
    expensive = [n for n in nodes if is_expensive(n) and not is_collective(n)]
    return len(expensive) == 1 and not (
        is_attention(expensive[0]) or is_matmul_of_activations(expensive[0], static)
    )


def _is_opaque_attention(node: fx.Node, ancestry: Ancestry, maps: int) -> bool:
    """Whether somebody's own op attends: what it reads is projected inside the region.

    Queries, keys and values, keys shaped like values; or all three in one tensor.
    ``maps`` are the linears of the region.
    """
    target, result = node.target, _first_tensor(node)
    if not isinstance(target, torch._ops.OpOverload) or result is None:
        return False
    if target.namespace in ("aten", "prims") or is_collective(node):
        return False
    read = [
        value
        for operand in node.all_input_nodes
        if ancestry.masks[operand] & maps
        and (value := tensor_of(operand)) is not None
        and value.ndim >= 3
    ]
    if len(read) == 1:
        return statically_known_true(read[0].numel() == 3 * result.numel())
    return len(read) >= 3 and _alike(read[1], read[2]) and _alike(read[0], result)


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether shapes are the same but for the width of a head."""
    return a.ndim == b.ndim and all(
        statically_known_true(m == n)
        for m, n in zip(a.shape[:-1], b.shape[:-1], strict=True)
    )


def _first_tensor(node: fx.Node) -> torch.Tensor | None:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return first if isinstance(first, torch.Tensor) else None


def _feeds_a_linear(activation: fx.Node, ancestry: Ancestry, attended: int) -> bool:
    """Whether a linear reads the activation: it is no gate or feature map of attention.

    ``attended`` are the attention ops.
    """
    after = bool(ancestry.masks[activation] & attended)
    pending, seen = [activation], {activation}
    while pending:
        for user in pending.pop().users:
            if user in seen or user.op != "call_function":
                continue
            seen.add(user)
            gates = packet(user) is aten.mul and ancestry.masks[user] & attended
            if attended >> ancestry.index[user] & 1 or (gates and not after):
                continue
            if is_expensive(user):
                return True
            pending.append(user)
    return False
