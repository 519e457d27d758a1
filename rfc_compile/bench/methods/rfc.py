"""This package: its own estimators, and those of FORA and TaylorSeer.

Quality runs leave the graphs eager (`inner="eager"`), which compiles fast; the passes
and the runtime are the same.
"""

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

import rfc_compile
from rfc_compile.bench.methods.base import Applied, Method, Mode, compile_model
from rfc_compile.bench.workloads import Workload, plain
from rfc_compile.config import GRANULARITIES

_STATIC: Final = {"schedule": "interval", "max_cached_run": None}


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    options = {**setting, "inner": mode}
    compiled = compile_model(model, "rfc", dynamic=False, options=options)

    def begin() -> None:
        rfc_compile.reset(compiled)

    def nfc() -> float:
        return sum(_full_steps(rfc_compile.stats(compiled)))

    return Applied(plain(compiled), begin=begin, nfc=nfc)


def _full_steps(statistics: rfc_compile.Statistics) -> list[bool]:
    """Whether each call was full; a run may fall into several trajectories."""
    earlier = [] if statistics.last is None else _full_steps(statistics.last)
    return earlier + [decision.full for decision in statistics.decisions]


def _sweep(granularity: str) -> list[dict[str, Any]]:
    own = {} if granularity == "module" else {"granularity": granularity}
    fixed: list[dict[str, Any]] = [
        {**_STATIC, "interval": interval, "warmup": warmup}
        for warmup in (2, 3)
        for interval in (3, 4, 5, 6, 7)
    ]
    adaptive: list[dict[str, Any]] = [
        {"threshold": threshold, "max_cached_run": cap, "warmup": warmup}
        for warmup in (2, 3)
        for threshold, cap in (
            (0.2, 3),
            (0.3, 4),
            (0.4, 4),
            (0.5, 5),
            (0.7, 6),
            (1.0, 6),
            (1.5, 7),
            (2.0, 8),
        )
    ]
    return [{**own, **setting} for setting in ({}, *fixed, *adaptive)]


METHODS: Final = (
    *(
        Method(f"rfc, {name}", _apply, _sweep(name), ours=True, rival=False)
        for name in GRANULARITIES
    ),
    Method(
        "TaylorSeer in rfc",
        _apply,
        [
            {"estimator": "taylor", "order": order, "warmup": 2, "interval": n}
            | _STATIC
            for order in (2, 1)
            for n in (3, 4, 5, 6, 7, 9)
        ],
        rival=False,
    ),
    Method(
        "FORA in rfc",
        _apply,
        [
            {"estimator": "reuse", "warmup": 1, "interval": n} | _STATIC
            for n in (3, 4, 5, 6, 7, 8)
        ],
        rival=False,
    ),
)
