"""Real pipelines, compiled with the one line that a user adds."""

from __future__ import annotations

from functools import cache

import pytest

from pipelines import ALL, checks
from pipelines.base import Runs

every = pytest.mark.parametrize("name", ALL)


@cache
def runs(name: str) -> Runs:
    return Runs.of(ALL[name])


@every
def test_a_run_leaves_no_trace_in_the_next(name: str) -> None:
    checks.no_trace(runs(name))


@every
def test_the_schedule_is_followed_in_every_branch(name: str) -> None:
    checks.follows_the_schedule(runs(name))


@every
def test_regions_are_found_and_nothing_falls_back(name: str) -> None:
    checks.regions_without_fallbacks(runs(name))


@every
def test_caching_changes_the_result_a_little(name: str) -> None:
    checks.close_but_different(runs(name))


@every
def test_steps_in_full_give_the_uncompiled_result(name: str) -> None:
    checks.full_is_exact(runs(name))
