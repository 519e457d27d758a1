"""Real pipelines, compiled with the one line that a user adds."""

from __future__ import annotations

import pytest
from pipelines import ALL, checks
from pipelines.base import Runs


@pytest.fixture(scope="module", params=ALL)
def runs(request: pytest.FixtureRequest) -> Runs:
    """Of one case at a time: pytest puts the tests of a case one after another."""
    return Runs.of(ALL[request.param])


def test_a_run_leaves_no_trace_in_the_next(runs: Runs) -> None:
    checks.no_trace(runs)


def test_the_schedule_is_followed_in_every_branch(runs: Runs) -> None:
    checks.follows_the_schedule(runs)


def test_regions_are_found_and_nothing_falls_back(runs: Runs) -> None:
    checks.regions_without_fallbacks(runs)


def test_caching_changes_the_result_a_little(runs: Runs) -> None:
    checks.close_but_different(runs)


def test_steps_in_full_give_the_uncompiled_result(runs: Runs) -> None:
    checks.full_is_exact(runs)
