"""Floating point operations per node, and which nodes count as expensive."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from rfc_compile.passes.fx_utils import Ancestry, aten, base_of, packet, tensor_of
from rfc_compile.torch_internals import is_collective, size_hint

_UNREGISTERED = frozenset(
    {"_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "_grouped_mm"}
)
"""Matmuls for which torch has no formula: integers, experts."""


def is_attention(node: fx.Node) -> bool:
    """Whether the node is one of torch's fused attention ops."""
    return node.op == "call_function" and _is_attention_op(packet(node))


@functools.cache
def _is_attention_op(op: object) -> bool:
    name = str(op)
    return any(
        part in name
        for part in ("scaled_dot_product", "flash_attention", "flex_attention")
    )


def is_expensive(node: fx.Node) -> bool:
    """Whether the node is a matmul, a convolution, an attention op or a collective."""
    if node.op != "call_function":
        return False
    op = packet(node)
    return (
        op in flop_registry
        or is_attention(node)
        or is_collective(node)
        or getattr(op, "__name__", "") in _UNREGISTERED
    )


def flops(node: fx.Node) -> int:
    """Floating point operations of one node; 0 for cheap ops (torch's own formulas).

    Symbolic sizes count with the sizes of the first call.
    """
    if not is_expensive(node) or is_collective(node):
        return 0
    arguments, keywords, result = fx.map_arg(
        (node.args, node.kwargs, node), lambda operand: _sized(operand.meta.get("val"))
    )
    formula: Callable[..., Any] | None = flop_registry.get(packet(node))
    if formula is not None:
        return int(formula(*arguments, **keywords, out_val=result))
    shapes = [a.shape for a in arguments if isinstance(a, torch.Tensor)]
    if is_attention(node):  # torch's registry lacks the CPU's flash attention
        return int(sdpa_flop_count(*shapes[:3]))  # type: ignore[no-untyped-call]
    return int(2 * shapes[0].numel() * shapes[1][-1])


def block_flops(
    ancestry: Ancestry, sources: frozenset[fx.Node], *, has_regions: bool
) -> int:
    """FLOPs of repeated modules (``blocks.3``) on values of the latent or the text.

    The most that regions could hold: embeddings of the whole input, the output's
    projection and what depends on the timestep alone are outside. A graph with
    attention or regions, but without repeated modules, is itself a block.
    """
    data = ancestry.bits(sources)
    nodes = [n for n in ancestry.nodes if is_expensive(n) and ancestry.masks[n] & data]
    held = Counter(path for node in nodes for path in _indexed_modules(node))
    repeated = [
        node
        for node in nodes
        if any(held[path] > 1 for path in _indexed_modules(node))  # no mere layer
    ]
    if not repeated and (has_regions or any(map(is_attention, nodes))):
        repeated = nodes
    return sum(map(flops, repeated))


def _indexed_modules(node: fx.Node) -> list[str]:
    """The modules around a node that are entries of a list."""
    stack = node.meta.get("nn_module_stack", {}).values()
    paths = [str(path) for path, _ in stack]
    return [path for path in paths if re.search(r"(\.\d+|\[\d+\]|'\d+'\])$", path)]


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
    operands = node.all_input_nodes
    return all(tensor_of(operand) is not None for operand in operands) and not any(
        base_of(operand) in static for operand in operands
    )
