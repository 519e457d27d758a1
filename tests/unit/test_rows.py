"""Rows of a batch: picked in the layout of the batch, and compared by their bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rfc_compile.runtime.per_sample.row_reading import fingerprints, ordinary
from rfc_compile.runtime.per_sample.rows import put, rows_of

LAYOUTS = {
    "plain": torch.arange(24.0).reshape(4, 3, 2),
    "channels last": torch.arange(96.0)
    .reshape(4, 2, 3, 4)
    .contiguous(memory_format=torch.channels_last),
    "one for all": torch.arange(6.0).reshape(1, 3, 2).expand(4, 3, 2),
    "expanded inside": torch.arange(8.0).reshape(4, 1, 2).expand(4, 3, 2),
    "a part of more": torch.arange(48.0).reshape(4, 6, 2)[:, ::2],
    "numbers": torch.arange(4),
}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("chosen", [[2], [3, 0], [1, 1], [0, 1, 2, 3]])
def test_rows_keep_values_and_layout(value: Tensor, chosen: list[int]) -> None:
    picked = rows_of(value, chosen)
    assert torch.equal(picked, value[chosen])
    assert picked.stride()[1:] == value.stride()[1:]
    assert (picked.stride(0) == 0) == (value.stride(0) == 0)


@given(st.permutations(range(5)), st.integers(1, 4))
def test_parts_are_put_together(order: list[int], cut: int) -> None:
    value = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    whole = None
    for chosen in (order[:cut], order[cut:]):
        part = [torch.cat([value[chosen], torch.zeros(1, 3)]), None]
        whole = put(whole, part, chosen, 5)
    assert whole is not None
    assert torch.equal(whole[0], value)
    assert whole[1] is None


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool],
    ids=str,
)
def test_a_row_has_one_fingerprint_in_every_batch(dtype: torch.dtype) -> None:
    noise = torch.randn(6, 5000, generator=torch.Generator().manual_seed(1))
    values = (noise * 10).to(dtype) if dtype != torch.bool else noise > 0
    together = fingerprints(values)
    assert together.dtype == torch.int64
    assert len(set(together.tolist())) == 6
    for i in range(6):
        assert torch.equal(fingerprints(values[i : i + 1]), together[i : i + 1])
        assert torch.equal(fingerprints(values[[i, 2]])[:1], together[i : i + 1])


def test_the_order_of_values_counts() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    assert len(set(fingerprints(values).tolist())) == 3


def test_a_latent_that_is_zero_for_one_row_only_is_ordinary() -> None:
    x, unconditional = torch.ones(2, 3), torch.tensor([[2.0], [0.0]])
    assert ordinary([x, unconditional]).tolist() == [True, True]
    assert ordinary([unconditional]).tolist() == [True, False]
    broken = torch.tensor([[torch.nan], [0.0], [torch.inf]])
    assert ordinary([torch.ones(3, 1), broken]).tolist() == [False, True, False]
