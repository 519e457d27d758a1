"""A graph that is given the timestep.

place    which run and branch does the call continue        placement, _lead
decide   full or cached                                     _limit, the probe's error
run      one graph; a full step is predicted, too           _run_step
record   what was decided, what the sampler was given       _record
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import Signal
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.analysis.input_roles import ForwardInputs
from rfc_compile.passes.rewrites.specialize import Specialized
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.conditioning import (
    Fingerprint,
    clearly_changed,
    read_fingerprints,
)
from rfc_compile.runtime.dispatcher import Dispatcher
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch, Returned
from rfc_compile.runtime.latent_pair import LatentPair, find_latent_pair, partners
from rfc_compile.runtime.model_forward import ModelForward
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.placement import Place, fits_by_branch, places
from rfc_compile.runtime.ranks import Ranks
from rfc_compile.runtime.repayment import Repayment, repay
from rfc_compile.runtime.run_notes import note_unlinked
from rfc_compile.runtime.session import LayerKey, Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Time, read_time
from rfc_compile.schedules.base import FULL

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input is new until it counts as varying."""

_BESIDE = re.compile(r"control|cond|ref|hint|guid|mask|prior")
"""Names of inputs shaped like the latent that stand beside it, where several are."""

KEPT_OUTPUTS = 2
"""Steps of which what the sampler was given is kept."""


@dataclass(frozen=True)
class Done:
    """What a step gave.

    Attributes:
        outputs: of the graph.
        history: the kept full steps before a full step; None for a cached one.
        repayment: what a full step showed and repaid, where it was predicted.

    """

    outputs: Sequence[Any]
    history: Sequence[int] | None = None
    repayment: Repayment | None = None


class TimestepDispatcher(Dispatcher):
    """Places calls by the fit of the sampler, and checks their conditioning."""

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
        self._conditioning = inputs.conditioning_indices
        self._conditioning_names = inputs.conditioning_names
        self._latents_first = sorted(
            layout.latents, key=lambda i: bool(_BESIDE.search(inputs.names[i]))
        )

    def _lead(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        time = read_time(arguments[self._timestep])
        pair = self._known_pair(session, arguments)
        latent = None if pair is None else pair.latent(self._latents(arguments))
        refused: Mismatch | None = None
        first: Place | None = None
        given = functools.cache(
            lambda: read_fingerprints([arguments[i] for i in self._conditioning])
        )
        for place in places(session.live, context, latent, time, fragment=self.follows):
            first = first or place
            for branch in place.branches:
                call = self._call(session, context, arguments, place, branch, time)
                result = self._try(call, weights, given)
                if not isinstance(result, Mismatch):
                    return result
                refused = result
        if first is not None and refused is not None and first.step > first.run.step:
            again = self._varying(first, refused)
            if again is not None:
                call = self._call(session, context, arguments, first, again, time)
                result = self._step(call)
                if not isinstance(result, Mismatch):
                    return result
        return self._begin(session, context, arguments, weights, first, refused, time)

    def _look_for_layers(
        self, running: ModelForward, layer: LayerKey, given: Sequence[Any]
    ) -> None:
        """Blocks compiled one by one: the next has the same graph and the stream."""
        if self.follows:
            return
        if running.leader == self._serial and running.layered:
            self.follows = True
        elif (
            running.computes == self._computes
            and not running.has_run(layer)
            and running.includes(layer, given, by_results=True)
        ):
            self.follows = running.layered = True

    def _begin(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
        place: Place | None,
        refused: Mismatch | None,
        time: Time,
    ) -> Sequence[Any]:
        """A fresh branch, of the run that the call continues or of a new one."""
        reason = None if refused is None else refused.reason
        if place is None or place.leaves or place.run.full_up:
            if session.runs and place is None:
                reason = "new_run"
                if not context.run_is_known:
                    note_unlinked(session.runs, self.report)
            run = session.begin(context)
            place = Place(run, 0, ())
        state = self._new_state(arguments, weights)
        index = place.run.free_index
        fresh = GuidanceBranch(index, state, place.step, name=context.branch)
        call = self._call(session, context, arguments, place, fresh, time)
        call.refused = reason
        result = self._step(call)
        assert not isinstance(result, Mismatch), "a fresh branch accepts every call"
        return result

    def _varying(self, place: Place, refused: Mismatch) -> GuidanceBranch | None:
        """The branch to go on with where only what changes at every step is new."""
        run, newest = place.run, place.run.newest
        if not refused.changed or newest is None:
            return None
        if newest.name not in (None, refused.name):
            return None
        for i in run.learn_varying(refused.changed, CHANGES_IN_A_ROW):
            self._note_varying(i)
        return newest if not refused.changed - run.varying else None

    def _note_varying(self, index: int) -> None:
        self.report.note(
            f"the input {self._conditioning_names[index]} changes at every step of a "
            "run: there it is not used to tell one prompt from another"
        )

    def _try(
        self,
        call: PlacedStep,
        weights: ParameterVersion,
        given: Callable[[], Sequence[Fingerprint]],
    ) -> Sequence[Any] | Mismatch:
        """Make the step as the branch's next; or say why it is not."""
        run, branch = call.trajectory, call.branch
        unusable = branch.state.unusable(weights, self.report)
        if unusable:
            return Mismatch(unusable)
        several = len(run.branches) > 1 or call.joins is not None
        if several and call.context.branch is None and not self.ranks:
            changed = clearly_changed(branch, given())
            if changed - run.varying:
                return Mismatch("conditioning", changed)
        return self._step(call)

    def _call(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        place: Place,
        branch: GuidanceBranch,
        time: Time,
    ) -> PlacedStep:
        run = place.run
        if place.fit is not None and not place.leaves:
            run.fitted, run.fits = place.step, fits_by_branch(place)
        known = run.fits.get(branch.index) if run.fitted == place.step else None
        fit = place.fit if place.leaves else known
        return PlacedStep(
            context,
            session,
            arguments,
            run,
            branch,
            place.step,
            time,
            fit=fit,
            leaves=place.leaves,
            joins=place.joins,
        )

    def _step(self, call: PlacedStep) -> Sequence[Any] | Mismatch:
        """Decide, run and record; or say why the call is not the branch's next step."""
        state, history = call.branch.state, call.branch.state.full_steps
        limit, reason = self._limit(call)
        times = call.positions if self._by_timestep else None
        inputs = state.pool(call.arguments, call.step, times)
        signal: Signal | None = None
        full = limit == FULL
        if "probe" in self.graphs:
            live = self._run("probe", inputs)
            inputs.others.extend(live)
            signal = self._read(live[0], call, time=sum(call.time))
            refused = self._refusal(call, signal, history)
            if refused is not None:
                return refused
            full = not (signal.finite and signal.error <= limit)
        done = self._run_step(call, inputs, full=full)
        outputs = done.outputs
        if signal is None:
            *outputs, value = outputs
            signal = Signal.read(value, self._layout.conditioning, sum(call.time))
            refused = self._refusal(call, signal, history)
            if refused is not None:
                if full:  # this branch's history is overwritten: drop it
                    call.trajectory.drop(call.branch)
                return refused
        why = reason if full else self._schedules.reason_to_cache(call.trajectory)
        self._record(call, signal, why, done.history, done.repayment)
        self._remember_returned(call, outputs, done)
        return outputs

    def _refusal(
        self, call: PlacedStep, signal: Signal, full_steps: Sequence[int]
    ) -> Mismatch | None:
        branch, run = call.branch, call.trajectory
        refused = branch.mismatch(signal, full_steps, run.varying)
        if refused is not None:
            return refused._replace(name=call.context.branch)
        guessed = self.follows and not call.context.run_is_known and branch.step >= 0
        if guessed and branch.jumps(signal.change):
            return Mismatch("discontinuity", signal=signal)
        if branch.step >= 0:
            run.changes.clear()
            run.varying &= branch.differing(signal)
        return None

    def _run_step(self, call: PlacedStep, inputs: GraphInputs, *, full: bool) -> Done:
        """Run one graph; a full step with history is predicted, too."""
        if not full:
            return Done(self._run("cached", inputs))
        state = call.branch.state
        predicted = self._run("cached", inputs) if self._measures(call) else None
        history = state.forget()
        outputs = self._run("full", inputs)
        if predicted is None:
            return Done(outputs, history)
        pair = self._known_pair(call.session, call.arguments)
        assert pair is not None
        assert call.positions is not None
        repayment = repay(
            pair,
            self._latents(call.arguments),
            outputs,
            predicted,
            call.debt,
            call.positions[0],
            call.positions[: self._options.nodes],
            corrects=self._options.corrector == "auto",
        )
        return Done(repayment.outputs, history, repayment)

    def _measures(self, call: PlacedStep) -> bool:
        """Whether the prediction of a full step is worth its time."""
        wanted = self._schedules.of(call.trajectory).measures or (
            self._options.corrector == "auto" and call.branch.since_full > 0
        )
        return (
            wanted
            and call.branch.step >= 0
            and bool(call.branch.state.full_steps)
            and call.positions is not None
            and call.debt.fit is not None
            and self._known_pair(call.session, call.arguments) is not None
        )

    def _remember_returned(
        self, call: PlacedStep, outputs: Sequence[Any], done: Done
    ) -> None:
        """Keep what the sampler was given, and what the branch owes after the step."""
        branch, arguments = call.branch, call.arguments
        if done.history is not None:
            repaid = done.repayment
            branch.curvature = None if repaid is None else repaid.curvature
        if call.positions is not None:
            nodes = call.positions[: self._options.nodes]
            branch.debt = call.debt.after(
                call.positions[0], nodes, full=done.history is not None
            )
        sizes, pairs = self._sizes_of(arguments), call.session.pairs
        if sizes not in pairs:
            pairs[sizes] = find_latent_pair(self._latents(arguments), outputs)
        pair = self._known_pair(call.session, arguments)
        if pair is None:
            return
        latent = pair.latent(self._latents(arguments))
        known = branch.returned
        rows = known[0].partners if len(known) == KEPT_OUTPUTS else partners(latent)
        with torch.inference_mode(mode=False):
            new = Returned(
                call.step, latent.clone(), pair.returned(outputs).clone(), rows
            )
        branch.returned = [new, *known][:KEPT_OUTPUTS]

    def _known_pair(
        self, session: Session, arguments: Sequence[Any]
    ) -> LatentPair | None:
        """The latent and its output; none where a sampler sees neither."""
        if self.follows:
            return None
        return session.pairs.get(self._sizes_of(arguments))

    def _latents(self, arguments: Sequence[Any]) -> list[Any]:
        return [arguments[i] for i in self._latents_first]

    def _sizes_of(self, arguments: Sequence[Any]) -> tuple[torch.Size, ...]:
        return tuple([arguments[i].shape for i in self._layout.latents])

    def _run_whole(self, name: str, inputs: GraphInputs) -> Sequence[Any]:
        if "probe" in self.graphs:
            inputs.others.extend(self._run("probe", inputs))
            return self._run(name, inputs)
        return self._run(name, inputs)[:-1]
