"""What a region is: attention, an MLP, both, or convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from rfc_compile.passes.analysis.flops import (
    is_attention,
    is_conv,
    is_expensive,
    is_matmul_of_activations,
)
from rfc_compile.passes.fx_utils import Ancestry, aten, packet
from rfc_compile.torch_internals import is_collective

_ACTIVATIONS = frozenset(
    {aten.gelu, aten.silu, aten.relu, aten.sigmoid, aten.tanh, aten.elu, aten.mish}
)


def kind_of(
    nodes: Sequence[fx.Node], ancestry: Ancestry, static: frozenset[fx.Node]
) -> str:
    """The kind of a region with these nodes."""
    attention = {
        node
        for node in nodes
        if is_attention(node) or is_matmul_of_activations(node, static)
    }
    if not attention:
        return "conv" if any(map(is_conv, nodes)) else "mlp"
    expensive = ancestry.bits(filter(is_expensive, nodes))
    attended = ancestry.bits(attention)
    activated = any(
        node.op == "call_function"
        and packet(node) in _ACTIVATIONS
        and ancestry.masks[node] & expensive
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
