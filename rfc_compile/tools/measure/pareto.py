"""Points of two values, both better when larger, and which of them are worth having."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

Point = tuple[float, float]
Key = TypeVar("Key")


def dominates(first: Point, second: Point) -> bool:
    """Whether the first is at least as good in both values and better in one."""
    return first[0] >= second[0] and first[1] >= second[1] and first != second


def front(points: Iterable[tuple[Key, Point]]) -> list[tuple[Key, Point]]:
    """The points that no other dominates, by their first value; equal ones all stay."""
    known = list(points)
    kept = [item for item in known if not dominators(item[1], known)]
    return sorted(kept, key=lambda item: item[1])


def dominators(point: Point, others: Sequence[tuple[Key, Point]]) -> list[Key]:
    """Which of the others dominate a point."""
    return [key for key, other in others if dominates(other, point)]
