"""The signal of a step, read by the host before the decision: one small tensor.

    error[g] = ||I - I_taylor||_1 / ||I||_1        the paper's e(s), per group
    change   = max over samples of ||x - x_before||_1 / ||x||_1

I is the input of the first region that depends on the latent, which is as good as
watching all of them (PAPER: relational cache scheduling); x is the latent itself, whose
change between calls distinguishes a step from another image. A hash of every
conditioning input follows: a call with another prompt is not the next step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rfc_compile.estimators.base import TAYLOR, changes

LARGEST = 1e6
"""Values of the conditioning are clamped to this magnitude."""

NOT_FINITE = (
    "an input or a weight holds NaN or Inf (or the latent is all zero): such steps run "
    "uncached"
)
"""The warning about a step whose signal is not finite."""

TAYLOR_ORDER = 2
"""Highest order of the input's prediction (PAPER.md uses up to 2)."""


def signal_order(order: int) -> int:
    """Order of the input's Taylor prediction for an estimator of this order."""
    return min(max(order, 1), TAYLOR_ORDER)


def step_signal(
    current: Tensor,
    history: Sequence[Tensor],
    latents: Sequence[Tensor],
    before: Sequence[Tensor],
    conditioning: Sequence[Tensor],
    weights: Tensor,
) -> Tensor:
    """The signal of a step, float32 of shape (G + 1 + number of conditioning inputs,).

    ``history`` holds the kept I, newest first; ``before`` the latents of the branch's
    last call.
    """
    predicted = history[0].float()
    for j, change in enumerate(changes(history, len(history) - 1)):
        weight = weights[TAYLOR, j]
        if weight.ndim:  # a weight per sample
            weight = weight.reshape(-1, *[1] * (change.ndim - 1))
        predicted = predicted + weight * change
    error = prediction_error(current, predicted)
    change = farthest_move(latents, before).reshape(1)
    return torch.cat([error, change, *(fingerprint(c) for c in conditioning)])


def farthest_move(latents: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """The largest relative change of a sample's latent, shape ().

    Not finite where a sample's latent is zero, which tells nothing. One that is zero
    beside others (an input that is switched off, also for the sample without
    conditioning only) has not moved, or by its own size at the step that switches it
    off.
    """
    moves = [
        relative_distance(now, then) for now, then in zip(latents, before, strict=True)
    ]
    if len(latents) > 1:
        sizes = [row_sizes(now) for now in latents]
        others = torch.stack([size.amax() for size in sizes]).amax() > 0
        moves = [
            torch.where((size == 0) & others, (row_sizes(then) != 0).float(), move)
            for size, then, move in zip(sizes, before, moves, strict=True)
        ]
    return torch.stack([move.amax() for move in moves]).amax()


def prediction_error(value: Tensor, predicted: Tensor) -> Tensor:
    """The relative distance per group, shape (G,); 0 for zeros predicted as zeros."""
    distance, size = row_sizes(value.float() - predicted.float()), row_sizes(value)
    size = torch.where(size == 0, distance, size)
    return distance / torch.where(size == 0, 1, size)


def relative_distance(value: Tensor, other: Tensor) -> Tensor:
    """``||value - other||_1 / ||value||_1`` per entry of the leading dimension."""
    return row_sizes(value.float() - other.float()) / row_sizes(value)


def row_sizes(value: Tensor) -> Tensor:
    """``||value||_1`` per entry of the leading dimension."""
    return value.float().abs().flatten(1).sum(1)


def fingerprint(value: Tensor) -> Tensor:
    """A hash of a conditioning input, shape (1,).

    Equal inputs give equal bits; the weights make it sensitive to order. Attention
    masks hold values that would overflow the sum.
    """
    return _weighted(value).sum().reshape(1)


def fingerprint_and_size(value: Tensor) -> Tensor:
    """The fingerprint and the norm of what it sums, shape (2,)."""
    terms = _weighted(value)
    return torch.stack([terms.sum(), terms.norm()])


def _weighted(value: Tensor) -> Tensor:
    flat = value.reshape(-1).float().clamp(-LARGEST, LARGEST)
    weights = torch.arange(flat.shape[0], device=flat.device).float().cos() + 1.5
    return flat * weights


@dataclass(frozen=True)
class Signal:
    """A step's signal on the host.

    Attributes:
        errors: prediction error of the watched input, per group.
        change: relative change of the latent since the branch's last call.
        conditioning: fingerprints of the conditioning inputs.
        finite: whether the latent, the watched input, the conditioning and the timestep
            hold ordinary numbers only.
    """

    errors: tuple[float, ...]
    change: float
    conditioning: tuple[float, ...]
    finite: bool

    @classmethod
    def read(cls, signal: Tensor, conditioning: int, timestep: float = 0.0) -> Signal:
        """Copy a signal to the host, the only wait of a step.

        ``timestep`` is its value, where it is known.
        """
        values = signal.tolist()
        groups = len(values) - conditioning - 1
        return cls(
            errors=tuple(values[:groups]),
            change=values[groups],
            conditioning=tuple(values[groups + 1 :]),
            finite=all(map(math.isfinite, (*values, timestep))),
        )

    @property
    def error(self) -> float:
        """The worst group's prediction error; NaN if any is not finite."""
        return max(self.errors) if self.finite else math.nan
