"""How the inputs and outputs of regions change, and how well each estimator predicts.

One run is drawn with every step computed in full. After every call the values of the
regions are read from the state that the compiled graphs keep; nothing else looks into
the model. In between, predictions are made as a cached step would make them:

    step       0  1  2  3  4  5  6  7  8  9        interval 4
    kept       x  x           x           x        full steps of TaylorSeer's schedule
    predicted        .  .  .     .  .  .           from the kept steps before

Every estimator sees the same history, free of errors of its own (open loop), so that
the numbers say how well outputs are predicted, not how good images are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rfc_compile import graph_report
from rfc_compile.config.options import Options
from rfc_compile.errors import TargetError
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.base import Estimator
from rfc_compile.graph_report import RegionInfo
from rfc_compile.report import explain
from rfc_compile.report.region_errors import kept_states, norms, predict, relative_error
from rfc_compile.runtime import registry
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.tools.measure.reference import draw_with
from rfc_compile.tools.measure.target import Target

Series = list[float | None]
"""A number for every step, None where there is none."""


@dataclass(frozen=True)
class RegionSeries:
    """One region over the steps of a run; means over samples and CFG branches.

    Attributes:
        name: ``region_007_attn``; with the number of its graph where there are several.
        module: path of the module that holds it.
        input_change: ``||I(s) - I(s-1)|| / ||I(s)||``.
        output_change: the same of its output; of several outputs the mean.
        ratio: ``||O(s) - O(s-1)|| / ||I(s) - I(s-1)||``.
        errors: for each estimator ``||O_hat - O|| / ||O||``, at predicted steps.
    """

    name: str
    kind: str
    module: str
    input_change: Series
    output_change: Series
    ratio: Series
    errors: dict[str, Series]

    @property
    def ratio_deviation(self) -> float | None:
        """How far the ratio is from that of the step before, relative; the median."""
        pairs = zip(self.ratio, self.ratio[1:], strict=False)
        return median([abs(b / a - 1) for a, b in pairs if a and b is not None])

    def error(self, estimator: str) -> float | None:
        """The mean error of an estimator over the predicted steps."""
        return mean(self.errors[estimator])


@dataclass(frozen=True)
class Analysis:
    """What was measured of one run.

    Attributes:
        sampler: its name, None if not known.
        interval: a step in this many is kept.
        estimators: names of the estimators, with their orders.
        regions: in the order of the forward.
    """

    target: str
    sampler: str | None
    seed: int
    steps: int
    interval: int
    estimators: tuple[str, ...]
    regions: tuple[RegionSeries, ...]

    def record(self) -> dict[str, Any]:
        """As JSON: the series of every region, and the numbers of the table."""
        record = asdict(self)
        for region, written in zip(self.regions, record["regions"], strict=True):
            written["ratio_deviation"] = region.ratio_deviation
            written["mean_errors"] = {e: region.error(e) for e in self.estimators}
        return {"schema": 1, **record}

    def mean_error(self, estimator: str) -> float | None:
        """Of an estimator, over all regions."""
        return mean([region.error(estimator) for region in self.regions])

    def common_error(self, estimator: str) -> float | None:
        """Of an estimator, over the steps that every estimator predicts."""
        return mean(
            [
                region.errors[estimator][step]
                for region in self.regions
                for step in range(self.steps)
                if all(one[step] is not None for one in region.errors.values())
            ]
        )


def analyse(
    target: Target,
    *,
    seed: int = 0,
    interval: int = 4,
    order: int = 2,
    granularity: str = "module",
    inner: str = "eager",
    progress: Callable[[int], None] | None = None,
) -> Analysis:
    """Draw one run of a target in full and measure its regions.

    Forgets what was compiled before, in the whole process.

    ``order`` is that of the estimators, as far as they have it; ``progress`` is called
    after every call of the model with the number of calls so far.
    """
    estimators = _estimators(order)
    options: dict[str, Any] = {
        "schedule": "interval",
        "interval": 1,
        "granularity": granularity,
    }
    options |= {"estimator": "subspace", "order": order, "inner": inner}
    Options.from_mapping(options)
    torch.compiler.reset()
    compiled: Any = torch.compile(target.model, backend="rfc", options=options)
    recorder = Recorder(compiled, list(estimators.values()), interval)
    calls = 0

    def note(*_: object) -> None:
        nonlocal calls
        calls += 1
        recorder()
        if progress is not None:
            progress(calls)

    with compiled.register_forward_hook(note):
        draw_with(target, compiled, seed)
    names = tuple(estimators)
    regions = recorder.regions(names)
    if all(region.error(name) is None for region in regions for name in names):
        reasons = explain.explain(compiled).uncached_reasons
        raise TargetError(
            f"{target.name}: nothing was predicted in {calls} calls; "
            + "; ".join(reasons or [f"give more than {interval + 2} steps"])
        )
    steps = len(regions[0].ratio)
    return Analysis(target.name, target.sampler, seed, steps, interval, names, regions)


def _estimators(order: int) -> dict[str, Estimator]:
    """Every estimator, by its name and order: the nearest to what was asked for."""
    chosen = {}
    for name, kind in reversed(ESTIMATORS.items()):
        own = min(kind.orders, key=lambda known: abs(known - order))
        label = f"{name} {own}" if own else name
        chosen[label] = Options(estimator=name, order=own).make_estimator()
    return chosen


@dataclass
class _History:
    """The kept steps of one branch, newest first, with the values of every output.

    ``values`` holds for each output the inputs and the outputs of these steps.
    """

    steps: list[int] = field(default_factory=list)
    values: dict[str, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)

    def keep(
        self, step: int, most: int, now: Mapping[str, tuple[Tensor, Tensor]]
    ) -> None:
        """Make a step the newest; of no more than ``most``."""
        self.steps = [step, *self.steps][:most]
        for name, pair in now.items():
            old = self.values.get(name, ([], []))
            inputs, outputs = (
                [value.clone(), *kept][:most]  # the graphs write over the value
                for value, kept in zip(pair, old, strict=True)
            )
            self.values[name] = inputs, outputs


class Recorder:
    """Reads the regions' values after every call of a compiled model.

    A step's numbers are a row: change of the input, of the output, their ratio, then
    the error of every estimator; NaN where there is none.
    """

    def __init__(
        self, model: nn.Module, estimators: Sequence[Estimator], interval: int
    ) -> None:
        self._model = model
        self._estimators = estimators
        self._interval = interval
        self._trajectory: Trajectory | None = None
        self._steps_before = 0
        self._histories: dict[int, _History] = {}
        self._rows: dict[str, dict[int, list[list[float]]]] = {}
        self._regions: dict[str, RegionInfo] = {}

    def __call__(self) -> None:
        """Take note of the call that has just been made."""
        run = registry.newest_run(self._model)
        trajectory = None if run is None else run[0].current
        if run is None or trajectory is None or trajectory.newest is None:
            return
        if trajectory is not self._trajectory:
            if self._trajectory is not None:
                self._steps_before += len(self._trajectory.timesteps)
            self._trajectory, self._histories = trajectory, {}
        branch = trajectory.newest
        history = self._histories.setdefault(branch.index, _History())
        now: dict[str, tuple[Tensor, Tensor]] = {}
        names: list[str] = []
        rows: list[Tensor] = []
        for name, inputs, outputs in self._values(run[0]):
            key = f"{name}, output {names.count(name)}"
            now[key] = inputs[0], outputs[0]
            rows.append(self._row(history, key, inputs, outputs, branch.step))
            names.append(name)
        if branch.step < 1 or (branch.step - 1) % self._interval == 0:
            most = max(kind.order for kind in self._estimators) + 1
            history.keep(branch.step, most, now)
        step = self._steps_before + branch.step
        for name, row in zip(names, torch.stack(rows).tolist(), strict=True):
            self._rows.setdefault(name, {}).setdefault(step, []).append(row)

    def _values(
        self, session: Session
    ) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
        """For each output its region's name, and the last two inputs and outputs."""
        states = list(kept_states(session, graph_report.reports_of(self._model)))
        for place, (report, state) in enumerate(states):
            for region in report.regions:
                name = f"{place}.{region.name}" if len(states) > 1 else region.name
                self._regions[name] = region
                for own, other in report.kept_as[region.name]:
                    yield name, state.kept(own)[:2], state.kept(other)[:2]

    def _row(
        self,
        history: _History,
        key: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        step: int,
    ) -> Tensor:
        unknown = torch.full((), math.nan, device=outputs[0].device)
        row = [unknown, unknown, unknown]
        if len(outputs) > 1:
            moved, changed = (norms(x[0] - x[1]) for x in (inputs, outputs))
            row = [
                (moved / norms(inputs[0])).mean(),
                (changed / norms(outputs[0])).mean(),
                (changed / moved).mean(),
            ]
        old_inputs, old_outputs = history.values.get(key, ([], []))
        kept = (step - 1) % self._interval == 0
        for estimator in self._estimators:
            if kept or len(history.steps) <= estimator.order:
                row.append(unknown)
                continue
            given = old_inputs, old_outputs, step, history.steps
            predicted = predict(estimator, inputs[0], *given)
            row.append(relative_error(predicted, outputs[0]))
        return torch.stack(row)

    def regions(self, names: Sequence[str]) -> tuple[RegionSeries, ...]:
        """What was seen, with the names of the estimators."""
        steps = 1 + max((max(rows) for rows in self._rows.values()), default=-1)
        found = []
        for name, rows in self._rows.items():
            columns = range(3 + len(names))
            moved, changed, ratio, *errors = (
                [_mean(rows.get(s, []), c) for s in range(steps)] for c in columns
            )
            own = self._regions[name]
            by_name = dict(zip(names, errors, strict=True))
            facts = name, own.kind, own.module
            found.append(RegionSeries(*facts, moved, changed, ratio, by_name))
        return tuple(found)


def _mean(rows: Sequence[Sequence[float]], column: int) -> float | None:
    return mean([row[column] for row in rows if math.isfinite(row[column])])


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values, None without any."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def median(values: Sequence[float | None]) -> float | None:
    """The median of the known values, None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
