"""Relational feature estimation (Relational Feature Caching, ICLR 2026).

    u = normalize( sum_{i=1..m} k^i / i! * D_i )                     direction
    r = ||O_0 - O_1|| / ||I_0 - I_1|| * ||I(now) - I_0||             magnitude
    O_hat = O_0 + r u

The norm of the direction follows from the inner products of the output changes, which
are measured at full steps, so that a cached step reads every tensor once.
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
    ratio,
)


class RelationalFeatureEstimation(Estimator):
    """Direction from the outputs, magnitude from the input's change.

    Three kept tensors per region at order 1: O_0, O_1 and I_0.
    """

    name = "rfe"
    orders = (1, 2)

    @property
    def inputs_kept(self) -> int:
        """The last one."""
        return 1

    @property
    def statistics(self) -> int:
        """||I_0 - I_1|| and the inner products of the output changes."""
        return 1 + self.order * (self.order + 1) // 2

    def observe(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
        """The norm of the input's last change, then the Gram matrix by rows."""
        (input_change,) = changes(inputs, 1)
        moved = inner_product(input_change, input_change).sqrt()
        gram = gram_matrix(changes(outputs, self.order))
        return torch.stack([moved, *gram], dim=1)

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """The direction's weights scaled to the length r, per group."""
        assert statistics is not None
        moved, gram = statistics[:, 0], statistics[:, 1:]
        direction = [weights[TAYLOR, j] for j in range(self.order)]
        squared = gram[:, 0] * direction[0] ** 2
        if self.order == 2:
            squared = squared + 2 * gram[:, 1] * direction[0] * direction[1]
            squared = squared + gram[:, 2] * direction[1] ** 2
        change = current.float() - inputs[0].float()
        length = ratio(gram[:, 0].sqrt(), moved) * inner_product(change, change).sqrt()
        scale = ratio(length, squared.clamp_min(0).sqrt()) * weights[VALID, 0]
        return [scale * weight for weight in direction]
