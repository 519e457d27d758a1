"""A graph that is given the timestep: the timestep says which step a call is.

-> branch (timestep: next step, next CFG branch, or a new trajectory)
-> probe -> signal -> full or cached        dynamic schedules
-> full or cached -> signal                 static schedules
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rfc_compile.caller import Caller
from rfc_compile.config import Options
from rfc_compile.dispatch import Call, Dispatcher
from rfc_compile.inner import LazyGraph
from rfc_compile.observe import GraphReport
from rfc_compile.passes import ForwardInputs, Specialized, StateLayout
from rfc_compile.schedules import FULL
from rfc_compile.scopes import Scope
from rfc_compile.signal import Signal
from rfc_compile.trajectories import Branch, Mismatch
from rfc_compile.weights import Reading

MANY_TIMESTEPS = 64
"""More of them (one a token) are averaged where they lie."""

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input must change to count as varying."""


class ByTimestep(Dispatcher):
    """Places calls by the value of the timestep input, and checks the latent."""

    def __init__(
        self,
        specialized: Specialized,
        graphs: dict[str, LazyGraph],
        layout: StateLayout,
        options: Options,
        report: GraphReport,
        inputs: ForwardInputs,
    ) -> None:
        super().__init__(specialized, graphs, layout, options, report, inputs)
        assert inputs.timestep_index is not None
        self._timestep = inputs.timestep_index
        self.follows = report.piece  # a whole model knows the step by itself
        self._step = self._step_with_probe if "probe" in graphs else self._step_whole
        self._conditioning_names = inputs.conditioning_names
        self._changes: dict[int, int] = {}
        self._varying: set[int] = set()

    def _lead(
        self,
        scope: Scope,
        caller: Caller,
        arguments: Sequence[Any],
        weights: Reading,
    ) -> Sequence[Any]:
        timestep = _read_timestep(arguments[self._timestep])
        trajectory, refused = scope.continued(caller), None
        if trajectory is None or trajectory.place(timestep) == "back":
            trajectory = scope.begin(caller)
        step, candidates = trajectory.candidates(timestep, caller.branch)
        for branch in candidates:
            if branch.state.computed_with != weights:
                refused = Mismatch("weights")
                continue
            call = Call(caller, scope, arguments, trajectory, branch, step, timestep)
            result = self._step(call)
            if not isinstance(result, Mismatch):
                return result
            refused = result
        if refused is not None and trajectory.place(timestep) == "next":
            self._learn_varying(refused)
            trajectory, step = scope.begin(caller), 0
        elif trajectory.full_up:
            trajectory, step = scope.begin(caller), 0
        state = self._new_state(arguments, weights)
        index = len(trajectory.branches)
        fresh = Branch(index, state, first_step=step, name=caller.branch)
        reason = None if refused is None else refused.reason
        result = self._step(
            Call(caller, scope, arguments, trajectory, fresh, step, timestep, reason)
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

    def _step_with_probe(self, call: Call) -> Sequence[Any] | Mismatch:
        """Probe, read the signal, decide, run the rest of the forward."""
        state = call.branch.state
        pool = [*call.arguments, *state.slots, state.weights(call.step)]
        live = self._run("probe", pool)
        signal = Signal.read(live[0], self._layout.conditioning)
        refused = call.branch.mismatch(signal, state.full_steps, self._varying)
        if refused is not None:
            return refused
        limit, reason = self._limit(call)
        return self._finish(call, signal, limit, reason, [*pool, *live])

    def _step_whole(self, call: Call) -> Sequence[Any] | Mismatch:
        """Decide by the step's index, run the forward, then check its signal."""
        state, history = call.branch.state, call.branch.state.full_steps
        limit, reason = self._limit(call)
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

    def _run_whole(self, name: str, pool: list[Any]) -> Sequence[Any]:
        if "probe" in self.graphs:
            return self._run(name, [*pool, *self._run("probe", pool)])
        return self._run(name, pool)[:-1]


def _read_timestep(value: Any) -> float:
    """The timestep on the host: its mean, for timesteps per sample, token or frame."""
    if not isinstance(value, Tensor):
        return float(value)
    if not 0 < value.numel() <= MANY_TIMESTEPS:
        return float(value.double().mean())
    values = value.reshape(-1).tolist()
    return math.fsum(values) / len(values)
