"""The regions on their streams, with how well a run predicts their outputs.

Nothing is measured while the model runs: the newest kept output is predicted from the
older ones. That leaves one change less than the estimator uses, and a step as wide as
the gap between full steps, wider than that of a cached step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rfc_compile.config.options import Options
from rfc_compile.errors import OptionError
from rfc_compile.estimators.base import Estimator
from rfc_compile.estimators.step_weights import coefficients_tensor
from rfc_compile.graph_report import GraphReport, RegionInfo
from rfc_compile.passes.analysis.streams import Streams
from rfc_compile.runtime.registry import Dispatcher
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.state import BranchState


def maps_of(
    reports: Sequence[GraphReport], run: tuple[Session, Dispatcher] | None
) -> tuple[GraphMap, ...]:
    """The maps of these graphs, with the shares and errors of the newest run."""
    shares: dict[int, float] = {}
    errors: dict[int, dict[str, float]] = {}
    session, leader = run or (None, None)
    if session is not None and leader is not None and session.decisions:
        with session.lock:  # not in the midst of another thread's step
            decisions = session.decisions
            cached = sum(not decision.full for decision in decisions)
            shares[leader.report.number] = cached / max(len(decisions), 1)
            for report, state in kept_states(session, reports):
                shares[report.number] = shares[leader.report.number]
                errors[report.number] = newest_errors(report, state, leader.options)
    return tuple(
        GraphMap(
            report.regions,
            report.streams,
            shares.get(report.number),
            errors.get(report.number, {}),
        )
        for report in reports
        if report.streams is not None and report.regions
    )


def kept_states(
    session: Session, reports: Sequence[GraphReport]
) -> Iterator[tuple[GraphReport, BranchState]]:
    """The states of the newest branch, each with the report of its graph.

    A graph that serves several layers has several states.
    """
    branch = None if session.current is None else session.current.newest
    if branch is None:
        return
    alive = [(r, r.dispatcher()) for r in reports if r.dispatcher is not None]
    of_layout = {id(d.layout): r for r, d in alive if d is not None}
    for state in (branch.state, *branch.followers.values()):
        report = of_layout.get(id(state.layout))
        if report is not None:
            yield report, state


def newest_errors(
    report: GraphReport, state: BranchState, options: Options
) -> dict[str, float]:
    """For each region ``||O_hat - O|| / ||O||`` of its last full step, mean of samples.

    Of a region with several outputs the largest. Without the regions of which too
    little is kept: it takes two full steps, and their inputs where the estimator looks
    at these.
    """
    estimator = _with_less_history(options)
    if estimator is None or len(state.full_steps) < estimator.order + 2:
        return {}
    errors: dict[str, float] = {}
    for region, names in report.kept_as.items():
        outputs = [
            _newest_error(state.kept(i), state.kept(o), state.full_steps, estimator)
            for i, o in names
        ]
        known = [error for error in outputs if error is not None]
        if known:
            errors[region] = max(known)
    return errors


def _with_less_history(options: Options) -> Estimator | None:
    assert options.order is not None
    try:
        less = Options(estimator=options.estimator, order=options.order - 1)
    except OptionError:  # it has no such order
        return None
    return less.make_estimator()


def _newest_error(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    full_steps: Sequence[int],
    estimator: Estimator,
) -> float | None:
    if estimator.inputs_kept and len(inputs) < len(outputs):
        return None
    predicted = predict(
        estimator,
        inputs[0] if inputs else outputs[0],
        inputs[1:],
        outputs[1:],
        full_steps[0],
        full_steps[1:],
    )
    return float(relative_error(predicted, outputs[0]))


def predict(
    estimator: Estimator,
    current: Tensor,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    step: int,
    full_steps: Sequence[int],
) -> Tensor:
    """What an estimator predicts at a step, from values kept at ``full_steps``.

    ``inputs``, ``outputs`` and ``full_steps`` are newest first.
    """
    rows = coefficients_tensor(step, full_steps[: estimator.order + 1], estimator.order)
    weights = torch.tensor(rows, device=current.device)
    statistics = estimator.observe(inputs, outputs) if estimator.statistics else None
    return estimator.predict(current, inputs, outputs, statistics, weights)


def relative_error(predicted: Tensor, value: Tensor) -> Tensor:
    """``||predicted - value|| / ||value||``, mean over the samples, shape ()."""
    return (norms(predicted - value) / norms(value)).mean()


def norms(value: Tensor) -> Tensor:
    """The norm of every sample, float32, at least the smallest positive number."""
    least = torch.finfo(torch.float32).tiny
    lengths: Tensor = torch.linalg.vector_norm(value.float().flatten(1), dim=1)
    return lengths.clamp_min(least)


@dataclass(frozen=True)
class GraphMap:
    """The regions of one graph and where they hang on its residual streams.

    Attributes:
        regions: from top to bottom.
        streams: what they are added to.
        cached: share of the calls that were cached in the newest trajectory, 0 to 1;
            None before the first call.
        errors: for each region, by name, how well the output of the last full step
            would have been predicted from those kept before it (relative, an upper
            bound for cached steps); regions of which too little is kept are left out.
    """

    regions: tuple[RegionInfo, ...]
    streams: Streams
    cached: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
