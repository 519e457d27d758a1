"""Hill climbing: which steps to compute in full, judged by what comes of it.

    mask     0    4    8    11    15    18    22         full steps
    move     0    4    9    12    16    18    22         a few neighbours by one step

First long rows of neighbours move, then shorter ones, then every full step by itself;
a move that is better stays, and is made again. The first step is always full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

Mask = tuple[int, ...]
"""Indices of full steps, rising, the first of them 0."""

PLACES: Final = (1, -1, 2, -2)
"""By which neighbours are moved."""


def climb(start: Mask, steps: int, better: Callable[[Mask], bool]) -> Mask:
    """The mask that no move makes better, with as many full steps.

    ``better`` says whether a mask is better than all before; it may raise to end the
    climb.
    """
    best, tried, improved = start, {start}, True
    while improved:
        improved = False
        for length, first, by in _moves(len(start)):
            while (mask := _moved(best, first, length, by, steps)) not in tried:
                tried.add(mask)
                if not better(mask):
                    break
                best, improved = mask, True
    return best


def _moves(count: int) -> Iterator[tuple[int, int, int]]:
    """(neighbours, the first of them, places), the longest rows first."""
    length = count // 2
    while length:
        for first in range(1, count, length):
            for by in PLACES:
                yield length, first, by
        length //= 2


def _moved(mask: Mask, first: int, length: int, by: int, steps: int) -> Mask:
    """The mask with these neighbours moved; as it is if they would meet others."""
    last = first + length
    row = [step + by for step in mask[first:last]]
    moved = (*mask[:first], *row, *mask[last:])
    rises = all(a < b for a, b in pairwise(moved))
    return moved if rises and moved[-1] < steps else mask
