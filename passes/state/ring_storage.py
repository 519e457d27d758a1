"""How the last values of an input or output are kept between full steps.

As the model computes them, or cast to the option ``cache_dtype``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CACHE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""The values of the option ``cache_dtype``."""


@dataclass(frozen=True)
class Storage:
    """The last ``length`` values of one input or output.

    Attributes:
        length: values kept; 0 for none.
        dtype: of the kept values, None for their own.
    """

    length: int
    dtype: torch.dtype | None = None

    def example(self, value: Tensor) -> Tensor:
        """A slot for values like this one; call it under its fake mode."""
        dtype = self.dtype or value.dtype
        return torch.empty(tuple(value.shape), dtype=dtype, device=value.device)

    def store(self, value: Tensor) -> Tensor:
        """What a full step writes: values beyond the dtype's become its largest."""
        if self.dtype is None:
            return value
        largest = torch.finfo(self.dtype).max
        return value.float().clamp(-largest, largest).to(self.dtype)

    def load(self, slots: Sequence[Tensor]) -> list[Tensor]:
        """The kept values, newest first; float32 unless they are kept as they are."""
        return [slot if self.dtype is None else slot.float() for slot in slots]


def storage_for(value: Tensor, length: int, dtype: torch.dtype | None) -> Storage:
    """The storage of values like this one; only floating point values are cast."""
    as_it_is = dtype == value.dtype or not value.is_floating_point()
    return Storage(length, None if as_it_is else dtype)
