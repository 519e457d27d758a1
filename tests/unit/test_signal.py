"""What a step tells the host: fingerprints of the conditioning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import fingerprint

LOWEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("masked", [LOWEST, -torch.inf])
def test_masks_of_huge_values_are_told_apart(masked: float) -> None:
    """The sum neither overflows nor becomes NaN, which would equal nothing."""
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 5:] = masked
    other = mask.clone()
    other[1, 0, 3, 4] = masked
    assert fingerprint(mask).isfinite().all()
    assert torch.equal(fingerprint(mask), fingerprint(mask.clone()))
    assert not torch.equal(fingerprint(mask), fingerprint(other))


@pytest.mark.parametrize(
    "value", [torch.arange(6), torch.tensor([True, False]), torch.randn(3, 4)]
)
def test_order_matters(value: Tensor) -> None:
    assert not torch.equal(fingerprint(value), fingerprint(value.flip(0)))
