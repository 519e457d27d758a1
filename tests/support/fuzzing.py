"""How many random examples the fuzz tests run, from which seed, and how many ran.

    make test               a few of every property, always the same
    make fuzz               2,000 in all, of another seed every day
    make fuzz SEED=7        those of a seed again

Without a database of earlier failures: a seed alone tells what is run.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

SHARE = float(os.environ.get("RFC_FUZZ_EXAMPLES", "0"))
"""Examples of all fuzz tests together, 0 for the few of the ordinary tests."""

SEED = int(os.environ.get("RFC_FUZZ_SEED", "0"))

EXAMPLES = "random examples"
"""Name of the property of a test's report that counts them."""

TESTS = 4
"""Properties among which the examples are shared out evenly."""

ran = 0
"""Examples that have run in this process."""


def summary(counts: Mapping[str, int]) -> str:
    """One line: how many examples all tests ran, and how to run them again."""
    again = f"make fuzz SEED={SEED}" if SHARE else "make test"
    return (
        f"{sum(counts.values())} random examples in {len(counts)} tests, seed {SEED}: "
        f"the same again by `{again}`"
    )


def fuzz(few: int, **strategies: Any) -> Callable[[Callable[..., None]], Any]:
    """A property of random inputs; ``few`` is how many of them ``make test`` takes."""

    def decorate(test: Callable[..., None]) -> Any:
        @functools.wraps(test)
        def counting(**arguments: Any) -> None:
            global ran
            ran += 1
            test(**arguments)

        configured = settings(
            max_examples=int(SHARE / TESTS) or few,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        return seed(SEED)(configured(given(**strategies)(counting)))

    return decorate
