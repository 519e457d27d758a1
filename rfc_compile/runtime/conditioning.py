"""Whether a call has a branch's conditioning, before a graph runs.

A graph compares it exactly, but only after it has run: a full step of another branch
would have overwritten the oldest kept values of this one.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import fingerprint_and_size
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch

CLEAR = 1e-3
"""Fingerprints that compilers sum in another order differ by less, in units of the
norm of what is summed."""


def rule_out(
    branch: GuidanceBranch, given: Sequence[Tensor], varying: Set[int]
) -> Mismatch | None:
    """A mismatch if a call's inputs differ from the branch's by more than rounding.

    One copy to the host. ``varying`` are the indices of inputs that are not compared.
    """
    if not given:
        return None
    read = torch.stack([fingerprint_and_size(value) for value in given]).tolist()
    pairs = zip(branch.conditioning, read, strict=False)
    changed = frozenset(
        i
        for i, (old, (value, size)) in enumerate(pairs)
        if abs(old - value) > CLEAR * size
    )
    if changed - varying:
        return Mismatch("conditioning", changed)
    if branch.switches([value for value, _ in read], changed):
        return Mismatch("conditioning")
    return None
