"""Layers of torch.nn that PyTorch's fast path runs as one op, op by op.

    before   _transformer_encoder_layer_fwd(x, 64, 4, qkv_weight, ...)    one op
    after    add(x, attention(x)), layer_norm, add(x, linear(gelu(linear(x)))), ...

One op hides the residual stream, and torch's fake strides of its result are wrong. The
ops and their order are those of the op's kernel on CPU
(aten/src/ATen/native/transformers): there the values are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rfc_compile.torch_internals import (
    FUSED_ATTENTION,
    FUSED_LAYER,
    masked_softmax,
)


def opened(function: Any, arguments: Sequence[Any]) -> Any:
    """The decomposition of ``function``; most are left as they are."""
    if function is FUSED_LAYER:
        return encoder_layer
    if function is FUSED_ATTENTION:
        query, key, value = arguments[:3]
        return self_attention if query is key is value else function
    return function


def encoder_layer(
    source: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """PyTorch's fused encoder layer; (B, T, width) to the same."""

    def norm1(x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), norm1_weight, norm1_bias, eps)

    def norm2(x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), norm2_weight, norm2_bias, eps)

    x = norm1(source) if norm_first else source
    projections = in_weight, in_bias, out_weight, out_bias
    x, _ = _attention(x, width, heads, *projections, mask, mask_type)
    x = x + source.contiguous()  # added in place there: a result laid out as x
    x = x if norm_first else norm1(x)
    hidden = F.linear(norm2(x) if norm_first else x, up_weight, up_bias)
    hidden = F.gelu(hidden) if use_gelu else F.relu(hidden)
    x = F.linear(hidden, down_weight, down_bias) + x
    return x if norm_first else norm2(x)


def self_attention(
    query: Tensor,
    _key: Tensor,
    _value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor]:
    """PyTorch's fused attention of one tensor to itself, (B, T, width)."""
    result, weights = _attention(
        query,
        width,
        heads,
        *(in_weight, in_bias, out_weight, out_bias),
        mask,
        mask_type,
    )
    if not need_weights:
        return result, query.new_empty(0)
    return result, weights.sum(1) / heads if average_attn_weights else weights


def _attention(
    x: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    mask: Tensor | None,
    mask_type: int | None,
) -> tuple[Tensor, Tensor]:
    """The result (B, T, width) and the weights (B, heads, T, T)."""
    batch, length, _ = x.shape
    projected = F.linear(x, in_weight)
    q, k, v = _rescaled_qkv(projected, in_bias, heads)
    scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
    if mask is None:
        weights = torch.softmax(scores, -1)
    else:
        masked = mask.to(torch.bool)
        weights = masked_softmax(scores, masked, scores.dim() - 1, mask_type)
    read = torch.bmm(weights.flatten(0, 1), v).view(batch, heads, length, -1)
    result = F.linear(
        read.transpose(1, 2).flatten(0, 1).flatten(1), out_weight, out_bias
    )
    return result.view(batch, length, width), weights


def _rescaled_qkv(
    projected: Tensor, bias: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries by the root of their width, keys, values; each (B * heads, T, width).

    Not by torch's own op: its kernel takes no symbols for sizes.
    """
    exact = torch.promote_types(projected.dtype, torch.float32)  # as the op computes
    summed = projected.to(exact) + bias.to(exact)
    parts = summed.view(*projected.shape[:2], 3, heads, -1)
    q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
    rounded = np.float64 if exact == torch.float64 else np.float32
    q = q * float(np.reciprocal(np.sqrt(rounded(q.shape[-1]))))
    laid_out = (
        part.to(projected.dtype).clone(memory_format=torch.contiguous_format)
        for part in (q, k, v)
    )
    q, k, v = (part.flatten(0, 1) for part in laid_out)
    return q, k, v
