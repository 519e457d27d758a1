"""``stats``: the newest run of a compiled model in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from rfc_compile.report.drawing import drawing
from rfc_compile.runtime.registry import Dispatcher, newest_run
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.decision import Decision

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Statistics:
    """A trajectory in numbers.

    Attributes:
        name: the owner: a thread, a task or the name given to ``trajectory``.
        nfc: full computations, over all CFG branches.
        steps: denoising steps so far.
        decisions: one record per call of the model.
        estimator: what predicts the regions at cached steps, all alike: ``taylor 2``.
        cache_bytes: bytes of state held now, over all branches; 0 when finished.
        graph_seconds: time in each graph since it was compiled, in seconds.
        host_seconds: time in the runtime around these graphs, in seconds.
        last: the trajectory before this one, None if there was none.
        samples: with ``per_sample=True`` every sample's, in the order in which they
            joined, the last 64 of those that have left among them. The numbers above
            are then sums, ``steps`` the most, and ``branch`` of a decision is the index
            of its sample.

    """

    name: str = ""
    nfc: int = 0
    steps: int = 0
    decisions: tuple[Decision, ...] = ()
    estimator: str = ""
    cache_bytes: int = 0
    graph_seconds: dict[str, float] = field(default_factory=dict)
    host_seconds: float = 0.0
    last: Statistics | None = None
    samples: tuple[Statistics, ...] = ()

    def plot(self) -> Figure:
        """The prediction error and the decisions, with their reasons, step by step.

        Needs matplotlib, which the extra `demo` has.

        Raises:
            ModuleNotFoundError: there is no matplotlib.

        """
        figure: Figure = drawing("statistics_plot").statistics_figure(self)
        return figure

    def __str__(self) -> str:
        """One line of totals, then how often each reason decided."""
        reasons: dict[str, int] = {}
        for decision in self.decisions:
            kind = "full" if decision.full else "cached"
            label = f"{kind} ({decision.reason})"
            reasons[label] = reasons.get(label, 0) + 1
        counts = ", ".join(f"{count} {label}" for label, count in reasons.items())
        held = f"{self.cache_bytes / 2**20:.2f} MiB of state"
        return (
            f"{self.steps} steps, {self.nfc} full of {len(self.decisions)} calls: "
            f"{counts or 'none yet'}; {held}"
        )


def stats(model: nn.Module | None = None) -> Statistics:
    """The current trajectory of a compiled model, the one before it in ``.last``.

    With several graphs, shapes or owners: the one that ran most recently. With
    ``per_sample=True`` it sums up the samples, each of which is in ``.samples``.
    """
    newest = newest_run(model)
    if newest is None:
        return Statistics()
    session, dispatcher = newest
    with session.lock:  # not in the midst of another thread's step
        if session.samples.joined:
            return _of_samples(session, dispatcher)
        last = None if session.last is None else _statistics(session.last, dispatcher)
        if session.current is None:
            return Statistics(last=last)
        return replace(_statistics(session.current, dispatcher), last=last)


def _statistics(trajectory: Trajectory, dispatcher: Dispatcher) -> Statistics:
    trajectory.settle(most=0)
    trajectory = trajectory.whole
    graphs = dispatcher.graphs
    inside = sum(graph.seconds + graph.compile_seconds for graph in graphs.values())
    return Statistics(
        name=trajectory.name,
        nfc=trajectory.nfc,
        steps=len(trajectory.timesteps),
        decisions=tuple(trajectory.decisions),
        estimator=f"{dispatcher.options.estimator} {dispatcher.options.order}",
        cache_bytes=sum(branch.bytes for branch in trajectory.branches),
        graph_seconds={name: graph.seconds for name, graph in graphs.items()},
        host_seconds=dispatcher.seconds - inside,
    )


def _of_samples(session: Session, dispatcher: Dispatcher) -> Statistics:
    samples = tuple([_statistics(x, dispatcher) for x in session.samples.trajectories])
    return replace(
        samples[-1],
        nfc=sum(sample.nfc for sample in samples),
        steps=max(sample.steps for sample in samples),
        decisions=tuple(
            replace(decision, branch=number)
            for number, sample in enumerate(samples)
            for decision in sample.decisions
        ),
        cache_bytes=sum(sample.cache_bytes for sample in samples),
        samples=samples,
    )
