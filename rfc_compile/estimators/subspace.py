"""The paper's relation, from norms to inner products: least squares on the input.

    c = argmin_c || (I - I_0) - sum_j c_j (I_j - I_{j+1}) ||^2
               + ridge * sum_j G_jj (c_j - p_j)^2
    O_hat = O_0 + sum_j c_j (O_j - O_{j+1})

G is the Gram matrix of the input changes and p the weights of Taylor extrapolation in
time, which the fit is pulled towards: it damps the feedback of the model's own cached
errors through the inputs. If the Gram matrix of output changes is proportional to that
of the input changes, these are the best coefficients for the output as well; where O is
affine in I and I stays in the span of its history the estimate is exact. RFE is the
special case of one direction and equal norms.

G is measured at full steps, so that a cached step reads every tensor once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rfc_compile.estimators.base import (
    TAYLOR,
    VALID,
    Estimator,
    changes,
    gram_matrix,
    inner_product,
)


class Subspace(Estimator):
    """Coefficients of the input's least-squares fit, pulled to Taylor's weights."""

    name = "subspace"
    orders = (1, 2, 3)

    @property
    def inputs_kept(self) -> int:
        """As many as outputs."""
        return self.order + 1

    @property
    def statistics(self) -> int:
        """The Gram matrix of the input's changes."""
        return self.order * (self.order + 1) // 2

    def observe(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
        """The upper triangle of the Gram matrix, by rows."""
        return torch.stack(gram_matrix(changes(inputs, self.order)), dim=1)

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """The solution of the M x M normal equations, per group."""
        assert statistics is not None
        gram = iter(statistics.unbind(1))
        steps = changes(inputs, self.order)
        moved = current.float() - inputs[0].float()
        valid = [weights[VALID, j] for j in range(self.order)]
        matrix: list[list[Tensor]] = [[moved] * self.order for _ in range(self.order)]
        right = []
        for i in range(self.order):
            for j in range(i, self.order):
                matrix[i][j] = matrix[j][i] = next(gram) * valid[i] * valid[j]
            diagonal = matrix[i][i]
            fit = _inner_product_by_unit(moved, steps[i], diagonal) * valid[i]
            right.append(fit + self.ridge * diagonal * weights[TAYLOR, i])
            matrix[i][i] = _positive(diagonal * (1 + self.ridge))
        # stacked, or the compiler solves the system anew for every value of the output
        return list(torch.stack(solve(matrix, right)).unbind())


def _positive(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.ones_like(values))


def _inner_product_by_unit(moved: Tensor, step: Tensor, squared: Tensor) -> Tensor:
    """``<moved, step>`` by way of the step scaled to length 1, shape (G,).

    A factor per group makes the sum's loops those of the norm that computes I, which
    lets the compiler fuse the two: ``moved`` is then never stored.
    """
    length = _positive(squared).sqrt()
    shape = (-1,) + (1,) * (step.ndim - 1)
    return inner_product(moved, step * length.reciprocal().reshape(shape)) * length


def solve(matrix: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """Solve small symmetric positive definite systems, one per group, by elimination.

    Unrolled so that the compiler fuses it; entries are tensors of shape (G,). A pivot
    that is not positive in float32 (changes that are linearly dependent, no ridge)
    gives that unknown the value 0.
    """
    size = len(right)
    rows = [[*matrix[i], right[i]] for i in range(size)]
    pivots = []
    for i in range(size):
        usable = rows[i][i] > 1e-6 * matrix[i][i]
        safe = torch.where(usable, rows[i][i], torch.ones_like(rows[i][i]))
        pivots.append((usable, safe))
        for k in range(i + 1, size):
            factor = torch.where(
                usable, rows[k][i] / safe, torch.zeros_like(rows[k][i])
            )
            rows[k] = [b - factor * a for a, b in zip(rows[i], rows[k], strict=True)]
    solution = list(right)
    for i in reversed(range(size)):
        usable, safe = pivots[i]
        rest = rows[i][size]
        for j in range(i + 1, size):
            rest = rest - rows[i][j] * solution[j]
        solution[i] = torch.where(usable, rest / safe, torch.zeros_like(rest))
    return solution
