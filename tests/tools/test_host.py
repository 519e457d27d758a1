"""How many functions of the package a cached step enters: no more than it did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from paths import ROOT

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(str(ROOT))
    from benchmarks import host

STEPS = 16


@pytest.mark.parametrize(
    ("subject", "schedule", "known", "functions", "files"),
    [
        (host.flux, "default", True, 90, 25),
        (host.flux, "default", False, 140, 28),
        (host.flux, "static", True, 90, 24),
        (host.flux, "rcs", True, 100, 25),
        (host.dit, "default", True, 90, 25),
    ],
    ids=["flux", "flux, steps not known", "flux, static", "flux, rcs", "60 regions"],
)
def test_a_cached_step_enters_few_functions(
    subject: Callable[[], host.Subject],
    schedule: str,
    known: bool,
    functions: int,
    files: int,
) -> None:
    """The limits are what was reached: whoever needs less sets them lower."""
    found = host.functions_of(subject(), schedule, known=known, steps=STEPS)
    assert sum(found.values()) <= functions, found
    assert len(found) <= files, sorted(found)


def test_functions_are_counted_once_each_time() -> None:
    def call() -> None:
        host.HostCost("", "", known=True)
        host.HostCost("", "", known=True)

    assert not host.functions_entered(call)  # of the benchmark, not of the package
