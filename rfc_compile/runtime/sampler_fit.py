"""The sampler seen from inside: its next latent is linear in what it was given.

    x_{k+1} = A x_k + sum_i B_i y_{k,i} (+ one more step of history)

x_k is the latent that came in, y_{k,i} the output that guidance branch i returned for
it. A and B are the least-squares fit over the whole latent, one set per row of the
batch. For a deterministic sampler the residual is a small part of the latent's move;
another image's latent, or fresh noise, is not explained.

Shapes: R rows of the batch, K vectors, N values of a row.
"""

from __future__ import annotations

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

_RIDGE = 1e-10
"""Of the largest diagonal entry: outputs that are equal, or zero, stay solvable."""


class Fit(NamedTuple):
    """The fit of one step.

    Attributes:
        residual: norm of what is not explained over that of the latent's move, of the
            worst row; 0 where nothing has moved.
        moved: whether the latent of any row is another one than before.
        a: factor of the last latent, (R,).
        b: factors of the outputs, (R, outputs), in the order given.

    """

    residual: float
    moved: bool
    a: Array
    b: Array

    @property
    def explained(self) -> bool:
        """Whether the latent follows from those before it."""
        return self.moved and self.residual <= EXPLAINED


def gram_matrix(vectors: Sequence[Tensor]) -> Tensor:
    """Inner products of (R, N) vectors per row, float32 of shape (R, K, K).

    No matrix product: its precision is the user's choice on some devices.
    """
    stacked = torch.stack([vector.float() for vector in vectors], dim=1)
    products = [(stacked * vector[:, None].float()).sum(-1) for vector in vectors]
    return torch.stack(products, dim=1)


def step_vectors(
    now: Tensor, latents: Sequence[Tensor], outputs: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """The move of the latent, then all that may explain it, (R, N) each.

    ``latents`` are those of the last steps, newest first, ``outputs`` those returned
    for each of them, own first. Differences keep float32 precise.
    """
    newest = latents[0].float()
    vectors = [now.float() - newest, newest]
    for latent, returned in zip(latents, outputs, strict=True):
        if latent is not latents[0]:
            vectors.append(newest - latent.float())
        vectors += returned
    return vectors


def solve(gram: Array, outputs: int) -> Fit:
    """The least-squares fit from a Gram matrix (R, K, K) of ``step_vectors``.

    The first vector is the move, the second the last latent, ``outputs`` of the rest
    are what was returned for it. Solved in float64.
    """
    move = gram[:, 0, 0]
    known, target = gram[:, 1:, 1:].copy(), gram[:, 1:, 0]
    diagonal = np.einsum("rkk->rk", known)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    known = known * scale[:, :, None] * scale[:, None, :]
    known += _RIDGE * np.eye(known.shape[1])
    factors = np.linalg.solve(known, (target * scale)[..., None])[..., 0] * scale
    left = move - 2 * (factors * target).sum(-1)
    left += np.einsum("rk,rkl,rl->r", factors, gram[:, 1:, 1:], factors)
    moved = move > 0
    relative = np.sqrt(np.clip(left, 0, None) / np.where(moved, move, 1.0))
    residual = float(np.where(moved, relative, 0.0).max())
    return Fit(
        residual if np.isfinite(residual) else np.inf,
        bool(moved.any()),
        1 + factors[:, 0],
        factors[:, 1 : 1 + outputs],
    )
