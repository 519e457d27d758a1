"""Checks of option values: an error names the option and the allowed values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import distributed

from rfc_compile.config import removed_options
from rfc_compile.errors import OptionError, did_you_mean
from rfc_compile.schedules.base import Intervals


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """The value is one of these, or ``OptionError`` names the nearest."""
    known = list(allowed)
    _refuse_removed(name, value)
    if value not in known:
        raise OptionError(
            f"{name}={value!r} is not allowed{did_you_mean(value, known)}"
        )


def flag(name: str, value: object) -> None:
    """The value is True or False, or ``OptionError``."""
    if not isinstance(value, bool):
        raise OptionError(f"{name}={value!r} is not allowed; allowed: True, False")


def number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """The value is a number from ``low`` to ``high``, or ``OptionError``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        limit = f"from {low:g} to {high:g}" if high < math.inf else f">= {low:g}"
        raise OptionError(f"{name}={value!r} is not allowed; allowed: a number {limit}")


def integer(name: str, value: object, low: int) -> None:
    """The value is a whole number of at least ``low``, or ``OptionError``."""
    _refuse_removed(name, value)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: a whole number >= {low}"
        )


def several(name: str, values: object, allowed: Iterable[str]) -> tuple[str, ...]:
    """A list of these, as a tuple."""
    if not isinstance(values, list | tuple):
        raise OptionError(
            f"{name}={values!r} is not allowed; allowed: a list of {', '.join(allowed)}"
        )
    for value in values:
        one_of(name, value, allowed)
    return tuple(values)


def step_indices(name: str, steps: object) -> tuple[int, ...]:
    """Indices of steps, as a tuple."""
    if isinstance(steps, str | Mapping) or not isinstance(steps, Iterable):
        raise OptionError(f"{name}={steps!r}: give a list of step indices")
    for step in steps:
        integer(name, step, low=0)
    return tuple(steps)


def intervals(name: str, value: object) -> int | Intervals:
    """A whole number, or pairs of a timestep and one, in a run's order, as tuples."""
    if isinstance(value, int):
        integer(name, value, low=1)
        return value
    try:
        pairs = tuple((float(at), steps) for at, steps in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        pairs = ()
    times = [at for at, _ in pairs]
    whole = all(type(steps) is int and steps >= 1 for _, steps in pairs)
    ordered = times in (sorted(set(times)), sorted(set(times), reverse=True))
    if not (pairs and whole and ordered and all(map(math.isfinite, times))):
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: a whole number >= 1, or pairs "
            "(timestep, whole number >= 1) whose timesteps fall, or rise"
        )
    return pairs


def process_group(name: str, value: object) -> None:
    """The value is a process group that this rank is in, or ``OptionError``."""
    known = distributed.is_available() and isinstance(value, distributed.ProcessGroup)
    if not known:
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: None, or a process group that "
            "this rank is in, as torch.distributed.new_group() or "
            "DeviceMesh.get_group() return it"
        )


def _refuse_removed(name: str, value: object) -> None:
    if instead := removed_options.VALUES.get((name, str(value))):
        raise OptionError(f"{name}={value!r} is gone: {instead}")
