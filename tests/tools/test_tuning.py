"""The parts of the search: goals, the space, the journal, trials and calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tuning_factory
from hypothesis import given
from hypothesis import strategies as st
from tuning_factory import FIXED, STEPS

from rfc_compile import OptionError, Options
from rfc_compile.config.options import GRANULARITIES
from rfc_compile.config.tuned_file import Measured
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.tools.measure.reference import draw_reference
from rfc_compile.tools.measure.target import resolve_target
from rfc_compile.tools.tuning.calibration import POWERS, calibrate
from rfc_compile.tools.tuning.clock import Clock, TimeUpError
from rfc_compile.tools.tuning.goal import Goal
from rfc_compile.tools.tuning.journal import Journal
from rfc_compile.tools.tuning.masks import best_masks
from rfc_compile.tools.tuning.space import (
    default_graph,
    describe,
    dynamic_settings,
    even_setting,
    graph_part,
    graph_settings,
    interval_settings,
    least_nfc,
    mask_setting,
)
from rfc_compile.tools.tuning.threshold import fit_threshold
from rfc_compile.tools.tuning.timing import StepCost
from rfc_compile.tools.tuning.trials import Trials


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


def test_every_estimator_order_and_granularity_is_searched() -> None:
    graphs = graph_settings({})
    assert len({json.dumps(g) for g in graphs}) == len(graphs)
    orders = sum(len(kind.orders) for kind in ESTIMATORS.values())
    assert len(graphs) == orders * len(GRANULARITIES)
    assert graphs[0] == default_graph({})
    own = Options()
    assert graphs[0]["estimator"] == own.estimator
    assert graphs[0]["granularity"] == own.granularity


def test_fixed_options_are_in_every_setting() -> None:
    graphs = graph_settings({"granularity": "block", "cache_dtype": "bfloat16"})
    assert {g["granularity"] for g in graphs} == {"block"}
    assert {g["cache_dtype"] for g in graphs} == {"bfloat16"}
    assert len(graphs) == len(graph_settings({})) / len(GRANULARITIES)
    for graph in graphs:
        Options.from_mapping(graph)


@given(steps=st.integers(4, 60), data=st.data())
def test_no_schedule_has_more_full_steps_than_wanted(
    steps: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(3, steps))
    assert least_nfc(even_setting(steps, count), steps) == count
    settings = [*interval_settings(steps, count), *dynamic_settings(steps, count)]
    for setting in settings:
        Options.from_mapping(setting)
        assert least_nfc(setting, steps) <= count


def test_a_setting_is_split_and_described() -> None:
    setting = {**FIXED, **mask_setting((0, 3, 7))}
    assert graph_part(setting) == FIXED
    assert describe(setting) == (
        "taylor 1, stack, min_coverage=0.0, time=step, full steps 0 3 7"
    )
    assert describe({"threshold": 0.25, "cache_dtype": "bfloat16"}) == (
        "taylor 1, stack, cache_dtype=bfloat16, rcs 0.25, warm-up 1, no cap"
    )
    assert describe({"tolerance": 0.02, "max_cached_run": 4}) == (
        "taylor 1, stack, error_control 0.02, warm-up 1, at most 4 cached"
    )


def test_costs_tell_the_speed_up() -> None:
    cost = StepCost(full=1.1, cached=0.1)
    assert cost.speedup(10, 50) == pytest.approx(50 / (11 + 4))
    for wanted in (1.5, 3, 6):
        assert cost.speedup(cost.most_nfc(wanted, 50), 50) == pytest.approx(wanted)
    assert cost.most_nfc(20, 50) < 0


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
    made = Trials(reference, journal, Clock(None), lambda _: None)
    made.begin(FIXED)
    yield made
    made.close()


@pytest.fixture
def trials(begun: Trials) -> Trials:
    begun.close()  # the compiler is reset before every test
    return begun


def test_trials_count_the_steps(trials: Trials) -> None:
    assert trials.steps == STEPS


def test_a_trial_has_the_schedule_that_it_asks_for(trials: Trials) -> None:
    """Graphs are shared, so a schedule must not be that of the trial before."""
    for count in (8, 10, 8):
        setting = {**FIXED, **even_setting(STEPS, count)}
        tried = trials.measure("even mask", setting, count)
        assert tried is not None
        assert tried.measured.nfc == count
        assert tried.measured.images == 2
    done = trials.done
    trials.measure("even mask", setting, 8)
    assert trials.done == done  # it is known


def test_a_setting_that_cannot_win_is_not_drawn(trials: Trials) -> None:
    done, skipped = trials.done, trials.skipped
    assert trials.measure("", {**FIXED, **even_setting(STEPS, 8)}, 5) is None
    assert trials.done == done
    strict = {**FIXED, "schedule": "rcs", "threshold": 1e-9}
    assert trials.measure("", strict, 5) is None  # stopped at its sixth full step
    assert (trials.done, trials.skipped) == (done + 1, skipped + 2)
    assert trials.measure("", strict, 5) is None
    assert trials.done == done + 1


def test_a_threshold_is_fitted(trials: Trials) -> None:
    setting = {**FIXED, "schedule": "rcs", "warmup": 2, "max_cached_run": None}
    counts = []
    for count in (4, 8):
        tried = fit_threshold(trials, setting, count)
        assert tried is not None
        assert tried.measured.nfc <= count + 0.5
        counts.append(tried.measured.nfc)
    assert counts[0] < counts[1]


def test_time_stops_trials(trials: Trials) -> None:
    late = replace(trials, clock=Clock(0))
    with pytest.raises(TimeUpError):
        late.measure("", {**FIXED, **even_setting(STEPS, 5)}, 5)
    known = {**FIXED, **even_setting(STEPS, 8)}
    assert late.measure("", known, 8) is not None  # costs no time


def test_calibrated_costs_are_of_what_masks_leave_out(trials: Trials) -> None:
    tables = calibrate(trials, FIXED, range(2, 6))
    assert len(tables) == len(POWERS)
    for costs in tables:
        for step, row in enumerate(costs):
            assert set(row) == {g for g in range(1, 6) if g == 1 or step + g <= STEPS}
            assert row[1] == 0
            assert all(0 < cost < math.inf for g, cost in row.items() if g > 1)
            values = [row[g] for g in sorted(row)]
            assert values == sorted(values)  # farther predictions are worse
        assert best_masks(costs, 12).keys() >= {8, 12}
    assert calibrate(trials, FIXED, range(2, 6)) == tables
    early, late = [
        costs[STEPS - 4][2] / costs[STEPS // 5][2] for costs in (tables[0], tables[-1])
    ]
    assert late > 2 * early  # DDIM's last steps weigh most
