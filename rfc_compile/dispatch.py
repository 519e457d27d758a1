"""One step of a denoising run: find its trajectory, decide, run one compiled graph.

    call -> scope (who calls, which layer, which shapes)
         -> branch (timestep: next step, next CFG branch, or a new trajectory)
         -> probe -> signal -> full or cached        dynamic schedules
         -> full or cached -> signal                 static schedules
         -> record the decision
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rfc_compile.config import Options
from rfc_compile.inner import LazyGraph
from rfc_compile.observe import GraphReport, log_decision
from rfc_compile.passes import Specialized, StateLayout
from rfc_compile.schedules import FULL, Position, guarded_limit
from rfc_compile.signal import Signal
from rfc_compile.sizes import SizeBinding
from rfc_compile.state import KeptState
from rfc_compile.trajectory import Branch, Decision, Trajectory, current_owner

MAX_SCOPES = 8
"""Owners (threads, tasks, names, shapes) whose state one graph keeps; oldest goes."""


@dataclass
class Scope:
    """The trajectories of one owner: the running one and the last finished."""

    current: Trajectory | None = None
    last: Trajectory | None = None
    lengths: dict[tuple[float, ...], int] = field(default_factory=dict)

    def begin(self, name: str, num_steps: int | None) -> Trajectory:
        """Start a new trajectory; the state of the one before is freed."""
        if self.current is not None:
            finished = self.current
            self.lengths[tuple(finished.timesteps[:2])] = len(finished.timesteps)
            finished.branches = []
            self.last = finished
        self.current = Trajectory(name, num_steps=num_steps)
        return self.current

    def total(self, trajectory: Trajectory) -> int | None:
        """Steps of a trajectory, told or learnt from one that began the same way."""
        known = self.lengths.get(tuple(trajectory.timesteps[:2]))
        return trajectory.num_steps or known


@dataclass(frozen=True)
class Call:
    """One call of the model, placed in a trajectory.

    Attributes:
        arguments: what Dynamo passes.
        trajectory: the run it is taken to belong to.
        branch: the CFG branch it is taken to belong to.
        step: its index.
        timestep: the value of its timestep input.
        refused: why it did not continue an earlier branch, for a fresh branch.

    """

    arguments: Sequence[Any]
    trajectory: Trajectory
    branch: Branch
    step: int
    timestep: float
    refused: str | None = None


@dataclass(frozen=True)
class Mismatch:
    """A call that does not continue the branch it was tried on."""

    reason: str


class Dispatcher:
    """Runs one captured forward; called in place of Dynamo's graph."""

    def __init__(
        self,
        specialized: Specialized,
        graphs: dict[str, LazyGraph],
        layout: StateLayout,
        options: Options,
        report: GraphReport,
        timestep: int,
        static: Sequence[int],
    ) -> None:
        self.graphs = graphs
        self.report = report
        self._layout = layout
        self._options = options
        self._schedule = options.make_schedule()
        self._timestep = timestep
        self._static = tuple(static)
        count = len(specialized.inputs) - layout.slots - 2  # weights and limit
        self._others = [i for i in range(count) if i not in {*static, timestep}]
        self._sizes = SizeBinding(layout, specialized.examples[:count])
        self._routes = _routes(specialized)
        self._step = self._step_with_probe if "probe" in graphs else self._step_whole
        self._scopes: OrderedDict[object, Scope] = OrderedDict()
        self._lock = threading.Lock()
        self.last_used = 0.0

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """One forward: outputs as Dynamo's graph would return them."""
        self.last_used = time.monotonic()
        name, num_steps = current_owner()
        scope = self._scope(name, arguments)
        timestep = _read_timestep(arguments[self._timestep])
        trajectory, refused = scope.current, None
        if trajectory is None or trajectory.place(timestep) == "back":
            trajectory = scope.begin(name, num_steps)
        step, candidates = trajectory.candidates(timestep)
        for branch in candidates:
            call = Call(arguments, trajectory, branch, step, timestep)
            result = self._step(scope, call)
            if not isinstance(result, Mismatch):
                return result
            refused = result.reason
        if refused is not None and trajectory.place(timestep) == "next":
            trajectory, step = scope.begin(name, num_steps), 0
        fresh = self._fresh(len(trajectory.branches), arguments)
        call = Call(arguments, trajectory, fresh, step, timestep, refused)
        result = self._step(scope, call)
        assert not isinstance(result, Mismatch), "a fresh branch accepts every call"
        return result

    def reset(self) -> None:
        """Drop all trajectories and their state; compiled graphs stay."""
        with self._lock:
            self._scopes.clear()

    def scopes(self) -> list[Scope]:
        """The scopes, most recently used last."""
        with self._lock:
            return list(self._scopes.values())

    def _scope(self, name: str, arguments: Sequence[Any]) -> Scope:
        """The scope of an owner, a layer (its parameters) and a set of shapes."""
        layer = tuple(id(arguments[i]) for i in self._static)
        shapes = tuple(
            tuple(value.shape) if isinstance(value, Tensor) else value
            for value in (arguments[i] for i in self._others)
        )
        key = (name, layer, shapes)
        with self._lock:
            if key not in self._scopes:
                self._scopes[key] = Scope()
                for i in self._static:  # an id is only good while its owner lives
                    finalizer = weakref.finalize(
                        arguments[i], self._scopes.pop, key, None
                    )
                    finalizer.atexit = False
                while len(self._scopes) > MAX_SCOPES:
                    self._scopes.popitem(last=False)
            self._scopes.move_to_end(key)
            return self._scopes[key]

    def _fresh(self, index: int, arguments: Sequence[Any]) -> Branch:
        return Branch(index, KeptState(self._layout, self._sizes.bind(arguments)))

    def _limit(self, scope: Scope, call: Call) -> tuple[float, str]:
        branch = call.branch
        position = Position(
            step=call.step,
            recorded=len(branch.state.full_steps),
            since_full=branch.since_full,
            error=branch.error,
            total=scope.total(call.trajectory),
        )
        limit, reason = guarded_limit(self._schedule, self._options, position)
        return limit, call.refused or reason

    def _step_with_probe(self, scope: Scope, call: Call) -> Sequence[Any] | Mismatch:
        """Probe, read the signal, decide, run the rest of the forward."""
        state = call.branch.state
        pool = [*call.arguments, *state.slots, state.weights(call.step)]
        live = self._run("probe", pool)
        signal = Signal.read(live[0], self._layout.conditioning)
        refused = call.branch.mismatch(signal, state.full_steps)
        if refused is not None:
            return Mismatch(refused)
        limit, reason = self._limit(scope, call)
        pool += live
        if signal.error <= limit:
            outputs = self._run("cached", pool)
            self._accept(call, signal, full=False, reason="within_limit")
            return outputs
        history = state.forget()
        outputs = self._run("full", pool)
        self._keep(call, signal, history)
        self._accept(call, signal, full=True, reason=reason)
        return outputs

    def _step_whole(self, scope: Scope, call: Call) -> Sequence[Any] | Mismatch:
        """Decide by the step's index, run the forward, then check its signal."""
        state, history = call.branch.state, call.branch.state.full_steps
        limit, reason = self._limit(scope, call)
        pool = [*call.arguments, *state.slots, state.weights(call.step)]
        if limit == FULL:
            state.forget()
        *outputs, value = self._run("full" if limit == FULL else "cached", pool)
        signal = Signal.read(value, self._layout.conditioning)
        refused = call.branch.mismatch(signal, history)
        if limit != FULL:
            if refused is not None:
                return Mismatch(refused)
            self._accept(call, signal, full=False, reason="scheduled")
            return outputs
        if refused is not None:  # the outputs are right, but the history is not theirs
            call, history = self._restarted(scope, call, refused), []
        self._keep(call, signal, history)
        self._accept(call, signal, full=True, reason=refused or reason)
        return outputs

    def _restarted(self, scope: Scope, call: Call, refused: str) -> Call:
        """The same call as the first of a new trajectory, with the state it wrote."""
        trajectory = scope.begin(call.trajectory.name, call.trajectory.num_steps)
        branch = Branch(0, call.branch.state)
        return Call(call.arguments, trajectory, branch, 0, call.timestep, refused)

    def _keep(self, call: Call, signal: Signal, history: Sequence[int]) -> None:
        """Make a full step the newest of the history, unless its input is broken."""
        if signal.finite:
            call.branch.state.record(call.step, history)
            return
        call.branch.state = self._fresh(0, call.arguments).state
        self.report.fall_back(
            "the input holds NaN or Inf (or is all zero): such steps run uncached"
        )

    def _accept(self, call: Call, signal: Signal, *, full: bool, reason: str) -> None:
        """Advance the trajectory and the branch, and record the decision."""
        trajectory, branch = call.trajectory, call.branch
        if call.step > trajectory.step:
            trajectory.timesteps.append(call.timestep)
        if branch not in trajectory.branches:
            trajectory.branches.append(branch)
        branch.state.remember([call.arguments[i] for i in self._layout.latents])
        decision = Decision(
            step=call.step,
            branch=branch.index,
            timestep=call.timestep,
            full=full,
            reason=reason if signal.finite else "non_finite",
            statistic=signal.error if signal.finite and branch.step >= 0 else None,
        )
        branch.advance(call.step, signal, full=full)
        trajectory.decisions.append(decision)
        log_decision(trajectory.name, decision)

    def _run(self, name: str, pool: Sequence[Any]) -> Sequence[Any]:
        return self.graphs[name](*[pool[i] for i in self._routes[name]])


def _routes(specialized: Specialized) -> dict[str, list[int]]:
    """Where each graph's inputs lie: call's arguments, state, weights, live values."""
    names = list(specialized.inputs[:-1])  # the last is the limit, which no graph takes
    if specialized.probe is not None:
        names += specialized.probe.gives
    index = {name: i for i, name in enumerate(names)}
    return {
        name: [index[taken] for taken in graph.takes]
        for name, graph in specialized.graphs.items()
    }


def _read_timestep(value: Any) -> float:
    """The timestep on the host: its mean, for timesteps per sample, token or frame."""
    if isinstance(value, Tensor):
        return float(value.double().mean())
    return float(value)
