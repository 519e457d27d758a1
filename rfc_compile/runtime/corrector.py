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
go on as they did. Source: derived in docs/METHOD.md; no published cache does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rfc_compile.runtime.sampler_fit import Array, Fit

LARGEST = 4.0
"""More than this many times ``delta`` is never added: B_b is small against the debt."""

RATIO = 2.0
"""B of a step is at most this many times that of the step before."""


@dataclass
class Debt:
    """What one guidance branch owes since its last full step.

    ``sums`` is S up to the common factor of its remainder, (R,); None where a step was
    not linear in what the sampler was given. ``remainder`` is that of the newest step,
    not yet added: its B shows at the next one.
    """

    nodes: Sequence[float] = ()
    sums: Array | None = None
    remainder: float = 0.0
    last: Array = field(default_factory=lambda: np.zeros(0))
    before: Array = field(default_factory=lambda: np.zeros(0))
    carried: Array = field(default_factory=lambda: np.zeros(0))

    def begin(self, nodes: Sequence[float]) -> None:
        """A full step was taken; ``nodes`` are the times its predictions go through."""
        self.nodes, self.sums, self.remainder = nodes, np.zeros(1), 0.0

    def note_cached(self, time: float) -> None:
        """A step at this time was predicted."""
        self.remainder = self._product(time)

    def carry_on(self, fit: Fit | None, own: int) -> None:
        """The fit of the step before; ``own`` is the index of this branch's output."""
        if fit is None or not fit.explained:
            self.sums = None
        if fit is None:
            return
        self.before, self.last, self.carried = self.last, fit.b[:, own], fit.a
        if self.sums is not None:
            self.sums = fit.a * self.sums + self.last * self.remainder

    def share(self, time: float) -> Array | None:
        """C at a full step at this time, (R,); None where nothing is owed or known."""
        if self.sums is None or not np.any(self.sums):
            return None
        ratio = np.ones_like(self.last)
        if self.before.shape == self.last.shape:
            safe = np.where(self.before == 0, 1.0, self.before)
            ratio = np.clip(self.last / safe, 1 / RATIO, RATIO)
        weight, remainder = self.last * ratio, self._product(time)
        if remainder == 0 or np.any(weight == 0):
            return None
        c = self.carried * self.sums / (weight * remainder)
        return np.clip(c, -LARGEST, LARGEST) if np.all(np.isfinite(c)) else None

    def _product(self, time: float) -> float:
        return float(np.prod([time - node for node in self.nodes]))
