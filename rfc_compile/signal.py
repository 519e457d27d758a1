"""What a step tells the host before the decision: one small tensor.

The signal watches the input I of the first region that depends on the latent, which is
as good as watching all of them (PAPER.md, RCS):

    error[g]  = ||I - I_taylor||_1 / ||I||_1       the paper's e(s), per group
    change[g] = ||I - I_0||_1 / ||I||_1            how far the input moved since I_0

and carries one number per conditioning input, so that a call with another prompt is
never taken for the next step of this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rfc_compile.estimators.base import TAYLOR, changes

TAYLOR_ORDER = 2
"""Highest order of the input's prediction (PAPER.md uses up to 2)."""


def signal_order(order: int) -> int:
    """Order of the input's Taylor prediction for an estimator of this order."""
    return min(max(order, 1), TAYLOR_ORDER)


def step_signal(
    current: Tensor,
    inputs: Sequence[Tensor],
    conditioning: Sequence[Tensor],
    weights: Tensor,
) -> Tensor:
    """The signal of a step, float32 of shape (2 G + number of conditioning inputs,)."""
    now = current.float()
    predicted = inputs[0].float()
    for j, change in enumerate(changes(inputs, len(inputs) - 1)):
        predicted = predicted + weights[TAYLOR, j] * change
    size = now.abs().flatten(1).sum(1)
    error = (now - predicted).abs().flatten(1).sum(1) / size
    change = (now - inputs[0].float()).abs().flatten(1).sum(1) / size
    return torch.cat([error, change, *(fingerprint(c) for c in conditioning)])


def fingerprint(value: Tensor) -> Tensor:
    """A number that tells two conditioning inputs apart, shape (1,).

    Equal inputs give equal bits; the weights make it sensitive to order.
    """
    flat = value.reshape(-1).float()
    weights = torch.arange(flat.shape[0], device=flat.device).float().cos() + 1.5
    return (flat * weights).sum().reshape(1)


@dataclass(frozen=True)
class Signal:
    """A step's signal on the host.

    Attributes:
        errors: input prediction error per group.
        changes: relative change of the input since the last full step per group.
        conditioning: fingerprints of the conditioning inputs.

    """

    errors: tuple[float, ...]
    changes: tuple[float, ...]
    conditioning: tuple[float, ...]

    @classmethod
    def read(cls, signal: Tensor, conditioning: int) -> Signal:
        """Copy a signal to the host; the only wait of a step."""
        values = signal.tolist()
        groups = (len(values) - conditioning) // 2
        return cls(
            tuple(values[:groups]),
            tuple(values[groups : 2 * groups]),
            tuple(values[2 * groups :]),
        )

    @property
    def error(self) -> float:
        """The worst group's prediction error; NaN if any is not finite."""
        return _worst(self.errors)

    @property
    def change(self) -> float:
        """The worst group's change; NaN if any is not finite."""
        return _worst(self.changes)


def _worst(values: Sequence[float]) -> float:
    return max(values) if all(map(math.isfinite, values)) else math.nan
