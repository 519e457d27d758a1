"""The options of the backend: one frozen dataclass, validated once.

``torch.compile(model, backend="rfc", options={...})`` takes the same names.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rfc_compile.errors import OptionError
from rfc_compile.estimators import ESTIMATORS, Estimator
from rfc_compile.passes import Keeping
from rfc_compile.passes.storage import CACHE_DTYPES
from rfc_compile.schedules import SCHEDULES, Schedule
from rfc_compile.torch_internals import find_backend

GRANULARITIES = ("module", "block", "stack")
DECISIONS = ("sync", "lagged")


@dataclass(frozen=True)
class Options:
    """How the backend caches. Unknown or wrong values raise ``OptionError``.

    Attributes:
        estimator: how outputs are predicted: ``subspace``, ``rfe``, ``taylor`` or
            ``reuse``.
        order: changes between full steps that a prediction uses (``subspace`` 1 to 3,
            ``rfe`` and ``taylor`` 1 to 2, ``reuse`` 0); None is 2, or 0 for ``reuse``.
        schedule: which steps are full: ``rcs``, ``interval`` or ``mask``.
        threshold: for ``rcs``, the accumulated relative prediction error of the
            input above which a step is full; larger is faster.
        interval: for ``interval``, one full step in this many.
        full_steps: for ``mask``, the indices of the full steps.
        warmup: full steps at the start of a trajectory.
        max_cached_run: most cached steps in a row, None for no limit.
        final_full: full steps at the end of a trajectory; takes effect once the number
            of steps is known, from ``rfc_compile.trajectory(num_steps=...)`` or from an
            earlier trajectory with the same first timesteps.
        decision: what ``rcs`` goes by: ``sync``, this step's prediction error, which
            the host waits for; ``lagged``, that of the branch's step before, if it was
            cached: in a run that a pipeline announces the host waits for nothing.
        ridge: for ``subspace``, the pull towards Taylor extrapolation in time.
        cache_dtype: of what is kept of inputs and outputs: ``bfloat16``, ``float16``
            (values beyond 65504 become 65504) or ``float8`` (the newest value in
            bfloat16, the changes in float8 with a scale per row; needs an order of at
            least 1). None keeps them as the model computes them.
        input_sketch: of the inputs that estimators keep (not the one that decides),
            one token in this many is kept and looked at; 1 for all.
        memory_budget: most bytes of state for one CFG branch, as a number or a string
            such as ``"512 MiB"`` or ``"1.5GB"``; None for no limit. Where the state
            would take more, blocks are merged, then regions dropped, until it fits. It
            holds for every graph and for the sizes that it was compiled for.
        granularity: what a region is: ``module``, every attention and MLP; ``block``;
            ``stack``, the whole run of blocks. Coarser is faster and keeps less.
        inner: the Dynamo backend that compiles the resulting graphs.
        inner_options: its options.
        timestep: name of the model's timestep input, None to find it.
        min_coverage: share of the FLOPs that must lie inside regions, 0 to 1; a
            forward with less runs uncached.

    """

    estimator: str = "subspace"
    order: int | None = None
    schedule: str = "rcs"
    threshold: float = 0.5
    interval: int = 4
    full_steps: tuple[int, ...] = ()
    warmup: int = 2
    max_cached_run: int | None = 4
    final_full: int = 0
    decision: str = "sync"
    ridge: float = 0.5
    cache_dtype: str | None = None
    input_sketch: int = 1
    memory_budget: int | str | None = None
    granularity: str = "module"
    inner: str = "inductor"
    inner_options: Mapping[str, Any] = field(default_factory=dict)
    timestep: str | None = None
    min_coverage: float = 0.3

    def __post_init__(self) -> None:
        """Check every value, and the values against each other."""
        _one_of("estimator", self.estimator, ESTIMATORS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("granularity", self.granularity, GRANULARITIES)
        _one_of("decision", self.decision, DECISIONS)
        orders = ESTIMATORS[self.estimator].orders
        if self.order is None:
            object.__setattr__(self, "order", 2 if 2 in orders else orders[-1])
        if self.order not in orders:
            allowed = ", ".join(map(str, orders))
            raise OptionError(
                f"order={self.order!r} is not allowed for "
                f"estimator={self.estimator!r}; allowed: {allowed}"
            )
        self._check_cache_dtype()
        _number("threshold", self.threshold, low=0)
        _number("ridge", self.ridge, low=0)
        _number("min_coverage", self.min_coverage, low=0, high=1)
        _integer("interval", self.interval, low=1)
        _integer("input_sketch", self.input_sketch, low=1)
        if self.memory_budget is not None:
            parse_bytes("memory_budget", self.memory_budget)
        _integer("warmup", self.warmup, low=1)
        _integer("final_full", self.final_full, low=0)
        if self.max_cached_run is not None:
            _integer("max_cached_run", self.max_cached_run, low=0)
        self._check_mask()
        self._check_inner()

    def _check_cache_dtype(self) -> None:
        if self.cache_dtype is None:
            return
        _one_of("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        if self.cache_dtype == "float8" and self.order == 0:
            raise OptionError(
                "cache_dtype='float8' is for the changes between full steps, and "
                f"estimator={self.estimator!r} keeps none; allowed: bfloat16, float16"
            )

    def _check_mask(self) -> None:
        steps: Any = self.full_steps
        if isinstance(steps, str) or not isinstance(steps, Iterable):
            raise OptionError(f"full_steps={steps!r}: give a list of step indices")
        for step in steps:
            _integer("full_steps", step, low=0)
        object.__setattr__(self, "full_steps", tuple(steps))
        if self.schedule == "mask" and not self.full_steps:
            raise OptionError(
                "schedule='mask' needs full_steps, the indices to compute"
            )

    def _check_inner(self) -> None:
        if not isinstance(self.inner, str) or self.inner == "rfc":
            raise OptionError(f"inner={self.inner!r}: name another Dynamo backend")
        if find_backend(self.inner) is None:
            raise OptionError(
                f"inner={self.inner!r} is not a Dynamo backend; "
                "torch._dynamo.list_backends() lists what is installed"
            )
        if not isinstance(self.inner_options, Mapping):
            raise OptionError(
                f"inner_options={self.inner_options!r}: give a dict of "
                f"options for the backend {self.inner!r}"
            )
        if self.timestep is not None and not isinstance(self.timestep, str):
            raise OptionError(f"timestep={self.timestep!r}: give the input's name")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Options:
        """Options from the dict given to ``torch.compile``.

        Raises:
            OptionError: an unknown name (with the nearest known one) or a bad value.

        """
        names = [item.name for item in fields(cls)]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise OptionError(
                    f"unknown option {name!r}{hint} Allowed: {', '.join(names)}"
                )
        return cls(**options)

    def make_estimator(self) -> Estimator:
        """The estimator these options name."""
        assert self.order is not None
        return ESTIMATORS[self.estimator](self.order, self.ridge)

    @property
    def budget_bytes(self) -> int | None:
        """``memory_budget`` in bytes."""
        if self.memory_budget is None:
            return None
        return parse_bytes("memory_budget", self.memory_budget)

    def make_keeping(self) -> Keeping:
        """How these options have the values of regions kept."""
        dtype = None if self.cache_dtype is None else CACHE_DTYPES[self.cache_dtype]
        return Keeping(self.make_estimator(), dtype, self.input_sketch)

    def make_schedule(self) -> Schedule:
        """The schedule these options name."""
        return SCHEDULES[self.schedule](self)


def _one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    known = list(allowed)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(
            f"{name}={value!r} is not allowed{hint} Allowed: {', '.join(known)}"
        )


def _number(name: str, value: object, low: float, high: float = math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= float(value) <= high:  # type: ignore[arg-type]
        limit = f"from {low:g} to {high:g}" if high < math.inf else f">= {low:g}"
        raise OptionError(f"{name}={value!r} is not allowed; allowed: a number {limit}")


def _integer(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: a whole number >= {low}"
        )


_UNITS = {"B": 1}
_UNITS |= {f"{letter}B": 1000**i for i, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**i for i, letter in enumerate("KMGT", 1)}


def parse_bytes(name: str, value: object) -> int:
    """Bytes of a positive whole number, or of a text such as ``"512 MiB"``.

    Raises:
        OptionError: it is neither; names it ``name``.

    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w+)", text, re.ASCII)
    if found is None or found[2] not in _UNITS or not float(found[1]):
        raise OptionError(
            f"{name}={value!r} is not allowed; allowed: a whole number of bytes, or a "
            f"number with a unit as '512 MiB' (units: {', '.join(_UNITS)})"
        )
    return int(float(found[1]) * _UNITS[found[2]])
