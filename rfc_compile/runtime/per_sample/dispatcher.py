"""Every sample of a batch is full or cached by itself (``per_sample=True``).

    call of n rows -> which sample does each row continue?  (rfc_compile.samples)
                   -> probe of all rows -> n errors -> full or cached, each by its own
                   -> full graph on the rows that need it, cached graph on the others

A sample is a trajectory with one branch and with state for a batch of one, placed by
its row's own timestep, conditioning and latent. A call takes the state of its rows
together, and every sample gets its own back; the step weights differ from row to row.
So rows may join, leave and change places between calls, and what a sample becomes does
not depend on what else is in the batch. Guidance by a doubled batch is rows like any.

The graphs must run for any part of a batch. Dynamo has to give them a symbol for its
size (rfc_compile.passes.batch), and whether the model keeps its samples apart is tried
out at the first batch (rfc_compile.mixing). What fails runs uncached, with a warning.
A batch of one has a graph of its own, which takes the samples over and gives them back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.config.options import Options
from rfc_compile.estimators.step_signal import NOT_FINITE, Signal
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.analysis.batch_dimension import Batch
from rfc_compile.passes.analysis.input_roles import ForwardInputs
from rfc_compile.passes.rewrites.specialize import Specialized
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.call_context import CallContext, current_context
from rfc_compile.runtime.graph_inputs import GraphInputs
from rfc_compile.runtime.guidance_branch import GuidanceBranch, Mismatch
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.runtime.per_sample.independence import MIXES, smallest_batch
from rfc_compile.runtime.per_sample.matching import (
    DOUBTFUL,
    Continuation,
    Pair,
    Sample,
    continuations,
    doubtful,
)
from rfc_compile.runtime.per_sample.row_reading import Row, farthest, look_at
from rfc_compile.runtime.per_sample.rows import (
    pick,
    put,
    stacked,
    write_back,
    written_slots,
)
from rfc_compile.runtime.ranks import Ranks
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.timestep_dispatcher import ByTimestep
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.runtime.uncached import note_call_with_regions
from rfc_compile.schedules.decision import Decision


@dataclass(frozen=True)
class Placed:
    """A row that is taken for a step of a sample.

    Attributes:
        sample: the sample.
        call: its call, with the arguments of its row.
        signal: of the step; its error is known behind the probe.
        reason: why it is full or cached, once that is decided.

    """

    sample: Sample
    call: PlacedStep
    signal: Signal
    reason: str = ""


class BySample(ByTimestep):
    """Places every row of a call, and decides about each."""

    def __init__(
        self,
        specialized: Specialized,
        graphs: dict[str, LazyGraph],
        layout: StateLayout,
        options: Options,
        report: GraphReport,
        inputs: ForwardInputs,
        ranks: Ranks | None = None,
        *,
        batch: Batch,
    ) -> None:
        super().__init__(specialized, graphs, layout, options, report, inputs, ranks)
        self._batch = batch
        self._written = written_slots(layout)
        self._smallest = 0 if batch.rows else 1  # 0 before the model is tried out
        self._mixes = False

    def _forward(self, arguments: Sequence[Any]) -> Sequence[Any]:
        note_call_with_regions()
        caller = current_context()
        static = self._static(arguments)
        one = pick(self._batch, arguments, [0])  # whatever the size of the batch
        key = self._sessions.key(static, one)
        weights = self._weights.read(static, arguments)
        session = self._session_of(caller, key, one)
        with session.lock:  # threads that share a name share its samples
            return self._lead(session, caller, arguments, weights)

    def _lead(
        self,
        session: Session,
        caller: CallContext,
        arguments: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sequence[Any]:
        for sample in session.samples.gone(session.calls):
            self._leave(session, sample)
        rows = look_at(self._batch, self._timestep, arguments)
        if not self._smallest and not self._tried_out(arguments, rows):
            state = self._new_state(arguments, weights)
            others = [self._equal_weights(0.0, len(rows))]
            return self._run_whole("full", GraphInputs(arguments, state.slots, others))
        found = self._continuations(session, caller, arguments, rows, weights)
        placed = []
        for i, (row, continuation) in enumerate(zip(rows, found, strict=True)):
            own = pick(self._batch, arguments, [i])
            sample = self._sample(continuation, caller, own, weights)
            placed.append(self._place(session, caller, own, row, continuation, sample))
        outputs = self._run_placed(arguments, placed)
        for one in placed:
            session.samples.note(one.sample, session.calls)
            if one.sample.trajectory.complete:
                self._leave(session, one.sample)
        newest = [one.sample.trajectory.decisions[-1] for one in placed]
        telling = min(newest, key=lambda d: (d.full, d.reason != "weights"))
        self._changes_of_weights.note(telling)  # once, however many rows begin anew
        return outputs

    def _leave(self, session: Session, sample: Sample) -> None:
        session.samples.leave(sample)
        session.learn_from(sample.trajectory)

    def _continuations(
        self,
        session: Session,
        caller: CallContext,
        arguments: Sequence[Any],
        rows: Sequence[Row],
        weights: ParameterVersion,
    ) -> list[Continuation]:
        """What the rows of a call are taken for."""
        candidates = [
            sample
            for sample in session.samples.under_way
            if sample.trajectory.run == caller.run
            and sample.branch.name in (None, caller.branch)
            and any(sample.trajectory.place(r.timestep) == "next" for r in rows)
        ]
        latents = [arguments[i] for i in self._batch.latents]
        distances = read_all(
            [
                farthest(latents, sample.branch.state.last_latents(len(latents)))
                for sample in candidates
            ]
        )
        pairs = [
            Pair(i, sample, row.timestep, distance, mismatch)
            for sample, away in zip(candidates, distances, strict=True)
            for i, (row, distance) in enumerate(zip(rows, away, strict=True))
            if math.isfinite(distance)
            and sample.trajectory.place(row.timestep) == "next"
            and self._may_be(session, sample, row, distance)
            for mismatch in [self._mismatch(session, sample, row, distance, weights)]
        ]
        unclear = doubtful(pairs)
        if unclear:
            self.report.fall_back(DOUBTFUL)
            pairs = [pair for pair in pairs if pair.row not in unclear]
        found = continuations(len(rows), pairs)
        mismatches = [x.mismatch for x in found if x.mismatch is not None]
        changed = [mismatch.changed for mismatch in mismatches if mismatch.changed]
        if changed:  # one lesson, of what all of these rows have changed
            common = frozenset.intersection(*changed)
            self._learn_varying(session, Mismatch("conditioning", common))
        return found

    def _may_be(
        self, session: Session, sample: Sample, row: Row, change: float
    ) -> bool:
        """Whether a row is of a sample's image, which then may have been disturbed.

        Another latent and another conditioning are another image.
        """
        another = sample.branch.differing(row.signal(change)) - session.varying
        return not (another and sample.branch.jumps(change))

    def _mismatch(
        self,
        session: Session,
        sample: Sample,
        row: Row,
        change: float,
        weights: ParameterVersion,
    ) -> Mismatch | None:
        """Why a row is not a sample's next step."""
        branch = sample.branch
        unusable = branch.state.unusable(weights, self.report)
        if unusable is not None:
            return Mismatch(unusable)
        full_steps = branch.state.full_steps
        return branch.mismatch(row.signal(change), full_steps, session.varying)

    def _sample(
        self,
        continuation: Continuation,
        caller: CallContext,
        own: Sequence[Any],
        weights: ParameterVersion,
    ) -> Sample:
        if continuation.sample is not None and continuation.mismatch is None:
            return continuation.sample
        state = self._new_state(own, weights)
        branch = GuidanceBranch(0, state, first_step=0, name=caller.branch)
        trajectory = Trajectory(
            caller.owner, caller.run, caller.num_steps, caller.announced, [branch]
        )
        return Sample(trajectory)

    def _place(
        self,
        session: Session,
        caller: CallContext,
        own: Sequence[Any],
        row: Row,
        continuation: Continuation,
        sample: Sample,
    ) -> Placed:
        mismatch = continuation.mismatch
        change = row.change if sample.number < 0 else continuation.distance
        call = PlacedStep(
            caller,
            session,
            own,
            sample.trajectory,
            sample.branch,
            sample.trajectory.step + 1,
            row.timestep,
            None if mismatch is None else mismatch.reason,
        )
        return Placed(sample, call, row.signal(change))

    def _run_placed(
        self, arguments: Sequence[Any], placed: Sequence[Placed]
    ) -> Sequence[Any]:
        """Probe all rows, decide about each, run the rest of the forward."""
        pool = self._probe(arguments, placed)
        errors = pool.others[1][: len(placed)].tolist()
        groups: dict[str, list[int]] = {}
        decided = []
        for i, (one, error) in enumerate(zip(placed, errors, strict=True)):
            name, one = self._decide(one, error)
            decided.append(one)
            groups.setdefault(name, []).append(i)
        if len(groups) == 1:
            (name,) = groups
            return self._go_on(name, pool, decided, count=len(decided))
        outputs: list[Any] | None = None
        for name, chosen in groups.items():
            padded = [*chosen, *chosen[:1] * (self._smallest - len(chosen))]
            rows = [decided[i] for i in padded]
            pool = self._probe(pick(self._batch, arguments, padded), rows)
            results = self._go_on(name, pool, rows, count=len(chosen))
            outputs = put(outputs, results, chosen, len(placed))
        assert outputs is not None
        return outputs

    def _probe(self, arguments: Sequence[Any], placed: Sequence[Placed]) -> GraphInputs:
        """The probe's results, behind the step weights, beside the state of rows."""
        slots = stacked([one.call.branch.state for one in placed])
        weights = [one.call.branch.state.weights(one.call.step) for one in placed]
        pool = GraphInputs(arguments, slots, [torch.stack(weights, dim=-1)])
        pool.others.extend(self._run("probe", pool))
        return pool

    def _decide(self, one: Placed, error: float) -> tuple[str, Placed]:
        """The graph that a row goes on in, and the row with its signal and reason."""
        finite = one.signal.finite and math.isfinite(error)
        signal = replace(one.signal, errors=(error,), finite=finite)
        limit, reason = self._limit(one.call)
        if finite and self._statistic(one.call.branch, signal) <= limit:
            return "cached", replace(one, signal=signal, reason=self._cached_reason)
        return "full", replace(one, signal=signal, reason=reason)

    def _go_on(
        self, name: str, pool: GraphInputs, rows: Sequence[Placed], *, count: int
    ) -> Sequence[Any]:
        """Run the rest of a forward behind its probe, and record it, row by row.

        The rows beyond ``count`` only fill the batch up.
        """
        calls = [one.call for one in rows]
        weights = [call.branch.state.weights(call.step, call.levels) for call in calls]
        pool.others[0] = torch.stack(weights, dim=-1)
        placed, full = rows[:count], name == "full"
        states = [one.call.branch.state for one in placed]
        histories = [state.forget() if full else None for state in states]
        outputs = self._run(name, pool)
        if full:
            write_back(states, pool.slots, self._written)
        for one, history in zip(placed, histories, strict=True):
            self._accept(one.call, one.signal, one.reason, history)
        return outputs

    def _announce(
        self,
        call: PlacedStep,
        trajectory: Trajectory,
        decision: Decision,
        *,
        keep: bool,
    ) -> None:
        """No other graph follows a row."""

    def _tried_out(self, arguments: Sequence[Any], rows: Sequence[Row]) -> bool:
        """Whether the model keeps samples apart, tried out at the first whole batch."""
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
        pool = GraphInputs(arguments, state.slots, [self._equal_weights(1.0, count)])
        results = [*self._run_whole("full", pool)]
        results = [value.clone() for value in results if isinstance(value, Tensor)]
        state.record(0, ())
        pool = GraphInputs(arguments, state.slots, [self._equal_weights(1.0, count)])
        results += [x for x in self._run_whole("cached", pool) if isinstance(x, Tensor)]
        return [*results, *state.slots]

    def _equal_weights(self, value: float, count: int) -> Tensor:
        """Step weights of so many rows, all of one value."""
        like = self._layout.weights
        shape = *map(int, like.shape[:2]), count
        return torch.full(shape, value, device=like.device)
