"""Every sample of a batch is full or cached by itself (``per_sample=True``).

    call of n rows -> which sample does each row continue?  (matching)
                   -> probe of all rows -> n errors -> full or cached, each by its own
                   -> full graph on the rows that need it, cached graph on the others

A sample is a trajectory with one branch and with state for a batch of one, placed by
its row's own timestep, conditioning and latent. So rows may join, leave and change
places between calls; guidance by a doubled batch is rows like any.

The graphs must run for any part of a batch. Dynamo has to give them a symbol for its
size (analysis.batch_dimension); whether samples are independent is tested at the
first batch (independence), and if not, it runs uncached. A batch of one has a graph of
its own, which takes the samples over and gives them back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rfc_compile.compiler.plan import Plan
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import NOT_FINITE
from rfc_compile.runtime.call_context import CallContext, current_context
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import Mismatch
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.per_sample.independence import MIXES, smallest_batch
from rfc_compile.runtime.per_sample.matching import (
    Continuation,
    Sample,
    begun,
    by_fit,
    by_name,
)
from rfc_compile.runtime.per_sample.placed_row import (
    Placed,
    note_partners,
    repay_row,
    together,
)
from rfc_compile.runtime.per_sample.row_reading import Row, look_at
from rfc_compile.runtime.per_sample.rows import (
    pick,
    put,
    row_of,
    stacked,
    write_back,
    written_slots,
)
from rfc_compile.runtime.repayment import Done
from rfc_compile.runtime.run_notes import note_end
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.timestep_dispatcher import TimestepDispatcher
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.runtime.uncached import note_call_with_regions
from rfc_compile.schedules.decision import Decision


class SampleDispatcher(TimestepDispatcher):
    """Places every row of a call, and decides about each."""

    def _prepare(self, plan: Plan) -> None:
        super()._prepare(plan)
        assert plan.batch is not None
        batch = self._batch = plan.batch
        self._written = written_slots(plan.graphs.layout)
        self._smallest = 0 if batch.rows else 1  # 0 before the model is tried out
        self._mixes = False

    def decide_by(self, options: Options) -> None:
        """Follow the schedule of these options from the next run on; graphs stay."""
        super().decide_by(options)
        # a row alone does not show whose outputs are mixed
        self._returned.searches = False

    def _forward(self, arguments: Sequence[Any]) -> Sequence[Any]:
        note_call_with_regions()
        context = current_context()
        static = self._static(arguments)
        one = pick(self._batch, arguments, [0])  # whatever the size of the batch
        key = self._sessions.key(static, one)
        weights = self._weights.read(static, arguments)
        session = self._session_of(context, key, one)
        with session.lock:  # threads that share a name share its samples
            return self._lead(session, context, arguments, weights)

    def _lead(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        for sample in session.samples.gone(session.calls):
            self._leave(session, sample)
        rows = look_at(self._batch, self._timestep, arguments)
        contexts = context.by_row(len(rows))
        if not self._smallest and not self._tried_out(arguments, rows):
            state = self._new_state(arguments, weights)
            others = [self._equal_weights(0.0, len(rows))]
            return self._run_whole("full", GraphInputs(arguments, state.slots, others))
        found = [
            self._learned(one, rows[one.row])
            for one in self._continuations(session, context, arguments, rows, weights)
        ]
        placed = []
        for i, row in enumerate(zip(contexts, rows, found, strict=True)):
            own = pick(self._batch, arguments, [i])
            placed.append(self._place(session, own, weights, *row))
        outputs = self._run_placed(arguments, placed)
        note_partners([one.sample for one in placed], session.samples.under_way)
        for one in placed:
            session.samples.note(one.sample, session.calls)
            if one.sample.trajectory.complete:
                self._leave(session, one.sample)
        newest = [one.sample.trajectory.decisions[-1] for one in placed]
        telling = min(newest, key=lambda d: (d.full, d.reason != "weights"))
        self._changes_of_weights.note(telling)  # once, however many rows begin anew
        return outputs

    def _look_for_layers(self, *_: Any) -> None:
        """Samples are identified by what the sampler was given: of whole models."""

    def _leave(self, session: Session, sample: Sample) -> None:
        note_end(sample.trajectory, self.report)
        session.samples.leave(sample)

    def _continuations(
        self,
        session: Session,
        context: CallContext,
        arguments: Sequence[Any],
        rows: Sequence[Row],
        weights: ParameterVersion,
    ) -> list[Continuation]:
        """What the rows of a call are taken for."""
        one = self._moved_by_sampler(pick(self._batch, arguments, [0]))
        pair = self._pair(session, one, (rows[0].timestep,))
        moved = self._moved_by_sampler(arguments)
        latents = None if pair is None else pair.latent(moved)
        refuse = partial(self._mismatch, weights=weights)
        known = session.samples.under_way
        known = [x for x in known if x.trajectory.run == context.run]
        if context.rows:
            return by_name(known, context.by_row(len(rows)), rows, latents, refuse)
        if latents is None:
            return [Continuation(row) for row in range(len(rows))]
        known = [x for x in known if x.branch.name in (None, context.branch)]
        return by_fit(known, rows, latents, refuse)

    def _mismatch(
        self, sample: Sample, row: Row, *, weights: ParameterVersion
    ) -> Mismatch | None:
        """Why a row cannot go on with what a sample keeps."""
        branch, run = sample.branch, sample.trajectory
        unusable = branch.state.unusable(weights, self.report)
        if unusable is not None:
            return Mismatch(unusable)
        return branch.mismatch(row.signal, branch.state.full_steps, run.varying)

    def _learned(self, found: Continuation, row: Row) -> Continuation:
        """Without what is new at every step of the sample that a row continues."""
        if found.sample is None:
            return found
        run, refused = found.sample.trajectory, found.mismatch
        if refused is None:
            run.changes.clear()
            run.varying &= found.sample.branch.differing(row.signal)
            return found
        vary = self._all_vary(run, refused.changed) and bool(refused.changed)
        return replace(found, mismatch=None) if vary else found

    def _place(
        self,
        session: Session,
        own: Sequence[Any],
        weights: ParameterVersion,
        context: CallContext,
        row: Row,
        continuation: Continuation,
    ) -> Placed:
        latents = self._moved_by_sampler(own)
        sample, mismatch = continuation.sample, continuation.mismatch
        if sample is None or mismatch is not None:
            sample = begun(context, self._new_state(own, weights), sample)
        call = PlacedStep(
            context,
            session,
            own,
            sample.trajectory,
            sample.branch,
            sample.trajectory.step + 1,
            (row.timestep,),
            None if mismatch is None else mismatch.reason,
            None if mismatch is not None else continuation.fit,
            latents=latents,
            pair=self._pair(session, latents, (row.timestep,)),
        )
        if call.step == 1 and self._schedule(call.trajectory).by_noise:
            call.learn_process()
        return Placed(sample, call, row.signal)

    def _run_placed(
        self, arguments: Sequence[Any], placed: Sequence[Placed]
    ) -> Sequence[Any]:
        """Probe all rows, decide about each, run the rest of the forward."""
        inputs = self._probe(arguments, placed)
        errors = inputs.others[1][: len(placed)].tolist()
        decided = together(map(self._decide, placed, errors))
        groups: dict[str, list[int]] = {}
        for i, one in enumerate(decided):
            groups.setdefault("full" if one.full else "cached", []).append(i)
        if len(groups) == 1:
            (name,) = groups
            return self._go_on(name, inputs, decided, count=len(decided))
        outputs: list[Any] | None = None
        for name, chosen in groups.items():
            padded = [*chosen, *chosen[:1] * (self._smallest - len(chosen))]
            rows = [decided[i] for i in padded]
            inputs = self._probe(pick(self._batch, arguments, padded), rows)
            results = self._go_on(name, inputs, rows, count=len(chosen))
            outputs = put(outputs, results, chosen, len(placed))
        assert outputs is not None
        return outputs

    def _probe(self, arguments: Sequence[Any], placed: Sequence[Placed]) -> GraphInputs:
        """The probe's results, behind the coefficients, beside the state of rows."""
        slots = stacked([one.call.branch.state for one in placed])
        weights = [
            one.call.branch.state.weights(
                one.call.step, one.call.positions if self._by_timestep else None
            )
            for one in placed
        ]
        inputs = GraphInputs(arguments, slots, [torch.stack(weights, dim=-1)])
        inputs.others.extend(self._run("probe", inputs))
        return inputs

    def _decide(self, one: Placed, error: float) -> Placed:
        """The row with its signal, whether it is full, and the reason."""
        finite = one.signal.finite and math.isfinite(error)
        signal = replace(one.signal, errors=(error,), finite=finite)
        limit, reason = self._limit(one.call)
        full = not (finite and error <= limit)
        if not full:
            reason = self._schedule(one.call.trajectory).reason_to_cache
        return replace(one, signal=signal, reason=reason, full=full)

    def _go_on(
        self, name: str, inputs: GraphInputs, rows: Sequence[Placed], *, count: int
    ) -> Sequence[Any]:
        """Run the rest of a forward behind its probe, and record it, row by row.

        The rows beyond ``count`` only fill the batch up.
        """
        placed, full = rows[:count], name == "full"
        measured = [full and self._measures(one.call) for one in placed]
        predicted = self._run("cached", inputs) if any(measured) else None
        states = [one.call.branch.state for one in placed]
        histories = [state.forget() if full else None for state in states]
        outputs = list(self._run(name, inputs))
        if full:
            write_back(states, inputs.slots, self._written)
        whole = list(outputs)
        for i, (one, history) in enumerate(zip(placed, histories, strict=True)):
            repayment = None
            if predicted is not None and measured[i]:
                results = row_of(whole, i), row_of(predicted, i)
                repayment = repay_row(one.call, results, self._options)
                outputs = put(outputs, repayment.outputs, [i], len(rows))
            self._record(one.call, one.signal, one.reason, history, repayment)
            done = Done(outputs, history, repayment)
            schedule = self._schedule(one.call.trajectory)
            self._returned.remember(one.call, row_of(outputs, i), done, schedule)
        return outputs

    def _announce(
        self, call: PlacedStep, run: Trajectory, decision: Decision, *, keep: bool
    ) -> None:
        """No other graph follows a row."""

    def _tried_out(self, arguments: Sequence[Any], rows: Sequence[Row]) -> bool:
        """Whether samples are independent, tested at the first finite batch."""
        if self._mixes:
            return False
        usable = [i for i, row in enumerate(rows) if row.finite]
        if len(usable) < 2:
            self.report.fall_back(NOT_FINITE)
            return False
        given = pick(self._batch, arguments, usable)
        smallest = smallest_batch(self._trial, self._batch, given)
        if smallest is None:
            self._mixes = True
            self.report.fall_back(MIXES)
            return False
        self._smallest = smallest
        return True

    def _trial(self, arguments: Sequence[Any], count: int) -> list[Tensor]:
        """What a full step and the cached one after it give, and what they keep."""
        state = self._new_state(arguments, ())
        inputs = GraphInputs(arguments, state.slots, [self._equal_weights(1.0, count)])
        results = [*self._run_whole("full", inputs)]
        results = [value.clone() for value in results if isinstance(value, Tensor)]
        state.record(0, ())
        inputs = GraphInputs(arguments, state.slots, [self._equal_weights(1.0, count)])
        results += [
            x for x in self._run_whole("cached", inputs) if isinstance(x, Tensor)
        ]
        return [*results, *state.slots]

    def _equal_weights(self, value: float, count: int) -> Tensor:
        """Coefficients of so many rows, all of one value."""
        like = self._layout.weights
        shape = *map(int, like.shape[:2]), count
        return torch.full(shape, value, device=like.device)
