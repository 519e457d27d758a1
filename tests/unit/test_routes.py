"""Picking inputs by position, and identifying objects."""

from __future__ import annotations

from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from rfc_compile.runtime.graph_inputs import picker

SIZE = 60
_RUNS = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 20)), max_size=5)


@given(_RUNS)
def test_any_positions_are_picked(runs: list[tuple[int, int]]) -> None:
    """Few or many, in a row or not, in any order, some of them twice."""
    positions = [i for start, n in runs for i in range(start, min(start + n, SIZE))]
    pick = picker(positions)
    for values in (list(range(100, 100 + SIZE)), tuple(range(SIZE))):
        assert pick(values) == tuple(values[i] for i in positions)


def test_a_pick_is_a_tuple_whatever_its_length() -> None:
    """Not so `itemgetter`."""
    assert picker([])("abc") == ()
    assert picker([1])("abc") == ("b",) != itemgetter(1)("abc")
