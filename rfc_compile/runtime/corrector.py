"""A full step repays what the cached steps before it integrated wrongly.

A cached step returns a prediction that errs; the sampler has added up these errors when
the next full step b comes. There the prediction is made as well, and its error

    delta = y_b - yhat_b

tells those of the cached steps since the full step a: a predictor through the full
steps at u_i errs by ``delta g_j`` at step j (Newton's remainder). The sampler is linear
(``sampler_fit``), so the latent at b is off by ``delta`` times one number per row:

    g_j = prod_i (u_j - u_i) / prod_i (u_b - u_i)
    S   = sum_j A_{b-1} ... A_{j+1} B_j g_j
    y_b' = y_b + c delta,      c = S A_b / B_b

What is kept for predictions stays uncorrected. A_b and B_b are not known yet at b; they
go on as they did. Source: derived in docs/method.md; no published cache does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.sampler_fit import Array, Fit, precise
from rfc_compile.schedules.base import Curvature

LARGEST = 8.0
"""More than this many times ``delta`` is never added: B_b is small against the debt."""

EXACT = 0.005
"""Residual below which the sampler takes nothing but the last output; above it (a
multistep solver) the fit is an approximation, and half of a debt is repaid."""


def _none() -> Array:
    return np.zeros(0)


@dataclass(frozen=True)
class Debt:
    """What one guidance branch owes since its last full step.

    Attributes:
        nodes: times of the full steps that its predictions go through, newest first.
        sums: S up to the common factor of its remainder, (R,); None where a step was
            not linear in what the sampler was given.
        remainder: that of the newest step, not yet added: its B shows at the next one.
        a: A of the last step, (R,).
        b: B of the last step, (R,); empty before one is known.
        residual: the largest of the fits since the last full step.

    """

    nodes: tuple[float, ...] = ()
    sums: Array | None = None
    remainder: float = 0.0
    a: Array = field(default_factory=_none)
    b: Array = field(default_factory=_none)
    residual: float = 0.0

    def carried_on(self, fit: Fit | None) -> Debt:
        """With the fit of the step before, its own output first; None: not known."""
        if fit is None or not fit.linear:
            return Debt(self.nodes)
        sums = self.sums
        if sums is not None:
            sums = fit.a * sums + fit.b[:, 0] * self.remainder
        residual = max(self.residual, fit.residual)
        return replace(self, sums=sums, a=fit.a, b=fit.b[:, 0], residual=residual)

    def after(self, time: float, nodes: Sequence[float], *, full: bool) -> Debt:
        """After a step at this time; ``nodes`` are the kept full steps' times."""
        if not full:
            return replace(self, remainder=_product(time, self.nodes))
        return Debt(tuple(nodes), np.zeros(1), 0.0, self.a, self.b)

    def share(self, time: float) -> Array | None:
        """C at a full step at this time, (R,); None where nothing is owed or known."""
        remainder = _product(time, self.nodes)
        if self.sums is None or not self.b.size or remainder == 0:
            return None
        weight = np.where(self.b == 0, np.inf, self.b)
        c = np.clip(self.a * self.sums / (weight * remainder), -LARGEST, LARGEST)
        if not np.any(c) or not np.all(np.isfinite(c)):
            return None
        return c if self.residual <= EXACT else 0.5 * c

    def curvature(
        self,
        time: float,
        error: Array,
        sizes: tuple[Array, Array],
        nodes: Sequence[float],
    ) -> Curvature | None:
        """What the error (R,) of a full step's prediction says of those that follow.

        ``error`` is the norm of delta, ``sizes`` those of the output and the latent,
        (R,); ``nodes`` are the times of the full steps that are kept now. None where B
        is not known.
        """
        remainder = abs(_product(time, self.nodes))
        if not self.b.size or remainder == 0 or len(nodes) < len(self.nodes):
            return None
        output, latent = (np.where(size > 0, size, 1.0) for size in sizes)
        weight = float((np.abs(self.b) * error / latent).max()) / remainder
        own = float((error / output).max()) / remainder
        known = math.isfinite(weight) and math.isfinite(own)
        return Curvature(weight, own, tuple(nodes)) if known else None


def _product(time: float, nodes: Sequence[float]) -> float:
    return math.prod(time - node for node in nodes)


def row_norms(values: Tensor) -> Tensor:
    """The norm of every row, (R,)."""
    norms: Tensor = torch.linalg.vector_norm(precise(values).flatten(1), dim=1)
    return norms
