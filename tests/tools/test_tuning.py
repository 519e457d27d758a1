"""The parts of the search: goals, settings, the journal, trials and the climb."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tuning_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import full_steps
from tuning_factory import FIXED, STEPS

from rfc_compile import OptionError, Options
from rfc_compile.config.tuned_file import Measured
from rfc_compile.tools.measure.reference import draw_reference
from rfc_compile.tools.measure.target import resolve_target
from rfc_compile.tools.tuning.climb import Mask, climb
from rfc_compile.tools.tuning.goal import Goal
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.progress import Clock, TimeUpError
from rfc_compile.tools.tuning.space import (
    SEARCHED,
    describe,
    graph_setting,
    mask_setting,
)
from rfc_compile.tools.tuning.trials import Trials, Tried


def evenly(steps: int, count: int) -> Mask:
    """Full steps that are spread evenly over a run, the first one among them."""
    return tuple(index * steps // count for index in range(count))


def measured(speedup: float, psnr: float, nfc: float = 10) -> Measured:
    return Measured(
        nfc=nfc,
        steps=50,
        psnr=psnr,
        psnr_min=psnr - 3,
        ssim=0.9,
        images=4,
        state_bytes=0,
        graph_breaks=0,
        recompiles=0,
        speedup=speedup,
    )


FOUND = [measured(1.5, 44), measured(2.2, 40), measured(2.5, 38), measured(4, 25)]


@pytest.mark.parametrize(
    ("goal", "best"),
    [
        (Goal(target_speedup=2), 1),  # the best images of those that are fast enough
        (Goal(target_speedup=2.4), 2),
        (Goal(min_psnr=36), 2),  # the fastest of those that are close enough
        (Goal(min_psnr=43), 0),
        (Goal(target_speedup=2, min_psnr=39), 1),
        (Goal(target_speedup=5), 3),  # missed: the closest
        (Goal(min_psnr=50), 0),
        (Goal(min_ssim=0.8), 3),
        (Goal(), 2),  # the knee
    ],
)
def test_a_goal_chooses(goal: Goal, best: int) -> None:
    assert goal.best(FOUND) == best


def test_a_missed_goal_has_numbers() -> None:
    goal = Goal(target_speedup=3, min_psnr=45, min_ssim=0.95)
    assert goal.misses(FOUND[0]) == [
        "speed-up 1.50 < 3",
        "PSNR 44.00 dB < 45 dB",
        "SSIM 0.9000 < 0.95",
    ]
    assert Goal(target_nfc=9).misses(FOUND[0]) == ["NFC 10.0 > 9"]
    assert Goal(target_nfc=10, min_psnr=44).misses(FOUND[0]) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"target_speedup": 0.5}, "target_speedup=0.5 is not allowed"),
        ({"target_speedup": float("nan")}, "target_speedup=nan is not allowed"),
        ({"min_ssim": 1.5}, "min_ssim=1.5 is not allowed; allowed: a number from 0"),
        ({"min_psnr": float("inf")}, "min_psnr=inf is not allowed"),
        ({"target_speedup": 2, "target_nfc": 9}, "give one of the two"),
    ],
)
def test_an_impossible_goal_is_refused(limits: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Goal(**limits)


def test_given_options_are_in_every_setting() -> None:
    own = Options()
    assert graph_setting({}) == {
        "estimator": own.estimator,
        "order": own.order,
        "granularity": own.granularity,
    }
    given = {"granularity": "block", "cache_dtype": "bfloat16"}
    assert graph_setting(given).items() >= given.items()
    for name in SEARCHED:
        with pytest.raises(OptionError, match=f"{name} is searched by tuning"):
            graph_setting({name: None})


TIMES = [981.0 - 20 * step for step in range(50)]


@given(st.sets(st.integers(1, 49), max_size=20), st.sampled_from([1, -1, 1e-3]))
@settings(deadline=None)
def test_a_setting_has_the_steps_of_its_mask(others: set[int], scale: float) -> None:
    """Whatever the unit of timesteps, and whether they fall or rise."""
    mask = (0, *sorted(others))
    times = [scale * time for time in TIMES]
    setting = mask_setting(mask, times)
    assert setting["schedule"] == "interval"
    full = full_steps([0.1] * 50, 50, times=times, **setting)
    assert full == list(mask)


@pytest.mark.parametrize("times", [[], [3.0], [3.0, 2.0, 2.0], [1.0, 2.0, 1.0]])
def test_a_mask_stays_one_where_timesteps_tell_no_step(times: list[float]) -> None:
    wanted = {"schedule": "mask", "full_steps": [0, 2]}
    assert mask_setting((0, 2), times) == wanted


def test_a_setting_is_described() -> None:
    setting = {**FIXED, **mask_setting((0, 3, 7), TIMES[:9])}
    assert describe(setting) == (
        "taylor 1, stack, min_coverage=0.0, time=step, one step in 3 4 2"
    )
    assert describe({"schedule": "mask", "full_steps": [0, 3]}) == (
        "taylor 1, stack, full steps 0 3"
    )
    assert describe({"threshold": 0.25, "cache_dtype": "bfloat16"}) == (
        "taylor 1, stack, cache_dtype=bfloat16, rcs 0.25"
    )
    assert describe({"tolerance": 0.02}) == "taylor 1, stack, error_control 0.02"
    assert describe({"target_nfc": 9}) == "taylor 1, stack, even, 9"


@given(steps=st.integers(2, 40), data=st.data())
@settings(deadline=None)
def test_a_climb_ends_where_no_move_helps(steps: int, data: st.DataObject) -> None:
    """With a cost of its own for every step, and so a known end."""
    count = data.draw(st.integers(1, steps))
    goal, start = tuple(range(count)), evenly(steps, count)
    seen = [start]

    def cost(mask: Mask) -> int:
        return sum((a - b) ** 2 for a, b in zip(mask, goal, strict=True))

    def better(mask: Mask) -> bool:
        assert mask[0] == 0
        assert all(a < b <= steps for a, b in itertools.pairwise([*mask, steps]))
        assert mask not in seen
        seen.append(mask)
        return cost(mask) < min(map(cost, seen[:-1]))

    assert climb(start, steps, better) == goal


def as_it_is(place: str, value: Any) -> Any:
    return value


def test_a_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    study: Any = {"seed": 0, "sampler": "ddim"}
    journal = Journal.open(path, study, resume=True)
    journal.add({"trial": {"b": 1, "a": (2,)}}, {"psnr": 30.0})
    journal.add({"trial": "other"}, None)
    again = Journal.open(path, study, resume=True)
    assert again.get({"trial": {"a": [2], "b": 1}}, as_it_is) == {"psnr": 30.0}
    assert again.get({"trial": "unknown"}, as_it_is) is None
    assert len(again) == 2
    with path.open("a") as file:
        file.write('{"key": {"trial": "cut o')
    assert len(Journal.open(path, study, resume=True)) == 2
    assert path.read_text().count("\n") == 3  # the broken line is gone
    assert len(Journal.open(path, study, resume=False)) == 0


def test_a_journal_of_another_study_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    Journal.open(path, {"seed": 0, "sampler": "ddim"}, resume=False)
    with pytest.raises(OptionError, match="sampler was 'ddim' and is 'euler'"):
        Journal.open(path, {"seed": 0, "sampler": "euler"}, resume=True)
    for content in ("", "[]", "not JSON"):
        path.write_text(content)
        with pytest.raises(OptionError, match="is no study of `rfc-compile tune`"):
            Journal.open(path, {"seed": 0}, resume=True)


def test_a_clock_runs_out() -> None:
    Clock(None).check()
    Clock(3600).check(0.5)
    with pytest.raises(TimeUpError):
        Clock(0).check()


@pytest.fixture(scope="module")
def begun() -> Iterator[Trials]:
    target = resolve_target(tuning_factory.make())
    journal = Journal.open(None, {}, resume=False)
    reference = draw_reference(target, (0, 1))
    made = Trials(FIXED, reference, journal, Clock(None), lambda _: None)
    made.begin()
    yield made
    made.close()


@pytest.fixture
def trials(begun: Trials) -> Trials:
    begun.close()  # the compiler is reset before every test
    return begun


def test_trials_know_the_run(trials: Trials) -> None:
    assert trials.steps == STEPS
    assert len(trials.times) == STEPS
    assert trials.times == tuple(sorted(trials.times, reverse=True))


def test_a_trial_has_the_full_steps_that_it_asks_for(trials: Trials) -> None:
    """Graphs are shared, so a schedule must not be that of the trial before."""
    for count in (8, 10, 8):
        tried = trials.measure("even", evenly(STEPS, count))
        assert tried is not None
        assert tried.measured.nfc == count
        assert tried.measured.images == 2
        schedule = {n: x for n, x in tried.setting.items() if n not in FIXED}
        assert trials.full_steps_of(schedule) == tried.mask
    done = trials.done
    trials.measure("even", evenly(STEPS, 8))
    assert trials.done == done  # it is known


def test_a_mask_that_is_far_behind_is_not_drawn_with_all_seeds(trials: Trials) -> None:
    rival = trials.measure("even", evenly(STEPS, 8))
    done, skipped = trials.done, trials.skipped
    assert trials.measure("", (0, 1, 2, 3), rival) is None
    assert (trials.done, trials.skipped) == (done + 1, skipped + 1)


def tried_with(*psnrs: float) -> Tried:
    each = tuple(measured(2, psnr) for psnr in psnrs)
    return Tried("", (0,), {}, each)


@pytest.mark.parametrize(
    ("psnrs", "beats"),
    [
        ((31, 41, 36), True),
        ((30, 40, 35), False),
        ((34, 39, 34.5), False),  # one seed's luck
        ((30.1, 40.1, 35.2), True),
    ],
)
def test_what_is_better_is_so_beyond_chance(psnrs: list[float], beats: bool) -> None:
    assert tried_with(*psnrs).beats(tried_with(30, 40, 35)) is beats


def test_with_one_seed_any_gain_counts() -> None:
    assert tried_with(30.1).beats(tried_with(30))
    assert not tried_with(30).beats(tried_with(30))


def test_time_stops_trials(trials: Trials) -> None:
    trials.measure("", evenly(STEPS, 8))
    late = replace(trials, clock=Clock(0))
    with pytest.raises(TimeUpError):
        late.measure("", evenly(STEPS, 5))
    assert late.measure("", evenly(STEPS, 8)) is not None  # it costs no time
