"""Regions on the residual streams, row by row, as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfc_compile.passes.analysis.streams import (
    Streams,
)


@dataclass(frozen=True)
class Lane:
    """The streams next to one region, in a drawing with a row for each region.

    Attributes:
        passing: indices of the streams that pass it.
        added: of those that it is added to.
        joined: pairs of a stream that ends here and the one it becomes a part of.
    """

    passing: tuple[int, ...]
    added: tuple[int, ...]
    joined: tuple[tuple[int, int], ...]


def find_lanes(streams: Streams, regions: Sequence[str]) -> list[Lane]:
    """The lane of each of these regions, by name, from top to bottom."""
    added = [streams.of_region[name] for name in regions]
    first = [_first(i, added) for i in range(len(streams.found))]
    last = [
        len(added) - 1 - _first(i, added[::-1])
        if stream.into is None
        else first[stream.into] - 1
        for i, stream in enumerate(streams.found)
    ]
    ends = list(enumerate(zip(first, last, strict=True)))
    return [
        Lane(
            passing=tuple(i for i, (a, b) in ends if a <= row <= max(a, b)),
            added=added[row],
            joined=tuple(
                (i, stream.into)
                for i, stream in enumerate(streams.found)
                if stream.into is not None and first[stream.into] == row
            ),
        )
        for row in range(len(added))
    ]


def _first(stream: int, added: Sequence[tuple[int, ...]]) -> int:
    """The first row that is added to the stream."""
    return next((row for row, ids in enumerate(added) if stream in ids), 0)
