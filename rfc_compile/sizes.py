"""Symbolic sizes of the state, evaluated from the shapes of a real call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rfc_compile.passes import StateLayout
from rfc_compile.torch_internals import size_expression


class SizeBinding:
    """Binds the size symbols of a graph to the sizes of its arguments."""

    def __init__(self, layout: StateLayout, examples: Sequence[Any]) -> None:
        shapes: list[Sequence[Any]] = [ring.example.shape for ring in layout.rings]
        self._static = all(isinstance(size, int) for shape in shapes for size in shape)
        self._where: list[tuple[Any, int, int | None]] = []
        for position, example in enumerate(examples):
            if isinstance(example, torch.SymInt):
                self._where.append((size_expression(example), position, None))
            elif isinstance(example, torch.Tensor):
                sizes: Sequence[Any] = example.shape
                self._where += [
                    (size_expression(size), position, dim)
                    for dim, size in enumerate(sizes)
                    if isinstance(size, torch.SymInt)
                ]

    def bind(self, arguments: Sequence[Any]) -> Callable[[Any], int]:
        """A function from sizes of the traced graph to numbers for this call."""
        if self._static:
            return int
        values = {
            symbol: arguments[i] if dim is None else arguments[i].shape[dim]
            for symbol, i, dim in self._where
            if symbol.is_symbol
        }

        def size(symbolic: Any) -> int:
            if isinstance(symbolic, int):
                return symbolic
            return int(size_expression(symbolic).xreplace(values))

        return size
