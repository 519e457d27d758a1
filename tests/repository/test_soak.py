"""The soak test's own parts: its runs come again, its limits can be missed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from paths import ROOT

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(ROOT)
    from benchmarks import soak
    from benchmarks.random_runs import GRAPHS, random_run


def held(resident: int, **objects: int) -> soak.Held:
    return soak.Held(resident, dict.fromkeys(soak.KEPT, 7) | objects)


def test_a_seed_gives_the_same_runs() -> None:
    first, second = (
        [random_run(i, rng) for i in range(50)]
        for rng in (random.Random(3), random.Random(3))
    )
    assert first == second
    assert {run.graphs for run in first} == set(GRAPHS)
    assert {run.abandoned for run in first} == {run.all_full for run in first}


def test_every_limit_can_be_missed() -> None:
    before = held(1 << 30)
    good = soak.Soak(drawn=9, before=before, after=held(1 << 30, GraphReport=6))
    assert soak.table(good, [])[1]
    grown = held(int(1.02 * (1 << 30)))
    leaking = held(1 << 30, GuardManagerWrapper=8)
    piling = held(1 << 30, KeptState=9)
    for bad in (
        soak.Soak(before=before, after=grown),
        soak.Soak(before=before, after=leaking),
        soak.Soak(before=before, after=piling),
        soak.Soak(before=before, after=before, recompiled=1),
    ):
        grid, passed = soak.table(bad, [])
        assert not passed
        assert [row[-1] for row in grid.rows].count("missed") == 1
    assert not soak.table(good, ["another image"])[1]


def test_only_its_section_of_the_document_is_written(tmp_path: Path) -> None:
    path = tmp_path / "RELIABILITY.md"
    path.write_text(f"# Reliability\n\n{soak.START}\nold\n{soak.END}\n\n## Faults\n")
    grid, _ = soak.table(soak.Soak(before=held(1), after=held(1)), [])
    for _ in range(2):
        soak.write(grid, path)
        before, section, after = path.read_text().partition(grid.markdown())
        assert before == f"# Reliability\n\n{soak.START}\n"
        assert section
        assert after.endswith(f"\n{soak.END}\n\n## Faults\n")
        assert "old" not in after
    path.write_text(f"# Reliability\n\n{soak.START}\nall that follows\n")
    with pytest.raises(ValueError, match="end of soak"):
        soak.write(grid, path)
    assert "all that follows" in path.read_text()
