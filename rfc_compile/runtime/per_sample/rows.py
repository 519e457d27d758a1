"""Rows of a batch: those of the arguments, of the state of samples, of the results.

arguments of n samples -> those of some of them          pick
states of the samples  -> slots of a batch, and back     stacked, write_back
results of some        -> results of n samples           put
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rfc_compile.passes.analysis.batch_dimension import Batch
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.state import BranchState


def count_of(batch: Batch, arguments: Sequence[Any]) -> int:
    """The number of samples of a call."""
    return int(arguments[batch.rows[0]].shape[0]) if batch.rows else 1


def pick(batch: Batch, arguments: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    """The arguments of a call for these samples alone; of a single one as views."""
    picked = list(arguments)
    if batch.rows:
        for i in batch.rows:
            picked[i] = rows_of(arguments[i], chosen)
        for i in batch.sizes:
            picked[i] = len(chosen)
    return picked


def rows_of(value: Tensor, chosen: Sequence[int]) -> Tensor:
    """Some rows of a tensor, laid out in memory as the graphs were traced for it."""
    if len(chosen) == 1:
        return value[chosen[0] : chosen[0] + 1]
    once = value
    for dim, stride in enumerate(value.stride()):
        if stride == 0:  # expanded: kept once
            once = once[(slice(None),) * dim + (slice(1),)]
    if value.stride(0) != 0:
        parts = [once[i : i + 1] for i in chosen]
        shape = len(chosen), *once.shape[1:]
        once = torch.empty_strided(
            shape, once.stride(), dtype=value.dtype, device=value.device
        )
        torch.cat(parts, out=once)
    return once.expand(len(chosen), *value.shape[1:])


def row_of(values: Sequence[Any], row: int) -> list[Any]:
    """One row of the results of a batch."""
    return [x[row : row + 1] if isinstance(x, Tensor) else x for x in values]


def stacked(states: Sequence[BranchState]) -> Sequence[Tensor]:
    """The slots of these states as those of one batch; of a single one its own."""
    if len(states) == 1:
        return states[0].slots
    slots = zip(*(state.slots for state in states), strict=True)
    return [torch.cat(parts) for parts in slots]


def written_slots(layout: StateLayout) -> list[int]:
    """The slots that a full step writes: the oldest of every ring but the latents'."""
    ends = itertools.accumulate(ring.length for ring in layout.rings)
    return [end - 1 for end in ends][len(layout.latents) :]


def write_back(
    states: Sequence[BranchState], slots: Sequence[Tensor], written: Iterable[int]
) -> None:
    """Give every state its row of the slots that a full step has written.

    ``slots`` may have further rows, which belong to nobody.
    """
    if slots is states[0].slots:
        return
    for i in written:
        for row, state in enumerate(states):
            state.slots[i].copy_(slots[i][row : row + 1])


def put(
    results: list[Any] | None,
    part: Sequence[Any],
    chosen: Sequence[int],
    count: int,
) -> list[Any]:
    """Write the results of some samples into those of all ``count``.

    ``results`` is None before the first part; further rows of ``part`` are left out.
    """
    if results is None:
        results = [
            value.new_empty(count, *value.shape[1:])
            if isinstance(value, Tensor)
            else value
            for value in part
        ]
    for whole, value in zip(results, part, strict=True):
        if isinstance(value, Tensor):
            for row, i in enumerate(chosen):
                whole[i].copy_(value[row])
    return results
