"""The options of the backend: one frozen dataclass, validated once.

``torch.compile(model, backend="rfc", options={...})`` takes the same names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from rfc_compile.config import removed_options
from rfc_compile.config.option_values import (
    flag,
    integer,
    number,
    one_of,
    process_group,
)
from rfc_compile.errors import OptionError
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.base import Estimator
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.pipeline import OPTIONAL_PASSES
from rfc_compile.passes.state.kept_values import StateOptions
from rfc_compile.passes.state.ring_storage import CACHE_DTYPES
from rfc_compile.schedules import SCHEDULES
from rfc_compile.schedules.base import DEFAULT_CACHED_RUN, Schedule
from rfc_compile.torch_internals import find_backend

GRANULARITIES = ("module", "block", "stack")
DECISIONS = ("sync", "lagged")
TIMES = ("noise", "step")

CHOSEN_BY_GRAPH = ("granularity", "estimator", "order", "time", "threshold")
"""Options that are chosen where they are left out."""

PRESETS = {"quality": 0.15, "balanced": 0.35, "fast": 0.75}
"""Thresholds, chosen by `python -m benchmarks presets`."""


@dataclass(frozen=True)
class Options:
    """How the backend caches. Unknown or wrong values raise ``OptionError``.

    Attributes:
        preset: ``quality``, ``balanced`` or ``fast``: the threshold if none is given.
        estimator: how outputs are predicted: ``subspace``, ``rfe``, ``taylor`` or
            ``reuse``; None is ``subspace`` for modules, ``taylor`` for whole blocks.
        order: changes between full steps that a prediction uses (``subspace`` 1 to 3,
            ``rfe`` and ``taylor`` 1 to 2, ``reuse`` 0); None is 2, or 0 for ``reuse``.
        schedule: which steps are full: ``spread``, ``rcs``, ``interval``, ``mask``, or
            ``budget``, which one of the next three options chooses by itself.
        target_nfc: full steps of a CFG branch wanted; the threshold adapts so that they
            are met, from the first run on if its number of steps is told by
            ``rfc_compile.trajectory(num_steps=...)``, else from the second on.
        target_speedup: the same for ``steps / (full + c * cached)``, where c is the
            share of the FLOPs outside of regions; more than the speed-up in time, for a
            cached step has its state to read.
        max_error: largest accumulated error of a cached run. With a target, which gives
            way to it; by itself in place of ``threshold``.
        threshold: accumulated relative prediction error of the input above which a
            step is full (``rcs``), or that says how many are (``spread``); larger is
            faster. None is that of the preset.
        interval: for ``interval``, one full step in this many.
        full_steps: for ``mask``, the indices of the full steps.
        warmup: full steps at the start of a trajectory.
        max_cached_run: most cached steps in a row, None for no limit; ``"auto"`` is 8,
            or with a target what that needs.
        final_full: full steps at the end of a trajectory; takes effect once the number
            of steps is known, from ``rfc_compile.trajectory(num_steps=...)`` or from an
            earlier trajectory with the same first timesteps.
        decision: what errors are gone by: ``sync``, this step's prediction error, which
            the host waits for; ``lagged``, that of the branch's step before, if it was
            cached: in a run that a pipeline announces the host waits for nothing; with
            ``time="noise"`` from the second run on, for a first one reads timesteps.
        per_sample: every sample of a batch is full or cached by itself, each at a
            timestep of its own, for a batch whose size may change (``dynamic=True``);
            else a call as a whole, by its worst sample.
        time: what Taylor extrapolation takes for time: ``step``, the index of the step;
            ``noise``, the noise level that the timestep stands for
            (``rfc_compile.noise``), where it is known. None is ``noise`` for whole
            blocks, ``step`` for modules.
        ridge: for ``subspace``, the pull towards Taylor extrapolation in time.
        cache_dtype: of what is kept of inputs and outputs: ``bfloat16`` or ``float16``
            (values beyond 65504 become 65504). None keeps them as the model computes
            them.
        granularity: what a region is: ``module``, every attention and MLP; ``block``;
            ``stack``, the whole run of blocks. Coarser is faster and keeps less. None
            is ``stack``, but ``module`` for a graph that is not given the timestep.
        inner: the Dynamo backend that compiles the resulting graphs.
        inner_options: its options.
        timestep: name of the model's timestep input, None to find it.
        process_group: of torch.distributed: the ranks that share one computation of the
            model, and so decide together (``rfc_compile.ranks``). None is the ranks
            that collectives or sharded weights in the graph name, else this one alone.
        disable_passes: for debugging, graph passes to leave out: ``small_matmuls``,
            ``fold_repeats``.
        min_coverage: share of the FLOPs that must lie inside regions, 0 to 1; a
            forward with less runs uncached.

    """

    chosen: ClassVar[frozenset[str]]
    """Of an instance: the options that were left out. No option itself."""

    preset: str = "balanced"
    estimator: str | None = None
    order: int | None = None
    schedule: str = "spread"
    target_nfc: int | None = None
    target_speedup: float | None = None
    max_error: float | None = None
    threshold: float | None = None
    interval: int = 4
    full_steps: tuple[int, ...] = ()
    warmup: int = 1
    max_cached_run: int | Literal["auto"] | None = "auto"
    final_full: int = 0
    decision: str = "sync"
    per_sample: bool = False
    time: str | None = None
    ridge: float = 0.5
    cache_dtype: str | None = None
    granularity: str | None = None
    inner: str = "inductor"
    inner_options: Mapping[str, Any] = field(default_factory=dict)
    timestep: str | None = None
    process_group: Any = None
    min_coverage: float = 0.3
    disable_passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value, and the values against each other."""
        chosen = frozenset(n for n in CHOSEN_BY_GRAPH if getattr(self, n) is None)
        object.__setattr__(self, "chosen", chosen)
        if self.granularity is None:
            object.__setattr__(self, "granularity", "stack")
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("granularity", self.granularity, GRANULARITIES)
        one_of("decision", self.decision, DECISIONS)
        flag("per_sample", self.per_sample)
        self._choose_by_granularity()
        assert self.estimator is not None
        orders = ESTIMATORS[self.estimator].orders
        if self.order is None:
            object.__setattr__(self, "order", 2 if 2 in orders else orders[-1])
        if isinstance(self.order, bool | float) or self.order not in orders:
            allowed = ", ".join(map(str, orders))
            raise OptionError(
                f"order={self.order!r} is not allowed for "
                f"estimator={self.estimator!r}; allowed: {allowed}"
            )
        if self.cache_dtype is not None:
            one_of("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        one_of("preset", self.preset, PRESETS)
        if self.threshold is not None:
            number("threshold", self.threshold, low=0)
        number("ridge", self.ridge, low=0)
        number("min_coverage", self.min_coverage, low=0, high=1)
        integer("interval", self.interval, low=1)
        integer("warmup", self.warmup, low=1)
        integer("final_full", self.final_full, low=0)
        if self.max_cached_run not in ("auto", None):
            integer("max_cached_run", self.max_cached_run, low=0)
        if self.process_group is not None:
            process_group("process_group", self.process_group)
        self._check_passes()
        self._check_mask()
        self._check_budget()
        self._check_inner()
        if self.threshold is None:
            object.__setattr__(self, "threshold", PRESETS[self.preset])

    def _choose_by_granularity(self) -> None:
        modules = self.granularity == "module"
        if self.estimator is None:
            estimator = "subspace" if modules else "taylor"
            object.__setattr__(self, "estimator", estimator)
        one_of("estimator", self.estimator, ESTIMATORS)
        if self.time is None:
            object.__setattr__(self, "time", "step" if modules else "noise")
        one_of("time", self.time, TIMES)

    def _check_passes(self) -> None:
        passes: Any = self.disable_passes
        if not isinstance(passes, list | tuple):
            raise OptionError(
                f"disable_passes={passes!r} is not allowed; allowed: a list of "
                f"{', '.join(OPTIONAL_PASSES)}"
            )
        for name in passes:
            one_of("disable_passes", name, OPTIONAL_PASSES)
        object.__setattr__(self, "disable_passes", tuple(passes))

    def _check_mask(self) -> None:
        steps: Any = self.full_steps
        if isinstance(steps, str | Mapping) or not isinstance(steps, Iterable):
            raise OptionError(f"full_steps={steps!r}: give a list of step indices")
        for step in steps:
            integer("full_steps", step, low=0)
        object.__setattr__(self, "full_steps", tuple(steps))
        if self.schedule == "mask" and not self.full_steps:
            raise OptionError(
                "schedule='mask' needs full_steps, the indices to compute"
            )

    def _check_budget(self) -> None:
        if self.target_nfc is not None:
            integer("target_nfc", self.target_nfc, low=1)
        if self.target_speedup is not None:
            number("target_speedup", self.target_speedup, low=1)
            if self.target_speedup == 1:
                raise OptionError("target_speedup=1 is not allowed: give a number > 1")
        if self.max_error is not None:
            number("max_error", self.max_error, low=0)
        names = ("target_nfc", "target_speedup", "max_error")
        given = [
            f"{x}={getattr(self, x)!r}" for x in names if getattr(self, x) is not None
        ]
        if not given:
            if self.schedule == "budget":
                raise OptionError(f"schedule='budget' needs one of {', '.join(names)}")
            return
        if SCHEDULES[self.schedule].static:
            raise OptionError(
                f"schedule={self.schedule!r} and {given[0]} exclude each other: "
                "leave one of them out"
            )
        self._check_target(given)
        object.__setattr__(self, "schedule", "budget")

    def _check_target(self, given: Sequence[str]) -> None:
        nfc, speedup, cap = self.target_nfc, self.target_speedup, self.max_cached_run
        if nfc is not None and speedup is not None:
            raise OptionError(f"{given[0]} and {given[1]} exclude each other: give one")
        if not self.has_target and self.threshold is not None:
            raise OptionError(
                f"{given[0]} and threshold={self.threshold!r} exclude each other: both "
                "bound the accumulated error"
            )
        if nfc is not None and nfc < self.warmup + self.final_full:
            raise OptionError(
                f"{given[0]} is less than warmup={self.warmup} and final_full="
                f"{self.final_full} take; allowed: a whole number >= "
                f"{self.warmup + self.final_full}"
            )
        if speedup is not None and isinstance(cap, int) and speedup > cap + 1:
            raise OptionError(
                f"{given[0]} cannot be met with max_cached_run={cap}, which has a step "
                f"in {cap + 1} full; allowed: a max_cached_run >= {speedup - 1:g}"
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

    def for_graph(self, *, timed: bool) -> Options:
        """These options for a graph that is given the timestep, or not.

        Without it there are no noise levels, by which alone a stack is predicted well.
        """
        if timed or "granularity" not in self.chosen:
            return self
        again: dict[str, Any] = dict.fromkeys(self.chosen)
        return replace(self, **{**again, "granularity": "module"})

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Options:
        """Options from the dict given to ``torch.compile``.

        Raises:
            OptionError: an unknown name (with the nearest known one), one that is gone
                (with what to use instead) or a bad value.

        """
        names = [item.name for item in fields(cls)]
        for name in options:
            if instead := removed_options.NAMES.get(name):
                raise OptionError(f"the option {name!r} is gone: {instead}")
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
        assert self.estimator is not None
        return ESTIMATORS[self.estimator](self.order, self.ridge)

    def make_state_options(self) -> StateOptions:
        """How these options have the values of regions kept."""
        dtype = None if self.cache_dtype is None else CACHE_DTYPES[self.cache_dtype]
        return StateOptions(self.make_estimator(), dtype, self.per_sample)

    @property
    def has_target(self) -> bool:
        """Whether a number of full steps, or a speed-up, is wanted."""
        return self.target_nfc is not None or self.target_speedup is not None

    @property
    def longest_run(self) -> int | None:
        """``max_cached_run`` in steps; None for no limit, or one that a target sets."""
        if isinstance(self.max_cached_run, str):
            return None if self.has_target else DEFAULT_CACHED_RUN
        return self.max_cached_run

    def make_schedule(self, report: GraphReport | None = None) -> Schedule:
        """The schedule these options name, for the graph of this report."""
        return SCHEDULES[self.schedule](self, report)
