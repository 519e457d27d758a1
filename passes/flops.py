"""Floating point operations per node, and which nodes count as expensive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from rfc_compile.passes.graph import aten, packet, tensor_of
from rfc_compile.torch_internals import size_hint

_INTEGER_MATMULS = frozenset({"_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm"})


def is_attention(node: fx.Node) -> bool:
    """Whether the node is one of torch's fused attention ops."""
    return node.op == "call_function" and any(
        part in str(packet(node))
        for part in ("scaled_dot_product", "flash_attention", "flex_attention")
    )


def is_expensive(node: fx.Node) -> bool:
    """Whether the node is a matmul, a convolution or an attention op."""
    if node.op != "call_function":
        return False
    op = packet(node)
    return (
        op in flop_registry
        or is_attention(node)
        or getattr(op, "__name__", "") in _INTEGER_MATMULS
    )


def flops(node: fx.Node) -> int:
    """Floating point operations of one node; 0 for cheap ops (torch's own formulas).

    Symbolic sizes count with the sizes of the first call.
    """
    if not is_expensive(node):
        return 0
    arguments, keywords, result = fx.map_arg(
        (node.args, node.kwargs, node), lambda operand: _sized(operand.meta["val"])
    )
    formula: Callable[..., Any] | None = flop_registry.get(packet(node))
    if formula is not None:
        return int(formula(*arguments, **keywords, out_val=result))
    shapes = [a.shape for a in arguments if isinstance(a, torch.Tensor)]
    if is_attention(node):  # torch's registry lacks the CPU's flash attention
        return int(sdpa_flop_count(*shapes[:3]))  # type: ignore[no-untyped-call]
    return int(2 * shapes[0].numel() * shapes[1][-1])


def _sized(value: Any) -> Any:
    """A value with the sizes of the first call: counting must not guard on sizes."""
    if isinstance(value, torch.Tensor):
        return torch.empty([size_hint(size) for size in value.shape], device="meta")
    if isinstance(value, tuple | list):
        return tuple(map(_sized, value))
    return size_hint(value) if isinstance(value, torch.SymInt) else value


def is_conv(node: fx.Node) -> bool:
    """Whether the node is a convolution."""
    return node.op == "call_function" and packet(node) in (
        aten.convolution,
        aten._convolution,
    )


def is_matmul_of_activations(node: fx.Node, static: frozenset[fx.Node]) -> bool:
    """Whether a matmul has no parameter among its operands (attention by hand)."""
    if node.op != "call_function" or packet(node) not in (aten.bmm, aten.baddbmm):
        return False
    return not any(operand in static for operand in node.all_input_nodes) and all(
        tensor_of(operand) is not None for operand in node.all_input_nodes
    )
