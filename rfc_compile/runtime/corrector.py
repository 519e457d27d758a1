"""A full step repays what the cached steps before it integrated wrongly.

A cached step returns a prediction that errs; the sampler has added up these errors when
the next full step b comes. There the prediction is made as well, and its error

    delta = y_b - yhat_b

tells those of the cached steps since the full step a: a predictor through the full
steps at u_i errs by ``delta g_j`` at step j (Newton's remainder). The sampler is linear
(``sampler_fit``), so the latent at b is off by ``delta`` times one number per row:

    g_j     = prod_i (u_j - u_i) / prod_i (u_b - u_i)
    e_{j+1} = A_j e_j + B_j g_j + C_j (e_j - e_{j-1}) + D_j g_{j-1}
    y_b'    = y_b + s delta

e_b is what the latent owes, C and D are 0 but for multistep samplers. s is such that
two steps later nothing is owed: a multistep sampler takes y_b' twice. For the others it
is e_b A_b / B_b.

What is kept for predictions stays uncorrected. The factors at b are not known yet; they
go on as they did. Source: derived in docs/method.md; no published cache does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.sampler_fit import EXACT, Array, Fit, precise
from rfc_compile.schedules.base import Curvature

LARGEST = 8.0
"""More than this many times ``delta`` is never added: B_b is small against the debt."""

TAKEN_BACK = 0.25
"""Part of B_b: where less of what is added is left two steps later (UniPC's last steps,
with image prediction), nothing is."""

AFFIRMED = 2.0
"""Measured errors of image prediction count so often: a model finds the image that its
own error has put into the latent, so that half of the error does not show."""

TOWARDS = 0.2
"""Part of the output's weight that the latent loses at least in image prediction."""

ROUGH = 0.05
"""Largest residual of fits whose factors are trusted with the whole of a debt; above it
half of it is repaid."""

LONG_MEMORY = (-0.8, 0.3)
"""Between these, C stands for outputs that are older than those of the fit (UniPC). A
sampler with a C beyond has a longer memory (PNDM): its factors are not those of the
steps to come."""

ORDER_3 = -0.7
"""Solvers of order 3 begin with a C below this, at their third or fourth step (-0.77
to -1.2; UniPC of order 2: -0.46). Later, outputs that are alike hide what counts."""
BEGINS = (3, 4)

NOISY = 2
"""Steps that follow from those before them, after one that does not, and still count as
if they did not."""

OLDER_LATENT = 0.3
"""Where the fit is this exact (``STAGED``) and C is larger, a stage of the sampler has
begun at an older latent (KDPM2)."""
STAGED = 3e-4

UNSTEADY = 3.0
"""Factors of an output that differ by more from one step to the next say nothing of the
step to come: a guidance scale that alternates. Smooth samplers stay below 2, and below
2.8 where their order rises."""

NEGLIGIBLE = 0.01
"""Of the largest factor; smaller ones are those of outputs that do not count."""

CANCELS = 0.5
"""Of errors of guidance branches, what is left in their difference."""

FORGOTTEN = 3.0
"""Under fresh noise the steps to come undo part of an error: of a debt this part stays
in the image of what would without noise."""


@dataclass(frozen=True)
class Debt:
    """What one guidance branch owes since its last full step.

    Attributes:
        nodes: times of the full steps that its predictions go through, newest first.
        owed: e of the newest latent and of the one before, up to the common factor of
            the remainders, (R,) each; None where a step did not follow from what the
            sampler was given.
        remainders: of the newest step, whose factors show at the next one, and of the
            step before.
        fit: how the newest latent followed; None before that is known.
        residual: the largest of the fits since the last full step.
        mixed: whether a latent since then continues as before, not by the factors
            of an output: masks and windows mix outputs part by part (C is positive and
            large; in solvers with a longer memory it is negative).
        rough_weight: the weight of an output in a latent that does not follow, (R,).
        fits: how many of the run's steps followed.
        long_memory: whether the solver takes more outputs than a fit does: nothing is
            repaid.
        noisy: for how many steps that follow latents still count as unexplained.
        alternates: whether the sampler adds noise at every second call: the errors of
            one call say nothing of the next.
    """

    nodes: tuple[float, ...] = ()
    owed: tuple[Array, Array] | None = None
    remainders: tuple[float, float] = (0.0, 0.0)
    fit: Fit | None = None
    residual: float = 0.0
    mixed: bool = False
    rough_weight: Array = field(default_factory=lambda: np.zeros(1))
    fits: int = 0
    long_memory: bool = False
    noisy: int = 0
    alternates: bool = False

    def carried_on(self, fit: Fit | None) -> Debt:
        """With the fit of the step before, its own output first; None: not known."""
        if fit is None:
            return self._anew(self.nodes)
        if not fit.explained:
            rough = np.abs(fit.b[:, 0]) / FORGOTTEN
            anew = replace(self._anew(self.nodes), rough_weight=rough, noisy=NOISY)
            return replace(anew, alternates=self.alternates or 0 < self.noisy < NOISY)
        fits, long = self.fits + 1, self.long_memory
        long |= fits in BEGINS and bool(fit.c.max() < ORDER_3)
        owed = self.owed
        if _memory_is_long(fit) or _is_unsteady(fit, self.fit):
            owed = None
        if owed is not None:
            owed = _next(fit, owed, self.remainders), owed[0]
        residual = max(self.residual, fit.residual)
        mixed = fit.residual > EXACT and bool(fit.c.max() > LONG_MEMORY[1])
        mixed |= self.mixed
        known = replace(self, owed=owed, fit=fit, residual=residual, mixed=mixed)
        noisy = max(0, self.noisy - 1)
        return replace(known, fits=fits, long_memory=long, noisy=noisy)

    def _anew(self, nodes: tuple[float, ...]) -> Debt:
        """With what is known of the solver alone."""
        return Debt(
            nodes,
            rough_weight=self.rough_weight,
            fits=self.fits,
            long_memory=self.long_memory,
            noisy=self.noisy,
            alternates=self.alternates,
        )

    def after(self, time: float, nodes: Sequence[float], *, full: bool) -> Debt:
        """After a step at this time; ``nodes`` are the kept full steps' times."""
        if not full:
            newest = _product(time, self.nodes)
            return replace(self, remainders=(newest, self.remainders[0]))
        nothing = np.zeros(1), np.zeros(1)
        return replace(self._anew(tuple(nodes)), owed=nothing, fit=self.fit)

    def share(self, time: float) -> Array | None:
        """The part of delta that repays it at a full step at this time, (R,).

        None where nothing is owed or known.
        """
        remainder, fit = _product(time, self.nodes), self.fit
        if self.owed is None or fit is None or remainder == 0 or self.long_memory:
            return None
        soon = _next(fit, self.owed, (0.0, self.remainders[0]))
        later = _next(fit, (soon, self.owed[0]), (0.0, 0.0))
        paid = _next(fit, (fit.b[:, 0], np.zeros(1)), (0.0, 1.0))
        weight = np.where(paid == 0, np.inf, paid)
        share = np.clip(later / (weight * remainder), -LARGEST, LARGEST)
        if not np.any(share) or not np.all(np.isfinite(share)):
            return None
        if np.any(np.abs(paid) < TAKEN_BACK * np.abs(fit.b[:, 0])):
            return None
        return share if self.residual <= ROUGH else 0.5 * share

    @property
    def weight(self) -> Array | None:
        """The sampler's weight of an output, all steps that take it together, (R,)."""
        return None if self.fit is None else np.abs(self.fit.b[:, 0] + self.fit.d[:, 0])

    @property
    def predicts_image(self) -> bool:
        """Whether steps go towards the output, as those of image prediction do."""
        if self.fit is None:
            return False
        weight = self.fit.b.sum(axis=1) + self.fit.d.sum(axis=1)
        towards = (weight > 0) & (1 - self.fit.a > TOWARDS * weight)
        return bool(towards.all())

    @property
    def guidance(self) -> Array:
        """How much larger relative errors are in what guidance makes of outputs, (R,).

        It multiplies the branches' difference, in which half of their errors cancel.
        """
        if self.fit is None:
            return np.ones(1)
        whole = np.abs(self.fit.b.sum(axis=1))
        size = np.linalg.norm(self.fit.b, axis=1)
        larger: Array = CANCELS * size / np.where(whole > 0, whole, size + 1)
        return np.maximum(larger, 1.0)

    def curvature(
        self,
        time: float,
        error: Array,
        sizes: tuple[Array, Array],
        nodes: Sequence[float],
    ) -> Curvature | None:
        """What the error (R,) of a full step's prediction says of those that follow.

        ``error`` is the norm of delta, ``sizes`` those of the output and the latent,
        (R,); ``nodes`` are the times of the full steps that are kept now. Where the
        latent is not explained, errors are taken to be alike at any distance.
        """
        if self.alternates:
            return Curvature(math.inf, math.inf, ())
        remainder, by = abs(_product(time, self.nodes)), self.weight
        if self.predicts_image:
            error = AFFIRMED * error
        if remainder == 0 or not 0 < len(self.nodes) <= len(nodes):
            return None
        if by is None or self.noisy:
            by, remainder, nodes = self.rough_weight, 1.0, ()
        else:  # one more node from now on: the next difference is as large over that
            remainder *= abs(time - self.nodes[0]) ** (len(nodes) - len(self.nodes))
        output, latent = (np.where(size > 0, size, 1.0) for size in sizes)
        weight = float((by * error / latent).max()) / remainder
        own = float((error / output).max()) / remainder
        known = math.isfinite(weight) and math.isfinite(own)
        unpaid = self.mixed or self.long_memory
        return Curvature(weight, own, tuple(nodes), unpaid) if known else None


def _next(
    fit: Fit, owed: tuple[Array, Array], remainders: tuple[float, float]
) -> Array:
    """What the next latent owes, of that of the last two and their outputs' errors."""
    newest, before = owed
    carried = fit.a * newest + fit.c * (newest - before)
    result: Array = carried + fit.b[:, 0] * remainders[0] + fit.d[:, 0] * remainders[1]
    return result


def _memory_is_long(fit: Fit) -> bool:
    """Whether the factors of a step are none to go on with."""
    least, most = LONG_MEMORY
    staged = fit.residual < STAGED and np.abs(fit.c).max() > OLDER_LATENT
    return bool(staged or fit.c.min() < least or fit.c.max() > most)


def _is_unsteady(fit: Fit, before: Fit | None) -> bool:
    """Whether the factors of the outputs are far from those of the step before."""
    if before is None or len(before.b) != len(fit.b):
        return False
    now, then = np.abs(fit.b[:, 0]), np.abs(before.b[:, 0])
    larger, smaller = np.maximum(now, then), np.minimum(now, then)
    counts = larger > NEGLIGIBLE * max(np.abs(fit.b).max(), np.abs(before.b).max())
    return bool((counts & (larger > UNSTEADY * smaller)).any())


def _product(time: float, nodes: Sequence[float]) -> float:
    return math.prod(time - node for node in nodes)


def row_norms(values: Tensor) -> Tensor:
    """The norm of every row, (R,)."""
    norms: Tensor = torch.linalg.vector_norm(precise(values).flatten(1), dim=1)
    return norms
