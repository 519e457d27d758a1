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
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rfc_compile.config import Options
from rfc_compile.inner import LazyGraph
from rfc_compile.observe import GraphReport, log_decision
from rfc_compile.passes import ForwardInputs, Specialized, StateLayout
from rfc_compile.schedules import FULL, Position, guarded_limit
from rfc_compile.signal import Signal
from rfc_compile.sizes import SizeBinding
from rfc_compile.state import KeptState
from rfc_compile.torch_internals import without_autocast
from rfc_compile.trajectory import (
    Branch,
    Decision,
    Mismatch,
    Trajectory,
    current_owner,
)

MAX_SCOPES = 8
"""Owners (threads, tasks, names, shapes) whose state one graph keeps; oldest goes."""

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input must change to count as varying."""

ScopeKey = tuple[str, tuple[int, ...], tuple[Any, ...]]


@dataclass
class Scope:
    """The trajectories of one owner: the running one and the last finished.

    ``layer`` holds the ids of the parameters that the owner's calls pass.
    """

    layer: frozenset[int] = frozenset()
    last_used: float = 0.0
    current: Trajectory | None = None
    last: Trajectory | None = None
    lengths: dict[tuple[float, ...], int] = field(default_factory=dict)

    def begin(self, name: str, num_steps: int | None) -> Trajectory:
        """Start a new trajectory; the state of the one before is freed."""
        if self.current is not None:
            finished = self.current
            start, length = tuple(finished.timesteps[:2]), len(finished.timesteps)
            # an abandoned run is shorter than a whole one that began the same way
            self.lengths[start] = max(length, self.lengths.get(start, 0))
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


class Dispatcher:
    """Runs one captured forward; called in place of Dynamo's graph."""

    def __init__(
        self,
        specialized: Specialized,
        graphs: dict[str, LazyGraph],
        layout: StateLayout,
        options: Options,
        report: GraphReport,
        inputs: ForwardInputs,
    ) -> None:
        self.graphs = graphs
        self.report = report
        self._layout = layout
        self._options = options
        self._schedule = options.make_schedule()
        self._timestep = inputs.timestep_index
        self._static = inputs.static_indices
        count = len(specialized.inputs) - layout.slots - 2  # weights and limit
        known = {*self._static, self._timestep}
        self._others = [i for i in range(count) if i not in known]
        self._sizes = SizeBinding(layout, specialized.examples[:count])
        self._routes = _routes(specialized)
        self._step = self._step_with_probe if "probe" in graphs else self._step_whole
        self._conditioning_names = inputs.conditioning_names
        self._changes: dict[int, int] = {}
        self._varying: set[int] = set()
        self._scopes: OrderedDict[ScopeKey, Scope] = OrderedDict()
        self._layers: set[tuple[int, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """One forward: outputs as Dynamo's graph would return them."""
        with without_autocast():  # the graphs hold the casts already
            return self._forward(arguments)

    def _forward(self, arguments: Sequence[Any]) -> Sequence[Any]:
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
            refused = result
        if refused is not None and trajectory.place(timestep) == "next":
            self._learn_varying(refused)
            trajectory, step = scope.begin(name, num_steps), 0
        state = self._new_state(arguments)
        fresh = Branch(len(trajectory.branches), state, first_step=step)
        reason = None if refused is None else refused.reason
        result = self._step(
            scope, Call(arguments, trajectory, fresh, step, timestep, reason)
        )
        assert not isinstance(result, Mismatch), "a fresh branch accepts every call"
        return result

    def _learn_varying(self, refused: Mismatch) -> None:
        """Stop comparing a conditioning input that changes at every step."""
        for i in list(self._changes):
            if i not in refused.changed:
                del self._changes[i]
        for i in refused.changed:
            self._changes[i] = self._changes.get(i, 0) + 1
            if self._changes[i] == CHANGES_IN_A_ROW:
                self._varying.add(i)
                self.report.note(
                    f"the input {self._conditioning_names[i]} changes at every step: "
                    "it is not used to tell one prompt from another"
                )

    def reset(self, of: Set[int] | None = None) -> None:
        """Drop trajectories and their state; compiled graphs stay.

        ``of`` keeps to the layers that hold one of these parameter ids.
        """
        with self._lock:
            for key, scope in list(self._scopes.items()):
                if of is None or of & scope.layer:
                    del self._scopes[key]

    def scopes(self, of: Set[int] | None = None) -> list[Scope]:
        """The scopes, of layers that hold one of these parameter ids if given."""
        with self._lock:
            scopes = list(self._scopes.values())
        return [scope for scope in scopes if of is None or of & scope.layer]

    def _scope(self, name: str, arguments: Sequence[Any]) -> Scope:
        """The scope of an owner, a layer (its parameters) and a set of shapes."""
        layer = tuple(id(arguments[i]) for i in self._static)
        shapes = tuple(
            tuple(value.shape) if isinstance(value, Tensor) else value
            for value in (arguments[i] for i in self._others)
        )
        key = (name, layer, shapes)
        with self._lock:
            if layer not in self._layers:
                self._layers.add(layer)
                for i in self._static:  # an id is only good while its owner lives
                    owner = weakref.finalize(arguments[i], self._drop_layer, layer)
                    owner.atexit = False
                    self.report.reads(arguments[i])
            if key not in self._scopes:
                self._scopes[key] = Scope(frozenset(layer))
                while len(self._scopes) > MAX_SCOPES:
                    self._scopes.popitem(last=False)
            self._scopes.move_to_end(key)
            self._scopes[key].last_used = time.monotonic()
            return self._scopes[key]

    def _drop_layer(self, layer: tuple[int, ...]) -> None:
        self._layers.discard(layer)
        for key in [key for key in self._scopes if key[1] == layer]:
            self._scopes.pop(key, None)

    def _new_state(self, arguments: Sequence[Any]) -> KeptState:
        return KeptState(self._layout, self._sizes.bind(arguments))

    def _limit(self, scope: Scope, call: Call) -> tuple[float, str]:
        branch, total = call.branch, scope.total(call.trajectory)
        position = Position(
            step=call.step - branch.first_step,
            recorded=len(branch.state.full_steps),
            since_full=branch.since_full,
            error=branch.error,
            total=None if total is None else total - branch.first_step,
        )
        limit, reason = guarded_limit(self._schedule, self._options, position)
        return limit, call.refused or reason

    def _step_with_probe(self, scope: Scope, call: Call) -> Sequence[Any] | Mismatch:
        """Probe, read the signal, decide, run the rest of the forward."""
        state = call.branch.state
        pool = [*call.arguments, *state.slots, state.weights(call.step)]
        live = self._run("probe", pool)
        signal = Signal.read(live[0], self._layout.conditioning)
        refused = call.branch.mismatch(signal, state.full_steps, self._varying)
        if refused is not None:
            return refused
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
        refused = call.branch.mismatch(signal, history, self._varying)
        if limit != FULL:
            if refused is not None:
                return refused
            self._accept(call, signal, full=False, reason="scheduled")
            return outputs
        if refused is not None:  # this branch's history is overwritten: drop it
            call.trajectory.branches.remove(call.branch)
            return refused
        self._keep(call, signal, history)
        self._accept(call, signal, full=True, reason=reason)
        return outputs

    def _keep(self, call: Call, signal: Signal, history: Sequence[int]) -> None:
        """Make a full step the newest of the history, unless its input is broken."""
        if signal.finite:
            call.branch.state.record(call.step, history)
            return
        call.branch.state = self._new_state(call.arguments)
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
