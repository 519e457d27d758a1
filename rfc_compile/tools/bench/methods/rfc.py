"""This package: its own estimators, and those of FORA and TaylorSeer.

Quality runs leave the graphs eager (`inner="eager"`), which compiles fast; the passes
and the runtime are the same.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from torch import nn

from rfc_compile.config.options import GRANULARITIES, Options
from rfc_compile.report.statistics import Statistics, stats
from rfc_compile.runtime.registry import reset
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.bench.methods.base import Applied, Method, Mode, calling
from rfc_compile.tools.bench.records import TARGETS
from rfc_compile.tools.bench.workloads import Step, Workload
from rfc_compile.tools.measure.trial import compile_model

_STATIC: Final = {"schedule": "interval", "warmup": 2, "max_cached_run": None}
_MODULES: Final = {"granularity": "module"}
_DEFAULT: Final = Options().granularity
_TOLERANCES: Final = (0.004, 0.008, 0.04, 0.08)
_INTERVALS: Final = (3, 4, 5, 6, 7)
_FOR_TARGETS: Final = (3, 4, 5, 7)
"""Intervals that give an NFC of 18, 14, 11 and 8 with two full steps at the start."""
_ON_SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {**_STATIC, "interval": 4},
    {"schedule": "rcs", "threshold": 1e9, "warmup": 2, "max_cached_run": 3},
)
"""14 full steps of 50, without and with a probe at every step."""


def _apply(
    model: nn.Module, workload: Workload, setting: Mapping[str, Any], mode: Mode
) -> Applied:
    compiled = compile_model(model, mode, setting, dynamic=False)
    calls = 0

    def begin() -> None:
        nonlocal calls
        calls = 0
        reset(compiled)

    def named(step: Step) -> AbstractContextManager[None]:
        """The run with its number of steps, as a pipeline tells it."""
        nonlocal calls
        calls += 1
        return trajectory("run", num_steps=step.total)

    def nfc() -> float:
        full = calls - _cached_of(stats(compiled), calls)
        return full / 2 if workload.separate else full

    return Applied(calling(compiled, named), begin=begin, nfc=nfc)


def _cached_of(known: Statistics | None, calls: int) -> int:
    """Cached ones of so many calls; a run that jumps is more than one trajectory."""
    if known is None or calls <= 0:
        return 0
    cached = sum(not decision.full for decision in known.decisions[-calls:])
    return cached + _cached_of(known.last, calls - len(known.decisions))


def _at(granularity: str, *settings: dict[str, Any]) -> list[dict[str, Any]]:
    own = {} if granularity == _DEFAULT else {"granularity": granularity}
    return [{**own, **setting} for setting in settings]


def _sweep(granularity: str) -> list[dict[str, Any]]:
    """The defaults, other tolerances, fixed intervals, each NFC as the target."""
    adaptive = [{"tolerance": tolerance} for tolerance in _TOLERANCES]
    fixed = [{**_STATIC, "interval": interval} for interval in _INTERVALS]
    wanted = [{"target_nfc": nfc} for nfc in TARGETS]
    return _at(granularity, {}, *adaptive, *fixed, *wanted)


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
            {"estimator": "taylor", "interval": n} | _STATIC | _MODULES
            for n in _FOR_TARGETS
        ],
        rival=False,
    ),
    Method(
        "FORA in rfc",
        _apply,
        [
            {"estimator": "reuse", "interval": n} | _STATIC | _MODULES | {"warmup": 1}
            for n in _FOR_TARGETS
        ],
        rival=False,
    ),
)
