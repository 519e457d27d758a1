"""One call of a compiled graph: lead or follow, full or cached.

call -> takes part in a running call of the model?   model_forward
     -> yes: follow its decision                     _follow
     -> no: place, decide, run, record               _lead
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Sequence, Set
from typing import Any

from torch import Tensor

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.compiler.plan import Plan
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import NOT_FINITE, Signal
from rfc_compile.graph_report import GraphReport
from rfc_compile.runtime import model_forward, registry
from rfc_compile.runtime.call_context import CallContext, current_context
from rfc_compile.runtime.graph_inputs import (
    GraphInputs,
    computation_of,
    input_pickers,
    owned_by_modules,
    picker,
    without_reader,
)
from rfc_compile.runtime.model_forward import ModelForward
from rfc_compile.runtime.parameter_versions import (
    ParameterChangeCounter,
    ParameterVersion,
    ParameterVersions,
)
from rfc_compile.runtime.ranks import OutOfStep, Ranks, may_follow
from rfc_compile.runtime.repayment import Repayment
from rfc_compile.runtime.run_notes import UNEVEN_TIMESTEPS
from rfc_compile.runtime.session import LayerKey, Session
from rfc_compile.runtime.session_table import Key, SessionTable
from rfc_compile.runtime.state import BranchState, SizeBinding, geometry_of
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.runtime.uncached import note_call_with_regions
from rfc_compile.schedules.base import FULL, Schedule, guarded_limit
from rfc_compile.schedules.decision import Decision, log_decision
from rfc_compile.torch_internals import without_autocast

ALONE = 3
"""Leading calls of one layer in a row, without another graph between them, after which
followers are no longer expected or tracked."""


class Dispatcher(ABC):
    """Runs one captured forward; called in place of Dynamo's graph.

    ``seconds`` is the time in it so far, that in its graphs and compilation included;
    ``layout`` that of its graphs' state; ``ranks`` are those that decide together, None
    if this rank decides by itself.
    """

    def __init__(
        self,
        plan: Plan,
        graphs: dict[str, LazyGraph],
        report: GraphReport,
        ranks: Ranks | None = None,
    ) -> None:
        specialized, layout = plan.graphs.specialized, plan.graphs.layout
        inputs = plan.captured.inputs
        self.graphs, self.ranks, self.report = graphs, ranks, report
        self.seconds = 0.0
        self.layout = self._layout = layout
        self._conditioning, self._latents = layout.conditioning, layout.latents
        count = len(specialized.inputs) - layout.slots - 2  # weights and limit
        self._given = [i for i in range(count) if i not in inputs.static_indices]
        self._static = picker(inputs.static_indices)
        self._sessions = SessionTable(
            attributes=[i in inputs.attribute_indices for i in inputs.static_indices],
            others=[i for i in self._given if i != inputs.timestep_index],
            numbers=[i for i in inputs.number_indices if i != inputs.timestep_index],
            examples=specialized.examples[:count],
            report=report,
        )
        owned = owned_by_modules(specialized, inputs, count)
        self._weights = ParameterVersions([*owned, *inputs.attribute_indices])
        self._changes_of_weights = ParameterChangeCounter(report)
        self._sizes = SizeBinding(layout, specialized.examples[:count])
        self._routes = input_pickers(specialized, layout.slots)
        self._computes = type(self), computation_of(specialized)
        self._unled = without_reader(specialized, layout, count)
        self._led, self._calls, self._serial = 0, 0, next(model_forward.graph_numbers)
        self._led_layer: LayerKey | None = None
        self._prepare(plan)

    def _prepare(self, plan: Plan) -> None:
        """Set up what depends on the kind of dispatcher."""
        self.decide_by(plan.options)

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        """One forward: outputs as Dynamo's graph would return them."""
        start = time.perf_counter()
        with without_autocast():  # the graphs hold the casts already
            outputs = self._forward(arguments)
        self.seconds += time.perf_counter() - start
        return outputs

    def _forward(self, arguments: Sequence[Any]) -> Sequence[Any]:
        calls = note_call_with_regions()
        context = current_context()
        static = self._static(arguments)
        key = self._sessions.key(static, arguments)
        weights = self._weights.read(static, arguments)
        layer, _ = key
        in_a_row = calls == self._calls + 1 and layer == self._led_layer
        self._led = self._led + 1 if in_a_row else 0
        self._calls, self._led_layer = calls, layer
        alone = self._led >= ALONE and not self.report.fragment
        if alone:
            model_forward.leave(context.owner)
        given = [arguments[i] for i in self._given]
        running = None if alone else model_forward.running(context)
        if running is not None:
            self._look_for_layers(running, layer, given)
        if (
            running is not None
            and (self.follows or running.leader == self._serial)
            and running.timed >= self.timed
            and running.includes(layer, given, by_results=not self.follows)
        ):
            self._led_layer = None
            outputs = self._follow(running, layer, arguments, weights)
        else:
            model_forward.finish(context.owner)
            session = self._session_of(context, key, arguments)
            with session.lock:  # threads that share a name share its trajectory
                session.alone = alone
                outputs = self._lead_together(session, context, arguments, weights)
            running = None if alone else model_forward.running(context)
        if running is not None:
            return running.add(self._serial, layer, given, outputs)
        return outputs

    def _session_of(
        self, context: CallContext, key: Key, arguments: Sequence[Any]
    ) -> Session:
        """The session of a call; a run continues after Dynamo recompiles its forward.

        It does so for a more general graph: for other sizes, strides or numbers.
        """
        session = self._sessions.get(context.owner, key)
        if session.used:
            return session
        slots = geometry_of(self._layout, self._sizes.bind(arguments))
        for other in registry.dispatchers_with(key[0][0]):
            if other is self or not isinstance(other, Dispatcher):
                continue
            another = other._computes != self._computes
            if another or other.report.options != self.report.options:
                continue  # of another wrapper of the same model
            if before := other._sessions.take(context.owner, key, slots, self._layout):
                return self._sessions.put(context.owner, key, before)
        return session

    @abstractmethod
    def _look_for_layers(
        self, running: ModelForward, layer: LayerKey, given: Sequence[Any]
    ) -> None:
        """Find out whether the graph is a layer of a model compiled block by block."""

    timed: bool
    """Whether the timestep of a call is known."""

    follows: bool
    """Whether it follows the decisions of other graphs, not only of other layers."""

    def _lead_together(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        """Lead as all ranks do; in a new run if the ranks disagree about the step."""
        session.expire()
        try:
            return self._lead(session, context, arguments, weights)
        except OutOfStep:
            session.forget()
            self.report.fall_back(
                "the ranks that share this model took a call for different steps (one "
                "was reset, or its weights changed): such a call begins a new run"
            )
        return self._lead(session, context, arguments, weights)

    def _read(
        self, value: Tensor, call: PlacedStep, *agreed: Hashable, time: float = 0.0
    ) -> Signal:
        """The signal of a step, ``agreed`` among all ranks that share the model."""
        if self.ranks is None:
            return Signal.read(value, self._conditioning, time)
        return self.ranks.agree((*call.place, agreed), value, self._conditioning, time)

    @abstractmethod
    def _lead(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        """Find the branch that a call continues, decide, run it, record it."""

    def _follow(
        self,
        running: ModelForward,
        layer: LayerKey,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        """Run as the leading graph decided; in full without history."""
        branch = running.branch
        assert branch is not None, "only a live branch includes members"
        member = layer, running.occurrence(layer)
        state = branch.followers.get(member)
        if state is not None and state.unusable(weights, self.report):
            state = None
        if state is None or state.layout is not self._layout:
            own = self._new_state(arguments, weights, self._unled)
            if state is not None and state.geometry == own.geometry:
                state.layout = self._layout  # Dynamo made a more general graph of it
            else:
                state = branch.followers[member] = own
        times = running.times(state.full_steps) if self._by_timestep else None
        inputs = state.pool(arguments, running.step, times)
        cached = state.full_steps and not running.full
        if cached and may_follow(self.ranks, running.ranks, self.report):
            return self._run_whole("cached", inputs)
        history = state.forget()
        outputs = self._run_whole("full", inputs)
        if running.keep:
            state.record(running.step, history)
        return outputs

    def decide_by(self, options: Options) -> None:
        """Follow the schedule of these options from the next run on; graphs stay."""
        self.options = self._options = options
        self._by_timestep, self._nodes = options.time == "timestep", options.nodes

    def reset(self, of: Set[int] | None = None) -> None:
        """Drop runs and state, of layers that hold one of these ids if given."""
        self._sessions.drop(of)

    def sessions(self, of: Set[int] | None = None) -> list[Session]:
        """The sessions, of layers that hold one of these parameter ids if given."""
        return self._sessions.of(of)

    def _new_state(
        self,
        arguments: Sequence[Any],
        weights: ParameterVersion,
        unused: Collection[int] = (),
    ) -> BranchState:
        return BranchState(self._layout, self._sizes.bind(arguments), unused, weights)

    def _limit(self, call: PlacedStep) -> tuple[float, str]:
        """The largest error with which a step may be cached, and the reason."""
        schedule = self._schedule(call.trajectory)
        if call.positions is None:
            self.report.fall_back(UNEVEN_TIMESTEPS)
            return FULL, "timesteps"
        limit, reason = guarded_limit(schedule, call.position)
        return limit, call.refused or reason

    def _schedule(self, run: Trajectory) -> Schedule:
        """The schedule of a run: by its own options, else the model's.

        Raises:
            OptionError: the run's options exclude the model's.
        """
        if run.schedule is None:
            options = run.asked.applied_to(self._options)
            run.schedule = options.make_schedule(self.report)
        return run.schedule

    def _drop_broken(self, call: PlacedStep) -> None:
        """Discard what a full step has kept of an input that is not finite."""
        weights = call.branch.state.computed_with
        call.branch.state = self._new_state(call.arguments, weights)
        call.branch.followers.clear()
        self.report.fall_back(NOT_FINITE)

    def _record(
        self,
        call: PlacedStep,
        signal: Signal,
        reason: str,
        history: Sequence[int] | None = None,
        repayment: Repayment | None = None,
    ) -> None:
        """Advance, record the decision, lead others.

        ``history`` is what the state of a full step held before, None for a cached one.
        The step joins it last: one that is interrupted leaves a state without history.
        """
        run, branch = call.run(signal), call.branch
        full = history is not None
        if not signal.finite:
            self._drop_broken(call)
        if call.step > run.step:
            gap = call.session.calls - run.last_call if run.times else 0
            run.longest_gap = max(run.longest_gap, gap)
            run.begin_step(call.time, call.step, full=full)
        if branch not in run.branches:
            run.branches.append(branch)
        run.note_call(branch, call.context.branch)
        branch.state.remember([call.arguments[i] for i in self._latents])
        decision = call.decided(run, signal, reason, repayment, full=full)
        branch.learn(signal, full=full)
        branch.advance(call.step, full=full)
        if call.step > 0:
            call.session.continued = call.session.calls
        run.decisions.append(decision)
        run.last_call = call.session.calls
        log_decision(run.name, decision)
        self._announce(call, run, decision, keep=signal.finite)
        if history is not None and signal.finite:
            branch.state.record(call.step, history)

    def _announce(
        self, call: PlacedStep, run: Trajectory, decision: Decision, *, keep: bool
    ) -> None:
        """Let other graphs of the model follow a decision."""
        self._changes_of_weights.note(decision)
        if call.session.alone:
            return
        by, full = (self._serial, self.ranks, self._computes, self.timed), decision.full
        model_forward.begin(ModelForward(call, run, *by, full=full, keep=keep))

    @abstractmethod
    def _run_whole(self, name: str, inputs: GraphInputs) -> Sequence[Any]:
        """The whole forward in full or cached, without its signal."""

    def _run(self, name: str, inputs: GraphInputs) -> Sequence[Any]:
        return self.graphs[name](*self._routes[name](inputs))
