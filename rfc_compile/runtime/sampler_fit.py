"""The sampler seen from inside: its next latent is linear in what it was given.

    x_{k+1} = A x_k + sum_i B_i y_{k,i}  [+ C (x_k - x_{k-1}) + sum_i D_i y_{k-1,i}]

x_k is the latent that came in, y_{k,i} the output that guidance branch i returned for
it. The factors are the least-squares fit over the whole latent, one set per row of the
batch; C and D are those of multistep samplers. For a deterministic sampler the residual
is a small part of the latent's move; another image's latent, or fresh noise, is not
explained.

Shapes: R rows of the batch, K vectors, N values of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]

EXPLAINED = 0.2
"""Largest residual, relative to the latent's move, of a call that continues a run.

One step of history leaves up to 0.11 (UniPC), two steps 0.025; fresh noise leaves 0.9,
another image 0.7 and more (`python -m benchmarks residuals`)."""

EXACT = 0.005
"""Residual below which the factors are those of the sampler. One step of history leaves
more where the sampler takes older outputs, too (a multistep solver)."""

_CLOSER = 0.5
"""Two steps of history are taken where they leave less than this share of what one
leaves."""

_REPEATED = 1e-12
"""Cosines of outputs that are the same differ from 1 by less."""

_ROUNDING = 0.5
"""Of a rounded value, in units of its dtype's epsilon."""

_RIDGE = 1e-10
"""Of the largest diagonal entry: outputs that are equal, or zero, stay solvable."""


class Fit(NamedTuple):
    """The fit of one step.

    Attributes:
        residual: norm of what is not explained over that of the latent's move, or of
            the latent where that is smaller, of the worst row; 0 where nothing has
            moved. A latent that shrinks to little moves as far as any other would.
        moved: whether the latent of any row is another one than before.
        explained: whether the latent follows from those before it.
        linear: whether one step of history is enough for that.
        a: factor of the last latent, (R,).
        b: factors of the last outputs, (R, outputs), in the order given.
        c: factor of the latent's move before, (R,); 0 where one step is enough.
        d: factors of the outputs before the last, (R, outputs); 0 likewise.
        returns: whether the latent is the one before the last again.
        change: norm of the latent's move over that of the last latent, of the row where
            it is largest.
    """

    residual: float
    moved: bool
    explained: bool
    linear: bool
    a: Array
    b: Array
    c: Array
    d: Array
    returns: bool = False
    change: float = 0.0

    @property
    def stands(self) -> bool:
        """Whether the latent is the same one as before; not if it is not finite."""
        return not self.moved and self.residual == 0

    def first(self, column: int) -> Fit:
        """With this output's factors first."""
        if column >= self.b.shape[1]:
            return self
        b, d = (np.roll(factors, -column, axis=1) for factors in (self.b, self.d))
        return self._replace(b=b, d=d)


def _without_factors(residual: float, rows: int, outputs: int, *, moved: bool) -> Fit:
    none = np.zeros((rows, outputs))
    a, c = np.ones(rows), np.zeros(rows)
    return Fit(residual, moved, False, False, a, none, c, none)


NOT_MOVED = _without_factors(0.0, 1, 1, moved=False)
"""Of a latent that cannot be compared."""


def gram_matrix(vectors: Sequence[Tensor]) -> Tensor:
    """Inner products of (R, N) vectors per row, (R, K, K).

    In float64 where the device has it: the order of a sum, which depends on where the
    values lie in memory, must not show in the image. No matrix product: its precision
    is the user's choice on some devices.
    """
    dtype = _most_precise(vectors[0].device)
    stacked = torch.stack([vector.to(dtype) for vector in vectors], dim=1)
    products = [(stacked * stacked[:, i : i + 1]).sum(-1) for i in range(len(vectors))]
    return torch.stack(products, dim=1)


def rounding_of(latent: Tensor) -> float:
    """Relative error of a latent that is rounded to its dtype."""
    return _ROUNDING * torch.finfo(latent.dtype).eps


def precise(values: Tensor) -> Tensor:
    """The values in float64, in float32 on devices that have no more."""
    return values.to(_most_precise(values.device))


@functools.cache
def _most_precise(device: torch.device) -> torch.dtype:
    try:
        torch.zeros(1, device=device).double()
    except (TypeError, RuntimeError):
        return torch.float32
    return torch.float64


def step_vectors(
    now: Tensor, latents: Sequence[Tensor], outputs: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """The move of the latent, then all that may explain it, (R, N) each.

    ``latents`` are those of the last steps, newest first, ``outputs`` those returned
    for each of them, own first.
    """
    dtype = _most_precise(now.device)
    newest = latents[0].to(dtype)
    vectors = [now.to(dtype) - newest, newest, *outputs[0]]
    for latent, returned in zip(latents[1:], outputs[1:], strict=True):
        vectors += [newest - latent.to(dtype), *returned]
    return vectors


def in_rows(values: Tensor, like: Tensor) -> list[Tensor]:
    """Values (R', N) for every row of another tensor (R, N): repeated, or in parts.

    The rows of the larger one are those of the smaller one, again and again (``cat``).
    An empty list where neither number of rows divides the other.
    """
    rows, wanted = len(values), len(like)
    if rows == wanted or values.shape[1:] != like.shape[1:]:
        return [values] if values.shape == like.shape else []
    if wanted % rows == 0:
        return [values.repeat(wanted // rows, 1)]
    return [*values.chunk(rows // wanted)] if rows % wanted == 0 else []


def fit_of(gram: Array, outputs: int, rounding: float = 0.0) -> Fit:
    """The least-squares fit from a Gram matrix (R, K, K) of ``step_vectors``.

    The first vector is the move, the second the last latent, the next ``outputs`` are
    what was returned for it; the rest is one more step of history, used only where it
    is needed. ``rounding`` is the relative error of the latents' dtype. What is not
    finite explains nothing.
    """
    if not np.isfinite(gram).all():
        gram = _without_broken(gram)
    moved = bool((gram[:, 0, 0] > 0).any())
    if not np.isfinite(gram).all():
        return _without_factors(float("inf"), len(gram), outputs, moved=moved)
    ridge, noise = _RIDGE + rounding**2, rounding**2 * gram[:, 1, 1]
    own = 2 + outputs
    newest = gram[:, 0, 0] + 2 * gram[:, 0, 1] + gram[:, 1, 1]
    move = np.minimum(gram[:, 0, 0], newest)
    factors, left = _least_squares(gram[:, :own, :own], ridge)
    residual = _relative(left - noise, move)
    linear = residual <= EXPLAINED
    c, d = np.zeros(len(gram)), np.zeros((len(gram), outputs))
    if residual > EXACT and gram.shape[1] > own:
        longer, left = _least_squares(gram, ridge)
        closer = _relative(left - noise, move)
        if closer < residual * _CLOSER or not linear:
            residual, factors = closer, longer
            c, earlier = longer[:, own - 1], longer[:, own : own + outputs]
            if earlier.shape == d.shape:  # as many branches at the step before
                d = earlier
    return Fit(
        residual,
        moved,
        bool(residual <= EXPLAINED),
        bool(linear),
        1 + factors[:, 0],
        factors[:, 1 : 1 + outputs],
        c,
        d,
        gram.shape[1] > own and _undoes(gram, own),
        _relative(gram[:, 0, 0], gram[:, 1, 1]),
    )


def _undoes(gram: Array, before: int) -> bool:
    """Whether the move is the one before, back, which is the vector of that index."""
    left = gram[:, 0, 0] + 2 * gram[:, 0, before] + gram[:, before, before]
    return bool((left <= _REPEATED * gram[:, 1, 1]).all())


def _least_squares(gram: Array, ridge: float) -> tuple[Array, Array]:
    """Factors of all vectors but the first, what is left of its squared norm."""
    known, target = gram[:, 1:, 1:], gram[:, 1:, 0]
    diagonal = np.einsum("rkk->rk", known)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = known * scale[:, :, None] * scale[:, None, :]
    scaled = _without_repeats(scaled) + ridge * np.eye(known.shape[1])
    factors = np.linalg.solve(scaled, (target * scale)[..., None])[..., 0] * scale
    left = gram[:, 0, 0] - 2 * (factors * target).sum(-1)
    return factors, left + np.einsum("rk,rkl,rl->r", factors, known, factors)


def _without_broken(gram: Array) -> Array:
    """An output that holds NaN or Inf explains nothing."""
    result = gram.copy()
    for j in range(2, gram.shape[1]):
        broken = ~np.isfinite(gram[:, j, j])
        result[broken, j, :] = result[broken, :, j] = 0.0
    return result


def _without_repeats(known: Array) -> Array:
    """A vector that is there twice counts once: the first keeps the whole factor."""
    result = known.copy()
    for j in range(1, known.shape[1]):
        twice = (known[:, :j, j] > 1 - _REPEATED).any(1)
        result[twice, j, :] = result[twice, :, j] = 0.0
        result[twice, j, j] = 1e30
    return result


def _relative(left: Array, move: Array) -> float:
    moved = move > 0
    part = np.sqrt(np.clip(left, 0, None) / np.where(moved, move, 1.0))
    return float(np.where(moved, part, 0.0).max())
