"""Whether a call was given a branch's conditioning, seen before a graph runs.

A graph tells it exactly, but only after it has run: a full step of another branch would
have overwritten the oldest of what this one keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import fingerprint_and_size
from rfc_compile.runtime.guidance_branch import GuidanceBranch

CLEAR = 1e-3
"""Fingerprints that compilers sum in another order differ by less, in units of the
norm of what is summed."""


class Fingerprint(NamedTuple):
    """Of one conditioning input: its number, and the norm of what that sums."""

    value: float
    size: float


def read_fingerprints(values: Sequence[Tensor]) -> list[Fingerprint]:
    """Those of a call's conditioning inputs; one copy to the host."""
    if not values:
        return []
    read = torch.stack([fingerprint_and_size(value) for value in values]).tolist()
    return [Fingerprint(*pair) for pair in read]


def clearly_changed(
    branch: GuidanceBranch, given: Sequence[Fingerprint]
) -> frozenset[int]:
    """The inputs that are not those of the branch's last call, beyond rounding."""
    pairs = zip(branch.conditioning, given, strict=False)
    return frozenset(
        i
        for i, (old, new) in enumerate(pairs)
        if abs(old - new.value) > CLEAR * new.size
    )
