"""What is searched: every estimator, order and granularity, and ways to schedule.

Taken from the registries, so that a new estimator or schedule is searched by itself.
Options of the graphs need a compilation each, those of the schedule do not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from rfc_compile.config.options import GRANULARITIES, Options
from rfc_compile.errors import OptionError
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.schedules import SCHEDULES
from rfc_compile.schedules.base import (
    CACHED,
    FULL,
    Curvature,
    Position,
    guarded_limit,
)
from rfc_compile.tools.tuning.masks import even_mask

Setting = Mapping[str, Any]
"""Options as `torch.compile` takes them; what is left out has its default."""

OF_SCHEDULES: Final = (
    "schedule",
    "threshold",
    "tolerance",
    "interval",
    "full_steps",
    "warmup",
    "max_cached_run",
    "final_full",
)
"""Options that no graph depends on, but for whether it needs a probe."""

SEARCHED: Final = ("threshold", "tolerance", "interval", "full_steps")
"""Options that are always searched."""

DYNAMIC: Final = tuple(
    name for name, kind in SCHEDULES.items() if kind.strictness is not None
)
"""Schedules that an option makes more or less strict."""

_DEFAULT: Final = Options()


def graph_settings(fixed: Setting) -> list[dict[str, Any]]:
    """Every estimator, order and granularity, the default ones first.

    Args:
        fixed: options that are not searched; those of schedules are left out.

    Raises:
        OptionError: one of them is always searched.
    """
    for name in SEARCHED:
        if name in fixed:
            raise OptionError(f"{name} is searched by tuning and cannot be given")
    found = [
        {"estimator": estimator, "order": order, "granularity": granularity}
        for granularity in GRANULARITIES
        for estimator, kind in ESTIMATORS.items()
        for order in kind.orders
    ]
    default = _graph_of({})
    found.sort(key=lambda setting: setting != default)
    own = graph_part(fixed)
    return [setting | own for setting in found if _agrees(setting, own)]


def default_graph(fixed: Setting) -> dict[str, Any]:
    """What the graphs are compiled with if nothing but `fixed` is said."""
    return _graph_of(fixed)


def default_setting(fixed: Setting, wanted: Setting) -> dict[str, Any]:
    """The options without a search: `fixed`, and `wanted` unless they exclude it."""
    own = {**_graph_of(fixed), **fixed}
    with contextlib.suppress(OptionError):
        Options.from_mapping({**own, **wanted})
        return {**own, **wanted}
    return own


def by_granularity(graphs: Iterable[Setting]) -> dict[str, dict[str, Any]]:
    """The first of each."""
    found: dict[str, dict[str, Any]] = {}
    for graph in graphs:
        found.setdefault(graph["granularity"], dict(graph))
    return found


def graph_part(setting: Setting) -> dict[str, Any]:
    """The options of a setting that its graphs are compiled with."""
    return {name: x for name, x in setting.items() if name not in OF_SCHEDULES}


def scheduled(graph: Setting, schedule: Setting, fixed: Setting) -> dict[str, Any]:
    """A whole setting: graphs, a schedule, and what is fixed of schedules.

    Empty if another schedule is fixed.
    """
    own = {name: x for name, x in fixed.items() if name in OF_SCHEDULES}
    if own.get("schedule", schedule["schedule"]) != schedule["schedule"]:
        return {}
    return {**graph, **schedule, **own}


def _graph_of(setting: Setting) -> dict[str, Any]:
    options = Options.from_mapping(setting)
    names = ("estimator", "order", "granularity")
    return {name: getattr(options, name) for name in names} | graph_part(setting)


def _agrees(setting: Setting, fixed: Setting) -> bool:
    return all(fixed.get(name, value) == value for name, value in setting.items())


def mask_setting(full_steps: tuple[int, ...]) -> dict[str, Any]:
    """The schedule of an explicit list."""
    return {
        "schedule": "mask",
        "full_steps": list(full_steps),
        "warmup": 1,
        "max_cached_run": None,
    }


def even_setting(steps: int, count: int) -> dict[str, Any]:
    """That many full steps, evenly spread."""
    return mask_setting(even_mask(steps, count))


def interval_settings(steps: int, count: int) -> Iterator[dict[str, Any]]:
    """Fixed intervals with at most that many full steps, one for each warm-up."""
    for warmup in _warmups():
        for interval in range(2, steps + 1):
            setting = {
                "schedule": "interval",
                "interval": interval,
                "warmup": warmup,
                "max_cached_run": None,
            }
            if static_nfc(setting, steps) <= count:
                yield setting
                break


def dynamic_settings(steps: int, count: int) -> Iterator[dict[str, Any]]:
    """Ways to go by the input that can do with that many full steps; no threshold."""
    cap = _DEFAULT.longest_run
    caps = [None] if cap is None else [cap, 2 * cap]
    for schedule in DYNAMIC:
        for warmup in _warmups():
            for most in caps:
                setting = {
                    "schedule": schedule,
                    "warmup": warmup,
                    "max_cached_run": most,
                }
                if least_nfc(setting, steps) <= count:
                    yield setting


def _warmups() -> tuple[int, ...]:
    return _DEFAULT.warmup, _DEFAULT.warmup + 1


def static_nfc(setting: Setting, steps: int) -> float:
    """Full steps of a run, as the options alone tell; only of a static schedule."""
    assert is_static(setting)
    return least_nfc(setting, steps)


def least_nfc(setting: Setting, steps: int) -> float:
    """Fewest full steps that a run can have, as the options alone tell.

    Of a static schedule that is what it has.
    """
    options = Options.from_mapping(setting)
    schedule = options.make_schedule()
    count, since_full, last_full = 0, 0, None
    for step in range(steps):
        position = Position(
            step=step,
            own_step=step,
            last_full=last_full,
            recorded=count,
            since_full=since_full,
            error=0.0,
            steps=steps,
            times=[float(steps - i) for i in range(step + 1)],
            last_interval=2 if count > 1 else None,
            curvature=Curvature(0.0, 0.0, ()),
        )
        limit, _ = guarded_limit(schedule, position)
        full = limit == FULL
        assert full or not schedule.static or limit == CACHED
        count += full
        last_full = step if full else last_full
        since_full = 0 if full else since_full + 1
    return count


def is_static(setting: Setting) -> bool:
    """Whether no step depends on the input."""
    schedule = Options.from_mapping(setting).make_schedule()
    return schedule.static and schedule.strictness is None


def describe(setting: Setting) -> str:
    """A setting in one line."""
    options = Options.from_mapping(setting)
    named = ("estimator", "order", "granularity", *OF_SCHEDULES)
    others = [f"{name}={x}" for name, x in setting.items() if name not in named]
    return ", ".join(
        (
            f"{options.estimator} {options.order}",
            f"{options.granularity}",
            *others,
            *_schedule_words(options),
        )
    )


def _schedule_words(options: Options) -> list[str]:
    if options.schedule == "mask":
        return [f"full steps {' '.join(map(str, options.full_steps))}"]
    if options.schedule == "interval":
        return [f"interval {options.interval}", f"warm-up {options.warmup}"]
    cap, strictness = options.longest_run, SCHEDULES[options.schedule].strictness
    given = {"threshold": options.largest_error, "tolerance": options.largest_debt}
    value = "" if strictness is None else f" {given[strictness]:g}"
    return [
        f"{options.schedule}{value}",
        f"warm-up {options.warmup}",
        "no cap" if cap is None else f"at most {cap} cached",
    ]
