"""The base of every estimator: coefficients of the last changes of a region's output.

    O_hat = O_0 + sum_j c_j (O_j - O_{j+1})          O_0 the newest full step

``reuse``, ``taylor``, ``rfe`` and ``subspace`` differ only in the coefficients c, one
set per group of values (a group is a sample: one entry of the leading dimension).
The functions here are plain tensor code that ``make_fx`` traces into the graphs.

Shapes: G groups, M the order, J the number of kept steps; I and O are (G, ...).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

TAYLOR, VALID = 0, 1
"""Rows of the coefficients: Taylor extrapolation, 1 where history exists."""


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Per-group inner product in float32, shape (G,).

    Summed up by rows first: as a norm does, so that the compiler can fuse the two.
    """
    rows = (a.float() * b.float()).sum(-1)
    return rows.flatten(1).sum(1) if rows.ndim > 1 else rows


def gram_matrix(steps: Sequence[Tensor]) -> list[Tensor]:
    """Inner products of all pairs of changes, the upper triangle by rows, (G,) each."""
    pairs = itertools.combinations_with_replacement(steps, 2)
    return [inner_product(a, b) for a, b in pairs]


def changes(history: Sequence[Tensor], order: int) -> list[Tensor]:
    """The last ``order`` changes between full steps, newest first, in float32."""
    values = [value.float() for value in history[: order + 1]]
    return [new - old for new, old in itertools.pairwise(values)]


def extrapolate(history: Sequence[Tensor], coefficients: Sequence[Tensor]) -> Tensor:
    """``O_0 + sum_j c_j (O_j - O_{j+1})``, computed in float32, in O's dtype."""
    newest = history[0]
    if not coefficients:
        return newest.clone()
    result = newest.float()
    shape = (-1,) + (1,) * (newest.ndim - 1)
    for c, change in zip(
        coefficients, changes(history, len(coefficients)), strict=True
    ):
        result = result + c.reshape(shape) * change
    return result.to(newest.dtype)


class Estimator(ABC):
    """Predicts a region's output at a cached step.

    Attributes:
        name: the value of the option ``estimator``.
        orders: the orders that the option ``order`` may name.
    """

    name: str
    orders: tuple[int, ...]

    def __init__(self, order: int, ridge: float) -> None:
        self.order = order
        self.ridge = ridge

    @property
    def outputs_kept(self) -> int:
        """Full steps whose output is kept."""
        return self.order + 1

    @property
    def inputs_kept(self) -> int:
        """Full steps whose input is kept."""
        return 0

    @property
    def statistics(self) -> int:
        """Float32 numbers kept per group, measured at full steps."""
        return 0

    def observe(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
        """Statistics of a full step, shape (G, ``statistics``).

        ``inputs`` and ``outputs`` hold this step's value first, then the history
        *before* this step, newest first.
        """
        raise NotImplementedError(f"{self.name} keeps no statistics")

    @abstractmethod
    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """The M coefficients, each of shape (G,) or ().

        ``current`` is I now, ``inputs`` the kept I, newest first; ``weights`` (2, M),
        or (2, M, G) where they differ, holds the step's Taylor weights and the validity
        of the history.
        """

    def predict(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> Tensor:
        """O_hat, in the shape and dtype of the kept outputs."""
        c = self.coefficients(current, inputs, statistics, weights)
        return extrapolate(outputs, c)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """A quotient that is 0 where the denominator is 0."""
    safe = torch.where(denominator > 0, denominator, torch.ones_like(denominator))
    return torch.where(denominator > 0, numerator / safe, torch.zeros_like(numerator))
