"""One token in n of an input, for those that need inner products alone.

    tokens   0 1 2 3 | 4 5 6 7 | 8 9     strata of n tokens, the last may be shorter
    taken      1     |       7 | 8       one of each, by a hash of the stratum's index

A row is multiplied by the root of its stratum's size over n: n times the inner product
of two sketches is then an unbiased estimate of the values' own, over all hashes. The
coefficients of estimators are ratios of inner products, so that n cancels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from rfc_compile.torch_internals import size_hint

_BITS = 0xFFFFFFFF


def can_sketch(value: Tensor, n: int) -> bool:
    """Whether values like this one have tokens (dim 1) to leave out."""
    sequence = value.ndim >= 3 and value.is_floating_point()
    return sequence and 1 < n < size_hint(value.shape[1])


def strata_of(tokens: int, n: int) -> int:
    """How many of so many tokens are taken."""
    return (tokens + n - 1) // n


def sketched(value: Tensor, n: int, seed: int = 0) -> Tensor:
    """One token in ``n`` of a value (G, T, ...), shape (G, ceil(T / n), ...).

    ``seed`` picks the hash; the same for all values that are compared.
    """
    tokens = value.shape[1]
    stratum = torch.arange(strata_of(tokens, n), device=value.device)
    start = stratum * n
    size = (tokens - start).clamp(max=n)
    rows = value.index_select(1, start + _hash(stratum, seed) % size)
    if statically_known_true(tokens % n == 0):
        return rows
    weight = (size / n).sqrt().reshape(1, -1, *[1] * (value.ndim - 2))
    return (rows.float() * weight).to(value.dtype)


def relative_error(sketch: Tensor, n: int) -> Tensor:
    """Standard error of the whole value's norm over the norm, per group, shape (G,).

    From the sample variance between tokens, with the correction for a finite number of
    tokens; 0 for a value of zeros. ``sketch`` (G, S, ...) needs two tokens.
    """
    squared = sketch.float().square().flatten(2).sum(-1)
    mean, variance = squared.mean(1), squared.var(1)
    error = (variance * (1 - 1 / n) / squared.shape[1]).sqrt()
    return torch.where(mean > 0, error / (2 * mean), torch.zeros_like(mean))


def _hash(index: Tensor, seed: int) -> Tensor:
    """Whole numbers below 2**32 that look random, by multiplying and folding."""
    value = (index * 0x9E3779B1 + (seed + 1) * 0x85EBCA6B) & _BITS
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        value = ((value ^ (value >> shift)) * factor) & _BITS
    return value ^ (value >> 15)
