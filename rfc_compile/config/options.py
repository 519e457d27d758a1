"""The options of the backend: one frozen dataclass, validated once.

``torch.compile(model, backend="rfc", options={...})`` takes the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from rfc_compile.config import removed_options
from rfc_compile.config.option_values import (
    flag,
    integer,
    intervals,
    number,
    one_of,
    process_group,
    several,
    step_indices,
)
from rfc_compile.config.presets import PRESETS, even_steps
from rfc_compile.config.schedule_choice import (
    DEFAULT_INTERVAL,
    check_quality,
    check_target,
    chosen_schedule,
    without_effect,
)
from rfc_compile.errors import OptionError, did_you_mean
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.base import Estimator
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.pipeline import OPTIONAL_PASSES
from rfc_compile.passes.state.kept_values import StateOptions
from rfc_compile.passes.state.ring_storage import CACHE_DTYPES
from rfc_compile.schedules import SCHEDULES
from rfc_compile.schedules.base import Intervals, Schedule
from rfc_compile.schedules.promise import tolerance_for
from rfc_compile.torch_internals import find_backend

GRANULARITIES = ("module", "block", "stack", "model")
TIMES = ("timestep", "step")
CORRECTORS = ("auto", "off")

DEFAULT_RIDGE = 0.5

CHOSEN_BY_GRAPH = ("granularity", "estimator", "order", "time")
"""Options whose defaults depend on the graph."""

HIGHEST_PSNR = 100.0


@dataclass(frozen=True)
class Options:
    """How the backend caches. Unknown or wrong values raise ``OptionError``.

    Attributes:
        preset: ``quality``, ``balanced`` or ``fast``: the error allowed, without a
            tolerance, a threshold and a target.
        estimator: how outputs are predicted: ``subspace``, ``rfe`` (the paper's),
            ``taylor`` or ``reuse`` (FORA's); None is ``subspace`` for modules,
            ``taylor`` for larger regions.
        order: changes between full steps that a prediction uses (``subspace`` 1 to 3,
            ``rfe`` and ``taylor`` 1 to 2, ``reuse`` 0); None is 2 for modules, 1 for
            whole blocks, 0 for ``reuse``.
        schedule: which steps are full: ``error_control``, ``even``, ``rcs`` (the
            paper's), ``interval`` or ``mask``; with a target it is ``even``.
        target_nfc: full steps of a guidance branch wanted, spread evenly over the run:
            by steps where a pipeline or ``rfc_compile.trajectory(num_steps=...)`` says
            how many there are, else by timesteps.
        target_speedup: the same for ``steps / (full + c * cached)``, where c is the
            share of the FLOPs outside of regions; an upper bound of the speed-up in
            time, since a cached step also reads its state.
        tolerance: for ``error_control``, the largest relative error of the latent that
            a cached run may owe; smaller is more faithful. None is the preset's.
        min_psnr: in place of a tolerance, the PSNR against the uncached image, in dB,
            that nine of ten runs reach. Where the error cannot be estimated, every step
            is full, with a warning.
        threshold: for ``rcs``, the accumulated relative prediction error of the input
            above which a step is full; larger is faster. It chooses ``rcs``. None is
            the preset's.
        corrector: ``auto``: a full step corrects the integration error of the cached
            steps before it, where the sampler is linear in the outputs; ``off``.
        interval: one full step in this many; or pairs (timestep, interval from there
            on), as tuning finds them. It chooses ``interval``, where it is 4 if left
            out.
        full_steps: the indices of the full steps. They choose ``mask``.
        warmup: full steps at the start of a trajectory.
        max_cached_run: most cached steps in a row, None for no limit.
        final_full: full steps at the end of a run whose number of steps is known.
        per_sample: every sample of a batch is full or cached by itself, each at a
            timestep of its own, for a batch whose size may change (``dynamic=True``);
            else a call as a whole, by its worst sample.
        time: what predictions extrapolate in: ``timestep``, as it is given; ``step``,
            the index of the step. None is ``timestep``, where the graph has one.
        ridge: the weight of Taylor extrapolation in time in ``subspace``, which it
            chooses. None is 0.5.
        cache_dtype: of what is kept of inputs and outputs: ``bfloat16`` or ``float16``
            (values beyond 65504 become 65504). None keeps them as the model computes
            them.
        granularity: what a region is: ``module``, every attention and MLP (the
            paper's); ``block``; ``stack``, the whole run of blocks; ``model``, the
            whole forward. Coarser is faster and keeps less. None is ``stack``, but
            ``module`` for a graph that is not given the timestep.
        inner: the Dynamo backend that compiles the resulting graphs.
        inner_options: its options.
        timestep: name of the model's timestep input as messages call it (``args[1]``
            of ``forward(*args)``), None to find it.
        process_group: of torch.distributed: the ranks that share one computation of the
            model, and so decide together. None is the ranks that collectives or sharded
            weights in the graph name, else this one alone.
        disable_passes: for debugging, graph passes to leave out: ``small_matmuls``,
            ``fold_repeats``.
        min_coverage: share of the FLOPs that must lie inside regions, 0 to 1; a
            forward with less runs uncached.
    """

    chosen: ClassVar[frozenset[str]]
    """Of an instance: the options that were left out. Not an option itself."""

    preset: str = "balanced"
    estimator: str | None = None
    order: int | None = None
    schedule: str | None = None
    target_nfc: int | None = None
    target_speedup: float | None = None
    tolerance: float | None = None
    min_psnr: float | None = None
    threshold: float | None = None
    corrector: str = "auto"
    interval: int | Intervals | None = None
    full_steps: tuple[int, ...] = ()
    warmup: int = 1
    max_cached_run: int | None = None
    final_full: int = 0
    per_sample: bool = False
    time: str | None = None
    ridge: float | None = None
    cache_dtype: str | None = None
    granularity: str | None = None
    inner: str = "inductor"
    inner_options: Mapping[str, Any] = field(default_factory=dict)
    timestep: str | None = None
    process_group: Any = None
    min_coverage: float = 0.3
    disable_passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        chosen = frozenset(n for n in CHOSEN_BY_GRAPH if getattr(self, n) is None)
        object.__setattr__(self, "chosen", chosen)
        if self.granularity is None:
            object.__setattr__(self, "granularity", "stack")
        object.__setattr__(self, "schedule", chosen_schedule(vars(self)))
        one_of("schedule", self.schedule, SCHEDULES)
        if self.schedule == "interval" and self.interval is None:
            object.__setattr__(self, "interval", DEFAULT_INTERVAL)
        if self.interval is not None:
            checked = intervals("interval", self.interval)
            object.__setattr__(self, "interval", checked)
        one_of("granularity", self.granularity, GRANULARITIES)
        one_of("corrector", self.corrector, CORRECTORS)
        flag("per_sample", self.per_sample)
        self._choose_by_granularity()
        assert self.estimator is not None
        orders = ESTIMATORS[self.estimator].orders
        if self.order is None:
            modules = self.granularity == "module"
            wanted = 2 if modules else 1
            object.__setattr__(self, "order", wanted if wanted in orders else 0)
        if isinstance(self.order, bool | float) or self.order not in orders:
            allowed = ", ".join(map(str, orders))
            raise OptionError(
                f"order={self.order!r} is not allowed for "
                f"estimator={self.estimator!r}; allowed: {allowed}"
            )
        if self.cache_dtype is not None:
            one_of("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        one_of("preset", self.preset, PRESETS)
        for name in ("threshold", "tolerance"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), low=0)
        if self.min_psnr is not None:
            number("min_psnr", self.min_psnr, low=0, high=HIGHEST_PSNR)
        number("min_coverage", self.min_coverage, low=0, high=1)
        integer("warmup", self.warmup, low=1)
        integer("final_full", self.final_full, low=0)
        if self.max_cached_run is not None:
            integer("max_cached_run", self.max_cached_run, low=0)
        if self.process_group is not None:
            process_group("process_group", self.process_group)
        passes = several("disable_passes", self.disable_passes, OPTIONAL_PASSES)
        object.__setattr__(self, "disable_passes", passes)
        full_steps = step_indices("full_steps", self.full_steps)
        object.__setattr__(self, "full_steps", full_steps)
        if self.schedule == "mask" and not full_steps:
            raise OptionError("schedule='mask' needs full_steps, their indices")
        check_target(vars(self))
        check_quality(vars(self))
        self._check_inner()

    def _choose_by_granularity(self) -> None:
        relational = self.granularity == "module" or self.ridge is not None
        if self.estimator is None:
            estimator = "subspace" if relational else "taylor"
            object.__setattr__(self, "estimator", estimator)
        one_of("estimator", self.estimator, ESTIMATORS)
        if self.ridge is not None:
            number("ridge", self.ridge, low=0)
        if self.time is None:
            object.__setattr__(self, "time", "timestep")
        one_of("time", self.time, TIMES)

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

        A stack is predicted well only with the timestep.
        """
        if timed or "granularity" not in self.chosen:
            return self
        again: dict[str, Any] = dict.fromkeys(self.chosen)
        return replace(self, **{**again, "granularity": "module"})

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Options:
        """Options from the dict given to ``torch.compile``.

        Raises:
            OptionError: an unknown name (with the nearest known one), a removed one
                (with its replacement) or a bad value.
        """
        names = [item.name for item in fields(cls)]
        for name in options:
            if instead := removed_options.NAMES.get(name):
                raise OptionError(f"the option {name!r} is gone: {instead}")
            if name not in names:
                raise OptionError(f"unknown option {name!r}{did_you_mean(name, names)}")
        return cls(**options)

    def make_estimator(self) -> Estimator:
        """The estimator these options name."""
        assert self.order is not None
        assert self.estimator is not None
        ridge = DEFAULT_RIDGE if self.ridge is None else self.ridge
        return ESTIMATORS[self.estimator](self.order, ridge)

    def make_state_options(self) -> StateOptions:
        """How the values of regions are kept."""
        dtype = None if self.cache_dtype is None else CACHE_DTYPES[self.cache_dtype]
        return StateOptions(self.make_estimator(), dtype, self.per_sample)

    @property
    def without_effect(self) -> list[str]:
        """A sentence for each option that nothing reads."""
        return without_effect(vars(self))

    @property
    def nodes(self) -> int:
        """Full steps that a prediction goes through."""
        assert self.order is not None
        return self.order + 1

    @property
    def largest_debt(self) -> float:
        """Relative error of the latent that a cached run may owe."""
        if self.min_psnr is not None:
            return tolerance_for(self.min_psnr)
        given = self.tolerance
        return PRESETS[self.preset].tolerance if given is None else given

    @property
    def largest_error(self) -> float:
        """Accumulated relative prediction error that a cached run may have."""
        given = self.threshold
        return PRESETS[self.preset].threshold if given is None else given

    @property
    def even_steps(self) -> int:
        """Full steps of a run of 50 where nothing is measured."""
        return even_steps(self.largest_debt)

    def make_schedule(self, report: GraphReport | None = None) -> Schedule:
        """The schedule these options name, for the graph of this report."""
        assert self.schedule is not None
        return SCHEDULES[self.schedule](self, report)
