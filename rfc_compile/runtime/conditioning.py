"""Whether a call was given a branch's conditioning, seen before a graph runs.

A graph tells it exactly, but only after it has run: a full step of another branch would
have overwritten the oldest of what this one keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set

import torch
from torch import Tensor

from rfc_compile.estimators.step_signal import fingerprint_and_size
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch

CLEAR = 1e-3
"""Fingerprints that compilers sum in another order differ by less, in units of the
norm of what is summed."""


class Given:
    """The conditioning inputs of a call; they are read when first asked for."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values

    @functools.cached_property
    def _fingerprints(self) -> Sequence[tuple[float, float]]:
        """The fingerprint of each input, and its size; one copy to the host."""
        if not self._values:
            return []
        pairs = torch.stack([fingerprint_and_size(value) for value in self._values])
        return [(value, size) for value, size in pairs.tolist()]

    def rules_out(self, branch: GuidanceBranch, varying: Set[int]) -> Mismatch | None:
        """That they are not those of the branch's last call, beyond rounding.

        ``varying`` are the indices of inputs that are not compared.
        """
        pairs = zip(branch.conditioning, self._fingerprints, strict=False)
        changed = frozenset(
            i
            for i, (old, (value, size)) in enumerate(pairs)
            if abs(old - value) > CLEAR * size
        )
        return Mismatch("conditioning", changed) if changed - varying else None
