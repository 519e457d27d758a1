"""Settings: the graphs' options, which are given, and a schedule, which is searched.

    full steps 0 5 8, timesteps 981 961 ...    ->    interval=[[971, 5], [871, 3], ...]

A schedule goes by noise level: then it serves other numbers of steps, and runs that
begin at a later timestep (``schedules/interval.py``). Where a sampler repeats a
timestep, or the model has none, it is a list of full steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from rfc_compile.config.options import Options
from rfc_compile.errors import OptionError
from rfc_compile.tools.tuning.climb import Mask

Setting = Mapping[str, Any]
"""Options as `torch.compile` takes them; what is left out has its default."""

SEARCHED: Final = (
    "schedule",
    "threshold",
    "tolerance",
    "interval",
    "full_steps",
    "target_nfc",
    "target_speedup",
    "min_psnr",
    "warmup",
    "max_cached_run",
    "final_full",
)
"""Options that say which steps are full; no graph depends on them."""


def graph_setting(fixed: Setting) -> dict[str, Any]:
    """The options that the graphs are compiled with."""
    for name in SEARCHED:
        if name in fixed:
            raise OptionError(f"{name} is searched by tuning and cannot be given")
    options = Options.from_mapping(fixed)
    names = ("estimator", "order", "granularity")
    return {name: getattr(options, name) for name in names} | dict(fixed)


def default_setting(graph: Setting, wanted: Setting) -> dict[str, Any]:
    """The options without a search: with ``wanted`` unless it cannot be."""
    with contextlib.suppress(OptionError):
        Options.from_mapping({**graph, **wanted})
        return {**graph, **wanted}
    return dict(graph)


def mask_setting(full_steps: Mask, times: Sequence[float]) -> dict[str, Any]:
    """The schedule with these full steps where the steps have these timesteps."""
    moves = [b - a for a, b in pairwise(times)]
    if not moves or not (all(x > 0 for x in moves) or all(x < 0 for x in moves)):
        return {"schedule": "mask", "full_steps": list(full_steps)}
    intervals = []
    for step, following in pairwise([*full_steps, len(times)]):
        after = times[step + 1] if step + 1 < len(times) else times[step] + moves[-1]
        intervals.append([(times[step] + after) / 2, following - step])
    return {"schedule": "interval", "interval": intervals}


def describe(setting: Setting) -> str:
    """A setting in one line."""
    options = Options.from_mapping(setting)
    named = ("estimator", "order", "granularity", *SEARCHED)
    others = [f"{name}={x}" for name, x in setting.items() if name not in named]
    graph = f"{options.estimator} {options.order}", f"{options.granularity}"
    return ", ".join((*graph, *others, _schedule_words(options)))


def _schedule_words(options: Options) -> str:
    if options.schedule == "mask":
        return f"full steps {' '.join(map(str, options.full_steps))}"
    if options.schedule == "interval" and (given := options.interval) is not None:
        each = [given] if isinstance(given, int) else [steps for _, steps in given]
        return f"one step in {' '.join(map(str, each))}"
    if options.schedule == "even":
        return f"even, {options.target_nfc or options.target_speedup:g}"
    if options.schedule == "rcs":
        return f"rcs {options.largest_error:g}"
    return f"{options.schedule} {options.largest_debt:g}"
