"""storage: what is read back is what was kept, as well as its dtype can hold it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rfc_compile.passes.state.ring_storage import CACHE_DTYPES, Storage, storage_for

DTYPES = [None, *CACHE_DTYPES.values()]
ROUNDING = {None: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Largest relative error of one value."""


def keep(storage: Storage, values: Sequence[Tensor]) -> list[Tensor]:
    """The kept values after full steps with these ones, oldest first."""
    example = storage.example(values[0])
    ring = [torch.zeros_like(example) for _ in range(storage.length)]
    for value in values:
        fresh = storage.store(value)
        assert fresh.dtype == example.dtype
        ring[-1].copy_(fresh)
        ring.insert(0, ring.pop())
    return storage.load(ring)


def walk(seed: int, steps: int, size: float, change: float) -> list[Tensor]:
    """Values of shape (2, 5, 8) that change by this share of their size."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(2, 5, 8, generator=generator) * size]
    for _ in range(steps - 1):
        step = torch.randn(2, 5, 8, generator=generator) * size * change
        values.append(values[-1] + step)
    return values


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    length=st.integers(1, 4),
    more=st.integers(0, 3),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
    change=st.sampled_from([0.01, 0.3]),
    dtype=st.sampled_from(DTYPES),
)
def test_what_is_kept_is_read_back(
    seed: int,
    length: int,
    more: int,
    size: float,
    change: float,
    dtype: torch.dtype | None,
) -> None:
    values = walk(seed, length + more, size, change)
    found = keep(storage_for(values[0], length, dtype), values)
    wanted = values[::-1][:length]
    assert len(found) == length
    tiny = 2**-25 if dtype == torch.float16 else 0.0  # where its subnormals are
    for mine, true in zip(found, wanted, strict=True):
        assert torch.all((mine - true).abs() <= ROUNDING[dtype] * true.abs() + tiny)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("largest", [0.0, 1e-42, 65505.0, 1e6, 1e38])
def test_finite_values_stay_finite(largest: float, dtype: torch.dtype) -> None:
    """float16 ends at 65504."""
    value = torch.linspace(-largest, largest, 16).reshape(2, 8)
    found = keep(storage_for(value, 3, dtype), [value, -value, 0 * value, value])
    assert all(torch.isfinite(kept).all() for kept in found)
    limit = 65504.0 if dtype == torch.float16 else largest
    torch.testing.assert_close(
        found[0], value.clamp(-limit, limit), rtol=2**-7, atol=1e-7
    )


def test_a_large_bfloat16_value_fits_float16() -> None:
    value = torch.full((2, 3), 65504.0).bfloat16()  # that is 65536
    assert keep(storage_for(value, 1, torch.float16), [value])[0].max() == 65504


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_nan_is_not_hidden(dtype: torch.dtype) -> None:
    value = torch.ones(2, 4)
    broken = value.clone()
    broken[0, 1] = torch.nan
    assert torch.isnan(keep(storage_for(value, 2, dtype), [value, broken])[0][0, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is(dtype: torch.dtype) -> None:
    value = torch.ones(2, 4, dtype=dtype)
    assert storage_for(value, 3, dtype) == Storage(3)
    assert storage_for(value.long(), 3, torch.float16) == Storage(3)
