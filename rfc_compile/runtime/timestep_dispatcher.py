"""A graph that is given the timestep.

place    which run and branch does the call continue        placement, _lead
decide   full or cached                                     _limit, the probe's error
run      one graph; a full step is predicted, too           _run_step
record   what was decided, what the sampler was given       _record
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rfc_compile.compiler.plan import Plan
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import Signal
from rfc_compile.estimators.step_weights import trend_after
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.conditioning import rule_out
from rfc_compile.runtime.dispatcher import Dispatcher
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.latent_pair import LatentPair, sizes_of
from rfc_compile.runtime.latent_search import looked_for
from rfc_compile.runtime.linked_runs import begin_beside
from rfc_compile.runtime.model_forward import ModelForward
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.place import Place
from rfc_compile.runtime.placement import places
from rfc_compile.runtime.readback import read_time
from rfc_compile.runtime.repayment import Done, repay
from rfc_compile.runtime.returned_outputs import ReturnedOutputs, goes_by_fits
from rfc_compile.runtime.run_fits import fits_by_branch, put_off
from rfc_compile.runtime.run_notes import note_cut, note_unlinked
from rfc_compile.runtime.session import LayerKey, Session
from rfc_compile.runtime.state import BranchState
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Time, Trajectory
from rfc_compile.schedules.base import CACHED, FULL

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input is new until it counts as varying."""

MakeStep = Callable[..., PlacedStep]
"""Places a call in a run, as a branch's step."""


class TimestepDispatcher(Dispatcher):
    """Places calls by the fit of the sampler, and checks their conditioning."""

    timed = True

    def _prepare(self, plan: Plan) -> None:
        super()._prepare(plan)
        inputs, layout = plan.captured.inputs, plan.graphs.layout
        assert inputs.timestep_index is not None
        self._timestep = inputs.timestep_index
        self.follows = self.report.fragment  # a whole model knows the step by itself
        self._conditioning_indices = inputs.conditioning_indices
        self._conditioning_names = inputs.conditioning_names
        as_conditioning = {i: n for n, i in enumerate(inputs.conditioning_indices)}
        self._latents_first = sorted(layout.latents, key=as_conditioning.__contains__)
        self._as_conditioning = [as_conditioning.get(i) for i in self._latents_first]

    def decide_by(self, options: Options) -> None:
        """Follow the schedule of these options from the next run on; graphs stay."""
        super().decide_by(options)
        self._returned = ReturnedOutputs(
            options.nodes,
            corrects=options.corrector == "auto",
            searches=self.ranks is None,
        )

    def _lead(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        time = read_time(arguments[self._timestep])
        latents = self._moved_by_sampler(arguments)
        pair = self._pair(session, latents, time)
        latent = None if pair is None else pair.latent(latents)
        make: MakeStep = partial(
            PlacedStep,
            context,
            session,
            arguments,
            time=time,
            latents=latents,
            pair=pair,
        )
        refused, first = None, None
        own = session.live, context, latent, time, [arguments[i] for i in self._latents]
        for place in places(*own, unseen=self.follows):
            first = first or place
            for branch in place.branches:
                refused = self._rules_out(branch, place, context, weights, arguments)
                if refused is None:
                    result = self._step(self._call(make, context, place, branch))
                    if not isinstance(result, Mismatch):
                        return result
                    refused = result
        if first is not None and refused is not None and first.step > first.run.step:
            again = self._varying(first, refused)
            if again is not None:
                result = self._step(self._call(make, context, first, again))
                if not isinstance(result, Mismatch):
                    return result
        state = self._new_state(arguments, weights)
        return self._begin(make, session, context, state, first, refused)

    def _rules_out(
        self,
        branch: GuidanceBranch,
        place: Place,
        context: CallContext,
        weights: ParameterVersion,
        arguments: Sequence[Any],
    ) -> Mismatch | None:
        """Why a call is not the branch's next step, as far as no graph has to tell."""
        unusable = branch.state.unusable(weights, self.report)
        if unusable:
            return Mismatch(unusable)
        several = len(place.run.branches) > 1 or place.joins is not None
        if not several or context.branch is not None or self.ranks is not None:
            return None
        given = [arguments[i] for i in self._conditioning_indices]
        return rule_out(branch, given, place.run.varying)

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
        make: MakeStep,
        session: Session,
        context: CallContext,
        state: BranchState,
        place: Place | None,
        refused: Mismatch | None,
    ) -> Sequence[Any]:
        """A fresh branch, of the run that the call continues or of a new one."""
        reason = None if refused is None else refused.reason
        if place is not None:
            place.run.make_room()
        if place is None or place.leaves or place.run.full_up:
            if session.runs and place is None:
                reason = "new_run"
                if not context.run_is_known:
                    note_unlinked(session.runs, self.report)
            place = Place(session.begin(context), 0, ())
        run = place.run
        if place.restarts:
            run.restart()
        run.in_parts |= place.part
        fresh = GuidanceBranch(run.free_index, state, place.step, name=context.branch)
        call = self._call(make, context, place, fresh)
        call.refused = reason
        if run.is_next and not run.times:
            note_cut(session.runs, call.time, self.report)
        if not run.times and self._returned.searches:
            begin_beside(call)
        result = self._step(call)
        assert not isinstance(result, Mismatch), "a fresh branch accepts every call"
        return result

    def _varying(self, place: Place, refused: Mismatch) -> GuidanceBranch | None:
        """The branch to go on with where only what changes at every step is new."""
        run, newest = place.run, place.run.newest_of(refused.name)
        if not refused.changed or newest is None:
            return None
        given = newest if refused.signal is None else refused.signal
        if newest.switches(given.conditioning, refused.changed):
            return None
        return newest if self._all_vary(run, refused.changed) else None

    def _all_vary(self, run: Trajectory, changed: frozenset[int]) -> bool:
        """Whether all inputs that are new at this step are so at every one."""
        for i in run.learn_varying(changed, CHANGES_IN_A_ROW):
            self.report.note(
                f"the input {self._conditioning_names[i]} changes at every step of a "
                "run: there it is not used to tell one prompt from another"
            )
        return not changed - run.varying

    def _call(
        self, make: MakeStep, context: CallContext, place: Place, branch: GuidanceBranch
    ) -> PlacedStep:
        run, step, leaves = place.run, place.step, place.leaves
        if place.same_latent:
            run.same_latent = step
        newest = run.newest  # None where another thread has dropped it
        if place.part or place.fit is None or leaves or newest is None:
            breaks = place.part or place.restarts or newest is None
            late = step > run.step and context.run_is_known and not breaks
            sees = not self.follows or (newest is not None and newest.returned)
            corrects = self._returned.corrects
            if late and sees and (corrects or goes_by_fits(self._schedule(run), run)):
                put_off(run, step)
        else:
            run.fitted = step
            run.fits = fits_by_branch(run, newest, newest.step, place.fit)
        known = run.fits.get(branch.index) if run.fitted == step else None
        call = make(
            trajectory=run,
            branch=branch,
            step=step,
            fit=place.fit if leaves or place.part else known,
            leaves=leaves,
            joins=place.joins,
            put_off=bool(run.unfitted) and run.unfitted[-1][0] == step,
        )
        if step == 1 and self._schedule(run).by_noise:
            call.learn_process()
        return call

    def _step(self, call: PlacedStep) -> Sequence[Any] | Mismatch:
        """Decide, run and record; or say why the call is not the branch's next step."""
        state, history = call.branch.state, call.branch.state.full_steps
        limit, reason = self._limit(call)
        times = call.positions if self._by_timestep else None
        inputs = state.pool(call.arguments, call.step, times)
        signal, full = None, limit == FULL
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
            signal = Signal.read(value, self._conditioning, sum(call.time))
            refused = self._refusal(call, signal, history)
            if refused is not None:
                if full:  # this branch's history is overwritten: drop it
                    call.trajectory.drop(call.branch)
                return refused
            if self.ranks is None and FULL < limit < CACHED and signal.error > limit:
                full, done = True, self._run_step(call, inputs, full=True)
                *outputs, _ = done.outputs
        schedule = self._schedule(call.trajectory)
        why = reason if full else schedule.reason_to_cache
        self._record(call, signal, why, done.history, done.repayment)
        if not self.follows:
            self._returned.remember(call, outputs, done, schedule)
        elif self.report.fragment:
            self._returned.remember_later(call, done, schedule)
        return outputs

    def _refusal(
        self, call: PlacedStep, signal: Signal, full_steps: Sequence[int]
    ) -> Mismatch | None:
        branch, run = call.branch, call.trajectory
        refused = branch.mismatch(signal, full_steps, run.varying)
        if refused is not None:
            return refused._replace(name=call.context.branch)
        if branch.leaps(signal.change) and call.is_replaced:
            return Mismatch("discontinuity", signal=signal)
        unseen = self.follows and call.fit is None
        guessed = unseen and not call.context.run_is_known and branch.step >= 0
        if guessed and branch.jumps(signal.change):
            return Mismatch("discontinuity", signal=signal)
        if branch.step >= 0:
            run.changes.clear()
            if run.varying:
                run.varying &= branch.differing(signal)
        return None

    def _run_step(self, call: PlacedStep, inputs: GraphInputs, *, full: bool) -> Done:
        """Run one graph; a full step with history is predicted, too."""
        if not full:
            return Done(self._run("cached", inputs))
        predicted = self._run("cached", inputs) if self._measures(call) else None
        history = call.branch.state.forget()
        outputs = self._run("full", inputs)
        if predicted is None:
            return Done(outputs, history)
        assert call.pair is not None
        assert call.positions is not None
        repayment = repay(
            call.pair,
            call.latents,
            outputs,
            call.pair.returned(predicted),
            call.debt,
            call.positions[0],
            call.positions[: self._nodes],
            corrects=self._options.corrector == "auto",
        )
        if history:
            error = repayment.guided_error * call.weight_of_error(history)
            call.branch.state.trend = trend_after(error)
        return Done(repayment.outputs, history, repayment)

    def _measures(self, call: PlacedStep) -> bool:
        """Whether the prediction of a full step is worth its time."""
        branch = call.branch
        if self.follows:
            return False
        if call.pair is None or call.positions is None or not branch.state.full_steps:
            return False
        owes = self._options.corrector == "auto" and branch.since_full > 0
        schedule = self._schedule(call.trajectory)
        if not (owes or schedule.measures) or branch.step < 0:
            return False
        alone = self.ranks is None and schedule.options.min_psnr is None
        foretold = alone and schedule.measures and call.trajectory.declared
        return call.debt.fit is not None or foretold

    def _pair(
        self, session: Session, latents: Sequence[Any], time: Time
    ) -> LatentPair | None:
        """The latent and its output; none where a sampler sees neither."""
        if self.follows and not self.report.fragment:
            return None
        pair = session.pairs.get(sizes_of(latents))
        if self._returned.searches and not (pair is not None and pair.confirmed):
            known = session, latents, self._as_conditioning, time
            pair = looked_for(*known, stream=self.follows)
        seen = pair is None or not self.follows or pair.is_of_sampler(latents)
        return pair if seen else None

    def _moved_by_sampler(self, arguments: Sequence[Any]) -> list[Any]:
        """The arguments that may be the sampler's latent, likeliest first."""
        return [arguments[i] for i in self._latents_first]

    def _run_whole(self, name: str, inputs: GraphInputs) -> Sequence[Any]:
        if "probe" in self.graphs:
            inputs.others.extend(self._run("probe", inputs))
            return self._run(name, inputs)
        return self._run(name, inputs)[:-1]
