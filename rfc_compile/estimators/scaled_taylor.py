"""Taylor's change, as much longer as the input has moved further than Taylor says.

    w_j from Taylor extrapolation in time                          (rfc_compile.state)
    s = ||I(now) - I_0|| / || sum_j w_j (I_j - I_{j+1}) ||
    O_hat = O_0 + s * sum_j w_j (O_j - O_{j+1})

The paper's rule with another magnitude. ``rfe`` takes the length from the ratio of the
last changes alone, which at order 2 is not that of Taylor's change; at order 1 the two
rules are one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rfc_compile.estimators.base import TAYLOR, RelatesChanges, inner_product, ratio


class ScaledTaylor(RelatesChanges):
    """Direction and length from Taylor, corrected by what Taylor says of the input.

    Five kept tensors per region: O_0, O_1, O_2, I_0 and I_1.
    """

    name = "scaled_taylor"
    orders = (2,)

    @property
    def inputs_kept(self) -> int:
        """Those whose changes a full step measures."""
        return self.order

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """Taylor's weights times the input's ratio, per group."""
        assert statistics is not None
        newest, both, before = statistics.unbind(1)
        first, second = (weights[TAYLOR, j] for j in range(self.order))
        said = newest * first**2 + 2 * both * first * second + before * second**2
        change = current.float() - inputs[0].float()
        moved = inner_product(change, change).sqrt()
        scale = ratio(moved, said.clamp_min(0).sqrt())
        return [scale * first, scale * second]
