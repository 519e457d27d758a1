"""Which schedule the options choose, and which of them exclude each other.

``values`` are the options by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from rfc_compile.config.option_values import integer, number
from rfc_compile.errors import OptionError

DEFAULT_SCHEDULE = "error_control"
DEFAULT_INTERVAL = 4

READ_BY = {
    "interval": ("interval",),
    "full_steps": ("mask",),
    "threshold": ("rcs",),
    "tolerance": (DEFAULT_SCHEDULE, "even"),
}
"""The schedules that read an option: given without a schedule it chooses the first."""

TARGETS = ("target_nfc", "target_speedup")


def chosen_schedule(values: Mapping[str, Any]) -> str:
    """The schedule that is named, else that of the other options, else the default."""
    named: str | None = values["schedule"]
    given = [READ_BY[name][0] for name in READ_BY if is_given(values[name])]
    others = [name for name in given if name != DEFAULT_SCHEDULE]
    if named is None and others:
        return others[0]
    target = any(is_given(values[name]) for name in TARGETS)
    if target and named in (None, DEFAULT_SCHEDULE):
        return "even"
    return named or DEFAULT_SCHEDULE


def without_effect(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each option that the schedule or the estimator does not read."""
    schedule, tolerance = values["schedule"], values["tolerance"]
    unread = [
        f"{name}={values[name]!r} has no effect with schedule={schedule!r}"
        for name, schedules in READ_BY.items()
        if is_given(values[name]) and schedule not in schedules
    ]
    unread += [
        f"tolerance={tolerance!r} has no effect with {target}={values[target]!r}"
        for target in TARGETS
        if is_given(tolerance) and is_given(values[target])
    ]
    estimator, ridge = values["estimator"], values["ridge"]
    if is_given(ridge) and estimator != "subspace":
        unread.append(f"ridge={ridge!r} has no effect with estimator={estimator!r}")
    return unread


def is_given(value: Any) -> bool:
    """Whether an option has been set."""
    return value is not None and not (isinstance(value, Sized) and not len(value))


def check_target(values: Mapping[str, Any]) -> None:
    """A target's value, and what it leaves room for."""
    nfc, speedup, cap = (values[name] for name in (*TARGETS, "max_cached_run"))
    given = [f"{x}={values[x]!r}" for x in TARGETS if values[x] is not None]
    if not given:
        return
    if nfc is not None:
        integer("target_nfc", nfc, low=1)
    if speedup is not None:
        number("target_speedup", speedup, low=1)
        if speedup == 1:
            raise OptionError("target_speedup=1 is not allowed: give a number > 1")
    if len(given) > 1:
        raise OptionError(f"{given[0]} and {given[1]} exclude each other: give one")
    if values["schedule"] != "even":
        raise OptionError(
            f"schedule={values['schedule']!r} and {given[0]} exclude each other: "
            "leave one of them out"
        )
    least = values["warmup"] + values["final_full"]
    if nfc is not None and nfc < least:
        raise OptionError(
            f"{given[0]} is less than warmup={values['warmup']} and final_full="
            f"{values['final_full']} take; allowed: a whole number >= {least}"
        )
    if speedup is not None and cap is not None and speedup > cap + 1:
        raise OptionError(
            f"{given[0]} cannot be met with max_cached_run={cap}, which has a step "
            f"in {cap + 1} full; allowed: a max_cached_run >= {speedup - 1:g}"
        )


def check_quality(values: Mapping[str, Any]) -> None:
    """``min_psnr`` takes the place of what else says how much error is allowed."""
    if values["min_psnr"] is None:
        return
    unset = ("tolerance", "threshold", *TARGETS)
    needed = {"schedule": DEFAULT_SCHEDULE, "corrector": "auto"}
    for name, wanted in {**dict.fromkeys(unset), **needed}.items():
        if values[name] != wanted:
            raise OptionError(
                f"min_psnr={values['min_psnr']!r} and {name}={values[name]!r} exclude "
                "each other: give one"
            )
