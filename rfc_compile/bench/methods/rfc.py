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
_INTERVALS: Final = (
    *((interval, 2) for interval in (3, 4, 5, 7, 9)),
    *((interval, 3) for interval in (3, 4, 5, 6, 8, 9)),
)
_THRESHOLDS: Final = (
    (0.2, 3, 3),
    (0.3, 4, 3),
    (0.5, 4, 3),
    (0.3, 5, 2),
    (0.5, 6, 2),
    (0.7, 7, 2),
)
_MASKS: Final = ((0, 2, *range(7, 50, 5)), (0, 1, 2, *range(4, 50, 4)))
_ON_SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {**_STATIC, "interval": 4, "warmup": 2},
    {"threshold": 1e9, "max_cached_run": 3},
)
"""14 full steps of 50, without and with a probe at every step."""


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


def _at(granularity: str, *settings: dict[str, Any]) -> list[dict[str, Any]]:
    own = {} if granularity == "module" else {"granularity": granularity}
    return [{**own, **setting} for setting in settings]


def _sweep(granularity: str) -> list[dict[str, Any]]:
    fixed: list[dict[str, Any]] = [
        {**_STATIC, "interval": interval, "warmup": warmup}
        for interval, warmup in _INTERVALS
    ]
    adaptive: list[dict[str, Any]] = [
        {"threshold": threshold, "max_cached_run": cap, "warmup": warmup}
        for threshold, cap, warmup in _THRESHOLDS
    ]
    listed: list[dict[str, Any]] = [
        {"schedule": "mask", "full_steps": steps, "max_cached_run": None, "warmup": 1}
        for steps in _MASKS
    ]
    return _at(granularity, {}, *fixed, *adaptive, *listed)


METHODS: Final = (
    *(
        Method(
            f"rfc, {name}",
            _apply,
            _sweep(name),
            ours=True,
            rival=False,
            on_shapes=_at(name, *_ON_SHAPES),
        )
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
