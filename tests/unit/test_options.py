"""Bad options: which error, naming the option, saying what is allowed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import Stack, build, timesteps, tokens

from rfc_compile import BudgetWarning, OptionError, Options
from rfc_compile.config.presets import PRESETS
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.schedules import SCHEDULES

NOT_NUMBERS = (-0.1, float("nan"), float("inf") * -1, "0.1", True, None)
NOT_POSITIVE = (0, -1, 1.5, "3", True, None)
BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "process_group": (("world", 3, True), "torch.distributed.new_group()"),
    "preset": (("best", 3, None), "quality, balanced, fast"),
    "estimator": (("spline", "RFE", 3), "subspace, rfe, taylor, reuse"),
    "schedule": (("always", 3), "error_control, even, rcs, interval, mask"),
    "target_nfc": ((0, -1, 1.5, "14", True), "a whole number >= 1"),
    "target_speedup": ((0.9, -2, float("nan"), "3", True), "a number >= 1"),
    "granularity": (("layer", 3), "module"),
    "time": (("steps", 3, True), "timestep, step"),
    "corrector": (("on", None, True), "auto, off"),
    "per_sample": (("sample", None, 1), "True, False"),
    "cache_dtype": (("float32", "bf16", torch.float16, 8), "bfloat16, float16"),
    "order": ((0, 3, "2", 1.5), "1, 2"),
    "threshold": (NOT_NUMBERS[:-1], "a number >= 0"),
    "tolerance": (NOT_NUMBERS[:-1], "a number >= 0"),
    "min_psnr": ((*NOT_NUMBERS[:-1], 101), "a number from 0 to 100"),
    "ridge": (NOT_NUMBERS[:-1], "a number >= 0"),
    "disable_passes": (
        (("outline",), ["fold_repeat"], "fold_repeats", 3, None, ([],)),
        "small_matmuls, fold_repeats",
    ),
    "min_coverage": ((-0.1, 1.1, "half", True, None), "a number from 0 to 1"),
    "interval": (NOT_POSITIVE[:-1], "a whole number >= 1"),
    "warmup": (NOT_POSITIVE, "a whole number >= 1"),
    "final_full": ((-1, 1.5, "3", True, None), "a whole number >= 0"),
    "max_cached_run": ((-1, 1.5, "3", True), "a whole number >= 0"),
    "full_steps": (((-1,), (1.5,), "0,1", 3, ("a",), None), ""),
    "inner": (("rfc", "inductr", None, 3), "backend"),
    "inner_options": (((), "max", 3, None), "a dict"),
    "timestep": ((3, ("t",)), "name"),
}
CASES = [(name, value) for name, (values, _) in BAD.items() for value in values]


def test_every_option_has_bad_values_here() -> None:
    assert set(BAD) == {item.name for item in dataclasses.fields(Options)}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_bad_value_names_the_option_and_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as raised:
        Options(**{name: value})
    message = str(raised.value)
    assert name in message
    assert BAD[name][1] in message
    if name not in ("full_steps", "disable_passes"):
        assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "order"),
    [(name, o) for name, kind in ESTIMATORS.items() for o in range(5)],
)
def test_orders_depend_on_the_estimator(name: str, order: int) -> None:
    if order in ESTIMATORS[name].orders:
        assert Options(estimator=name, order=order).order == order
        return
    with pytest.raises(OptionError, match=f"order={order}.*estimator='{name}'"):
        Options(estimator=name, order=order)


@pytest.mark.parametrize(
    ("granularity", "order"), [("module", 2), ("block", 1), ("stack", 1), ("model", 1)]
)
def test_default_order(granularity: str, order: int) -> None:
    for name in ("taylor", "rfe", "subspace"):
        assert Options(granularity=granularity, estimator=name).order == order
    assert Options(granularity=granularity, estimator="reuse").order == 0


@pytest.mark.parametrize(
    ("granularity", "estimator"),
    [
        ("module", "subspace"),
        ("block", "taylor"),
        ("stack", "taylor"),
        ("model", "taylor"),
    ],
)
def test_the_granularity_chooses_what_is_left_out(
    granularity: str, estimator: str
) -> None:
    chosen = Options(granularity=granularity)
    assert (chosen.estimator, chosen.time) == (estimator, "timestep")
    given = Options(granularity=granularity, estimator="rfe", time="step")
    assert (given.estimator, given.time) == ("rfe", "step")
    assert Options() == Options(granularity="stack")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_how_strict_schedules_are(preset: str) -> None:
    chosen = Options(preset=preset)
    assert chosen.schedule == "error_control"
    found = chosen.largest_error, chosen.largest_debt
    assert found == PRESETS[preset]
    given = Options(preset=preset, tolerance=0.5, schedule="rcs")
    assert given.largest_debt == 0.5
    assert given.largest_error == PRESETS[preset].threshold


def test_presets_are_ordered() -> None:
    quality, balanced, fast = (PRESETS[x] for x in ("quality", "balanced", "fast"))
    assert quality.tolerance < balanced.tolerance < fast.tolerance
    assert quality.threshold < balanced.threshold < fast.threshold
    assert [Options(preset=preset).even_steps for preset in PRESETS] == [20, 14, 9]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_tolerance_has_no_more_even_steps(one: float, other: float) -> None:
    strict, loose = sorted((one, other))
    counts = [Options(tolerance=t).even_steps for t in (strict, loose)]
    assert counts[0] >= counts[1] >= 1


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({"threshold": 0.3}, "rcs"),
        ({"interval": 4}, "interval"),
        ({"full_steps": (0, 3)}, "mask"),
        ({"tolerance": 0.1}, "error_control"),
    ],
)
def test_an_option_chooses_the_schedule_that_reads_it(
    given: dict[str, Any], schedule: str
) -> None:
    assert Options(**given).schedule == schedule
    assert Options(**given).without_effect == []


def test_a_ridge_chooses_the_estimator_that_reads_it() -> None:
    options = Options(ridge=0.1)
    assert (options.estimator, options.without_effect) == ("subspace", [])
    assert options.make_estimator().ridge == 0.1
    assert Options(granularity="module").make_estimator().ridge == 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 0.3, "schedule": "interval"}, "threshold=0.3 .*'interval'"),
        ({"interval": 3, "schedule": "error_control"}, "interval=3 .*'error_control'"),
        ({"full_steps": [0], "schedule": "even"}, r"full_steps=\(0,\) .*'even'"),
        ({"tolerance": 0.1, "target_nfc": 5}, "tolerance=0.1 .* target_nfc"),
        ({"tolerance": 0.1, "interval": 5}, "tolerance=0.1 .*'interval'"),
        ({"ridge": 0.1, "estimator": "taylor"}, "ridge=0.1 .*'taylor'"),
    ],
)
def test_an_option_that_nothing_reads_is_told(
    options: dict[str, Any], sentence: str
) -> None:
    compiled = torch.compile(
        build(Stack), backend="rfc", options={"inner": "eager", **options}
    )
    with torch.no_grad(), pytest.warns(BudgetWarning, match=sentence):
        compiled(tokens(), timesteps(9))


@pytest.mark.parametrize(
    ("gone", "instead"),
    [
        ({"decide": "sample"}, "'decide' is gone: use per_sample=True"),
        ({"decision": "lagged"}, "'decision' is gone: leave it out"),
        ({"max_error": 0.4}, "'max_error' is gone: use schedule='rcs' with threshold"),
        ({"input_sketch": 4}, "'input_sketch' is gone: .* cache_dtype"),
        ({"memory_budget": "1GiB"}, "'memory_budget' is gone: .* granularity='stack'"),
        ({"schedule": "spread"}, "schedule='spread' is gone: use 'error_control'"),
        ({"schedule": "budget"}, "schedule='budget' is gone: give target_nfc"),
        ({"max_cached_run": "auto"}, "max_cached_run='auto' is gone: leave it out"),
        ({"time": "noise"}, "time='noise' is gone: use 'timestep'"),
        ({"cache_dtype": "float8"}, "cache_dtype='float8' is gone: use 'bfloat16'"),
        (
            {"estimator": "scaled_taylor"},
            "estimator='scaled_taylor' is gone: use 'taylor'",
        ),
    ],
)
def test_what_is_gone_names_what_to_use_instead(
    gone: dict[str, Any], instead: str
) -> None:
    with pytest.raises(OptionError, match=instead):
        Options.from_mapping(gone)


def test_mask_needs_its_steps() -> None:
    with pytest.raises(OptionError, match="schedule='mask' needs full_steps"):
        Options(schedule="mask")


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("treshold", "threshold"), ("max_cached", "max_cached_run"), ("steps", None)],
)
def test_unknown_option(wrong: str, near: str | None) -> None:
    with pytest.raises(OptionError) as raised:
        Options.from_mapping({wrong: 1})
    message = str(raised.value)
    assert f"unknown option '{wrong}'" in message
    if near is not None:
        assert f"did you mean '{near}'?" in message
    for item in dataclasses.fields(Options):
        assert item.name in message


def test_nearest_value() -> None:
    with pytest.raises(OptionError, match="did you mean 'taylor'"):
        Options(estimator="tailor")
    with pytest.raises(OptionError, match="did you mean 'interval'"):
        Options(schedule="intervals")


def test_options_are_frozen_and_comparable() -> None:
    options = Options(full_steps=[0, 3], schedule="mask")  # type: ignore[arg-type]
    assert options.full_steps == (0, 3)
    assert options == Options(full_steps=(0, 3), schedule="mask")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.threshold = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_estimator_is_the_one_named(name: str) -> None:
    estimator = Options(estimator=name, ridge=0.7).make_estimator()
    assert (estimator.name, estimator.ridge) == (name, 0.7)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedule_is_the_one_named(name: str) -> None:
    assert Options(schedule=name, full_steps=(0,)).make_schedule().name == name


@pytest.mark.parametrize("wish", [{"target_nfc": 14}, {"target_speedup": 3}])
def test_a_wish_chooses_the_schedule(wish: dict[str, Any]) -> None:
    (name,) = wish
    assert Options(**wish).schedule == Options(schedule="even", **wish).schedule
    assert Options(**wish).schedule == "even"
    with pytest.raises(OptionError, match=rf"schedule='interval' and {name}="):
        Options(schedule="interval", **wish)
    with pytest.raises(OptionError, match=rf"schedule='mask' and {name}="):
        Options(schedule="mask", full_steps=(0,), **wish)
    with pytest.raises(OptionError, match=rf"schedule='rcs' and {name}="):
        Options(threshold=0.3, **wish)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_nfc": 9, "target_speedup": 3},
            "target_nfc=9 and target_speedup=3 ex",
        ),
        (
            {"target_nfc": 1, "warmup": 2},
            "target_nfc=1 is less than warmup=2 and final_full=0 take",
        ),
        ({"target_nfc": 5, "warmup": 3, "final_full": 3}, "whole number >= 6"),
        ({"target_speedup": 1}, "target_speedup=1 is not allowed: give a number > 1"),
        (
            {"target_speedup": 6, "max_cached_run": 4},
            "target_speedup=6 cannot.*run >= 5",
        ),
    ],
)
def test_wishes_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Options(**options)


def test_a_wish_takes_what_does_not_exclude_it() -> None:
    assert Options(target_nfc=14, tolerance=0.3).tolerance == 0.3
    assert Options(target_speedup=6, max_cached_run=5).max_cached_run == 5


@pytest.mark.parametrize(
    "options", [{"treshold": 0.1}, {"warmup": 0}, {"estimator": "spline"}]
)
def test_torch_compile_shows_the_error_itself(options: dict[str, Any]) -> None:
    compiled = torch.compile(
        build(Stack), backend="rfc", options={"inner": "eager", **options}
    )
    with torch.no_grad(), pytest.raises(OptionError, match=next(iter(options))) as info:
        compiled(tokens(), timesteps(9))
    assert type(info.value) is OptionError
    assert isinstance(info.value, ValueError)
