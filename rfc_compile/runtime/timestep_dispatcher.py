"""A graph that is given the timestep: the timestep says which step a call is.

-> branch (timestep: next step, next CFG branch, or a new trajectory)
-> probe -> signal -> full or cached        dynamic schedules
-> full or cached -> signal                 static schedules

On an accelerator the host would wait twice, for the timestep and for the signal. So the
branch that comes next is probed before the timestep is known, and both come in one
copy; with a static schedule or ``decision="lagged"``, in a run that is announced and
went on as expected so far, the host looks at them only after the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import Signal
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.analysis.input_roles import ForwardInputs
from rfc_compile.passes.rewrites.specialize import Specialized
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime import readback
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.dispatcher import Dispatcher
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.ranks import Ranks
from rfc_compile.runtime.readback import Readback
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Unsettled
from rfc_compile.schedules.base import FULL

MANY_TIMESTEPS = 64
"""More of them (one a token) are averaged where they lie."""

SIGNALS_SEEN = 2
"""Steps of every branch that are looked at before any runs unseen."""

MOST_UNSETTLED = 8
"""Steps that may run unseen before the host waits for the oldest one's signal."""


@dataclass(frozen=True)
class Ahead:
    """What the probe gave for the expected branch, before the timestep was known.

    Attributes:
        branch: the one that was expected.
        step: index of the expected step.
        live: the probe's results.
        signal: the first of them, on the host.
        timestep: the timestep, on the host.

    """

    branch: GuidanceBranch
    step: int
    live: Sequence[Any]
    signal: Tensor
    timestep: Tensor

    def fits(self, branch: GuidanceBranch, step: int) -> bool:
        """Whether this is the branch and the step that was expected."""
        return branch is self.branch and step == self.step


class ByTimestep(Dispatcher):
    """Places calls by the value of the timestep input, and checks the latent."""

    timed = True

    def __init__(
        self,
        specialized: Specialized,
        graphs: dict[str, LazyGraph],
        layout: StateLayout,
        options: Options,
        report: GraphReport,
        inputs: ForwardInputs,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(specialized, graphs, layout, options, report, inputs, ranks)
        assert inputs.timestep_index is not None
        self._timestep = inputs.timestep_index
        self.follows = report.piece  # a whole model knows the step by itself
        self._step = self._step_with_probe if "probe" in graphs else self._step_whole
        self._conditioning_names = inputs.conditioning_names

    def _lead(
        self,
        session: Session,
        caller: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        ahead: Ahead | None = None
        seen = readback.on_host(arguments[self._timestep])
        if not seen and self.ranks is None:  # ranks that share a model look together
            expected = self._expected(session, caller, arguments, weights)
            if expected is not None and self._may_run_unseen(expected):
                return self._run_unseen(expected)
            if session.current is not None:
                session.current.settle(most=0)
            if expected is not None and "probe" in self.graphs:
                ahead = self._probe_ahead(expected)
        timestep = _read_timestep(
            arguments[self._timestep] if ahead is None else ahead.timestep
        )
        trajectory, refused = session.continued(caller), None
        if trajectory is None or trajectory.place(timestep) == "back":
            trajectory = session.begin(caller)
        step, candidates = trajectory.candidates(timestep, caller.branch)
        for branch in candidates:
            unusable = branch.state.unusable(weights, self.report)
            if unusable is not None:
                refused = Mismatch(unusable)
                continue
            call = PlacedStep(
                caller, session, arguments, trajectory, branch, step, timestep
            )
            probed = ahead is not None and ahead.fits(branch, step)
            result = self._step(call, ahead if probed else None)
            if not isinstance(result, Mismatch):
                return result
            refused = result
        if refused is not None and trajectory.place(timestep) == "next":
            self._learn_varying(session, refused)
            follows = trajectory.whole.place(timestep) == "next"
            goes_on = follows and refused.reason == "discontinuity"
            trajectory, step = session.begin(caller, goes_on=goes_on), 0
        elif trajectory.full_up:
            trajectory, step = session.begin(caller), 0
        state = self._new_state(arguments, weights)
        index = len(trajectory.branches)
        fresh = GuidanceBranch(index, state, first_step=step, name=caller.branch)
        reason = None if refused is None else refused.reason
        result = self._step(
            PlacedStep(
                caller, session, arguments, trajectory, fresh, step, timestep, reason
            ),
            None,
        )
        assert not isinstance(result, Mismatch), "a fresh branch accepts every call"
        return result

    def _learn_varying(self, session: Session, refused: Mismatch) -> None:
        """Stop comparing a conditioning input that changes at every step."""
        for i in session.learn_varying(refused):
            self.report.note(
                f"the input {self._conditioning_names[i]} changes at every step: "
                "it is not used to tell one prompt from another"
            )

    def _expected(
        self,
        session: Session,
        caller: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> PlacedStep | None:
        """The call, if it continues the run as the calls before did; None if unlikely.

        Its timestep is not known yet.
        """
        trajectory = session.continued(caller)
        if trajectory is None:
            return None
        trajectory.settle(most=0 if self._lagged else MOST_UNSETTLED)
        likeliest = None if trajectory.finished else trajectory.expected(caller.branch)
        if likeliest is None or likeliest[0].state.unusable(weights, self.report):
            return None
        branch, step = likeliest
        if not branch.state.full_steps or step >= (
            session.total(trajectory) or math.inf
        ):
            return None
        return PlacedStep(
            caller, session, arguments, trajectory, branch, step, math.nan
        )

    def _may_run_unseen(self, call: PlacedStep) -> bool:
        """Whether it may be run before it is known to continue its branch.

        Somebody tells where the run began and, if it has several branches, which one
        this is; the last steps of the branch were what they were taken for; and where
        predictions go by the noise level, a run before had the same timesteps.
        """
        branches = call.trajectory.branches
        named = len({branch.name for branch in branches}) == len(branches)
        looks_at_none = self._schedule.static or self._lagged
        return (
            looks_at_none
            and call.caller.run > 0
            and (len(branches) == 1 or (named and call.caller.branch is not None))
            and all(branch.signals >= SIGNALS_SEEN for branch in branches)
            and (call.trajectory.noise is None or call.step in call.trajectory.foreseen)
        )

    def _run_unseen(self, call: PlacedStep) -> Sequence[Any]:
        """Run a step whose signal will be looked at when it has arrived."""
        branch, state = call.branch, call.branch.state
        limit, reason = self._limit(call)
        pool = state.pool(call.arguments, call.step)
        timestep = _few_timesteps(call.arguments[self._timestep])
        if "probe" in self.graphs:
            live = self._run("probe", pool)
            arrival = Readback([live[0], timestep])
            pool.others.extend(live)
        pool.others[0] = state.weights(call.step, call.levels)
        full = branch.last_error > limit
        history = state.forget() if full else None
        outputs = self._run("full" if full else "cached", pool)
        if "probe" not in self.graphs:
            *outputs, signal = outputs
            arrival = Readback([signal, timestep])
        why = reason if full else self._cached_reason
        self._accept(call, None, why, history)
        place = len(call.trajectory.decisions) - 1
        settle = functools.partial(self._settle, call, place)
        call.trajectory.unsettled.append(Unsettled(arrival, settle))
        return outputs

    def _settle(self, call: PlacedStep, place: int, values: Sequence[Tensor]) -> None:
        """Check a step that has run unseen, and complete the record of it."""
        trajectory, branch = call.trajectory, call.branch
        timestep = _read_timestep(values[1])
        signal = Signal.read(values[0], self._layout.conditioning, timestep)
        refused = call.session.refusal(branch, signal, [call.step])
        if refused is None and not trajectory.continues(call.step, timestep):
            refused = Mismatch("discontinuity")
        decision = trajectory.decisions[place]
        trajectory.timesteps[call.step] = timestep
        trajectory.decisions[place] = replace(
            decision,
            timestep=timestep,
            statistic=signal.error if signal.finite else None,
            change=signal.change if signal.finite else None,
            reason=decision.reason if refused is None else refused.reason,
        )
        branch.learn(signal, full=decision.full)
        if refused is not None:
            self.report.fall_back(
                f"step {call.step} of an announced run was not its next step "
                f"({refused.reason}), which showed only afterwards: its image is "
                "wrong; what follows is a new run"
            )
            trajectory.finish()

    def _probe_ahead(self, call: PlacedStep) -> Ahead:
        """Probe the expected branch; its signal and the timestep come in one copy."""
        state = call.branch.state
        pool = state.pool(call.arguments, call.step)
        live = self._run("probe", pool)
        timestep = _few_timesteps(call.arguments[self._timestep])
        arrival = Readback([live[0], timestep])
        signal, timestep = arrival.values()
        return Ahead(call.branch, call.step, live, signal, timestep)

    def _step_with_probe(
        self, call: PlacedStep, ahead: Ahead | None
    ) -> Sequence[Any] | Mismatch:
        """Probe, read the signal, decide, run the rest of the forward."""
        state = call.branch.state
        pool = state.pool(call.arguments, call.step)
        live = self._run("probe", pool) if ahead is None else ahead.live
        value = live[0] if ahead is None else ahead.signal
        known = sorted(call.session.varying)
        where = call.session, call.branch, call.step
        signal = self._read(value, *where, *known, timestep=call.timestep)
        refused = call.session.refusal(call.branch, signal, state.full_steps)
        if refused is not None:
            return refused
        limit, reason = self._limit(call)
        pool.others.extend(live)
        return self._finish(call, signal, limit, reason, pool)

    def _step_whole(
        self, call: PlacedStep, _: Ahead | None
    ) -> Sequence[Any] | Mismatch:
        """Decide by the step's index, run the forward, then check its signal."""
        state, history = call.branch.state, call.branch.state.full_steps
        limit, reason = self._limit(call)
        pool = state.pool(call.arguments, call.step, call.levels)
        full = limit == FULL
        if full:
            state.forget()
        *outputs, value = self._run("full" if full else "cached", pool)
        signal = Signal.read(value, self._layout.conditioning, call.timestep)
        refused = call.session.refusal(call.branch, signal, history)
        if refused is not None:
            if full:  # this branch's history is overwritten: drop it
                call.trajectory.drop(call.branch)
            return refused
        if full:
            self._accept(call, signal, reason, history)
        else:
            self._accept(call, signal, "scheduled")
        return outputs

    def _run_whole(self, name: str, pool: GraphInputs) -> Sequence[Any]:
        if "probe" in self.graphs:
            pool.others.extend(self._run("probe", pool))
            return self._run(name, pool)
        return self._run(name, pool)[:-1]


def _read_timestep(value: Any) -> float:
    """The timestep on the host: its mean, for timesteps per sample, token or frame.

    NaN if any is not finite.
    """
    if not isinstance(value, Tensor):
        return float(value)
    few = _few_timesteps(value)
    values = (few if few.ndim == 1 else few.reshape(-1)).tolist()
    finite = all(map(math.isfinite, values))
    return math.fsum(values) / len(values) if finite else math.nan


def _few_timesteps(value: Tensor) -> Tensor:
    """The timesteps, or only their mean where there are many (or none)."""
    few = 0 < value.numel() <= MANY_TIMESTEPS
    return value if few else value.double().mean()
