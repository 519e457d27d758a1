"""Reuse the last output: FORA's rule, ``O_hat = O_0``."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rfc_compile.estimators.base import Estimator


class Reuse(Estimator):
    """``O_hat = O_0``: one kept output, no kept input."""

    name = "reuse"
    orders = (0,)

    @property
    def inputs_kept(self) -> int:
        """None."""
        return 0

    def coefficients(
        self,
        current: Tensor,
        inputs: Sequence[Tensor],
        statistics: Tensor | None,
        weights: Tensor,
    ) -> list[Tensor]:
        """No change is added."""
        return []
