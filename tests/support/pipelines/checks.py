"""What holds for every pipeline, however it calls its transformer."""

from __future__ import annotations

from pipelines.base import (
    Case,
    Runs,
    difference,
    equal,
    finite,
    per_branch,
    scheduled,
    table,
)


def check(case: Case) -> None:
    """Run a case, and check all of it."""
    runs = Runs.of(case)
    no_trace(runs)
    follows_the_schedule(runs)
    regions_without_fallbacks(runs)
    close_but_different(runs)
    full_is_exact(runs)


def follows_the_schedule(runs: Runs) -> None:
    """Every run is one trajectory, and every branch keeps to the schedule."""
    expected = [scheduled(span) for span in runs.case.spans]
    first, second = runs.stats
    assert first.last is None, table(first.last)
    assert second.last is not None, table(second)
    for statistics in (first, second, second.last):
        assert per_branch(statistics) == expected, table(statistics)


def regions_without_fallbacks(runs: Runs) -> None:
    """Regions are found, and no forward or step runs uncached."""
    assert runs.explanation.regions, str(runs.explanation)
    assert not runs.explanation.uncached_reasons, str(runs.explanation)


def close_but_different(runs: Runs) -> None:
    """Caching takes effect, and does little harm."""
    for cached, uncached in zip(runs.cached, runs.uncached, strict=True):
        assert finite(cached)
        assert 0 < difference(cached, uncached) < 0.2


def no_trace(runs: Runs) -> None:
    """After another run, a run gives what it gave when nothing had run before."""
    assert equal(runs.again, runs.cached[0])


def full_is_exact(runs: Runs) -> None:
    """With every step in full the result is that of the uncompiled pipeline."""
    assert equal(runs.full, runs.uncached[0])
