"""Tensors that modules keep as attributes, neither parameters nor buffers.

    self.positions = make_positions(...)   at every call: other tensors of equal values

Parameters are known by their identity. An attribute that is made anew is compared
by its values with the one before, which is kept for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rfc_compile.runtime.parameter_versions import version_of


class KeptAttributes(NamedTuple):
    """The attributes among the tensors of modules that a call passes.

    Attributes:
        parameters: the ids of the others.
        tensors: the attributes.
        versions: how often each had been written to.
    """

    parameters: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(
        cls, static: Sequence[Tensor], is_attribute: Sequence[bool]
    ) -> KeptAttributes:
        """Those of a call."""
        marked = list(zip(static, is_attribute, strict=True))
        tensors = tuple(tensor for tensor, kept in marked if kept)
        return cls(
            tuple(id(tensor) for tensor, kept in marked if not kept),
            tensors,
            tuple(map(version_of, tensors)),
        )

    @property
    def bytes(self) -> int:
        """The size of the attributes."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def equals(self, other: KeptAttributes) -> bool:
        """Whether another call's have the same values; waits for an accelerator.

        Of a call with the same parameters; False once the kept ones were written to.
        """
        unchanged = self.versions == tuple(map(version_of, self.tensors))
        return unchanged and all(map(_equal, self.tensors, other.tensors))


def _equal(kept: Tensor, tensor: Tensor) -> bool:
    if kept is tensor:
        return True
    alike = kept.dtype == tensor.dtype and kept.device == tensor.device
    plain = type(kept) is type(tensor) is Tensor and kept.layout is torch.strided
    try:
        return plain and alike and torch.equal(kept, tensor)
    except RuntimeError:  # a dtype that cannot be compared
        return False
