"""Taylor extrapolation in time: TaylorSeer's estimate with the true gaps.

    O_hat = O_0 + sum_{i=1..m} k^i / i! * D_i

k steps since the last full step; D_i the i-th derivative from finite differences over
the true gaps between full steps (TaylorSeer divides every order by the last gap).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rfc_compile.estimators.base import TAYLOR, Estimator


class Taylor(Estimator):
    """Extrapolation in time alone: ``order + 1`` kept outputs, no kept input."""

    name = "taylor"
    orders: tuple[int, ...] = (1, 2)

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """The step's Taylor weights, the same for every group."""
        return [weights[TAYLOR, j] for j in range(self.order)]
