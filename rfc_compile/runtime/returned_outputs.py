"""What a step returned to the sampler is kept for the fits of the next ones.

    the forward is one graph     right after the step
    it is broken into several    when the graph has run that returns the model's output
                                 (``model_forward``)

In a broken forward no graph predicts the model's output: there the outputs of the last
full steps, extrapolated, stand for the prediction that a full step is compared with.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfc_compile.dynamo_frames import is_passed
from rfc_compile.runtime import model_forward
from rfc_compile.runtime.guidance_branch import (
    KEPT_OUTPUTS,
    GuidanceBranch,
    Returned,
)
from rfc_compile.runtime.latent_pair import (
    LatentPair,
    copies_of_tensors,
    partners,
    sizes_of,
)
from rfc_compile.runtime.latent_search import SEARCHED_STEPS, guessed, seen
from rfc_compile.runtime.linked_runs import LINKED_STEPS, link_runs, outputs_to_keep
from rfc_compile.runtime.repayment import Done, Repayment, repay
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Trajectory
from rfc_compile.schedules.base import Schedule


class Awaited(NamedTuple):
    """A call of the leading graph, until the forward's output is known.

    ``passed`` says of each of its latents whether the caller of the model passes it: of
    the others only a confirmed one is the sampler's and no stream within the forward.
    """

    call: PlacedStep
    done: Done
    schedule: Schedule
    passed: Sequence[bool]


class ReturnedOutputs:
    """Keeps what the steps of one graph's calls returned.

    Attributes:
        nodes: full steps that predictions go through.
        corrects: whether full steps repay.
        searches: whether the latent is looked for, and runs of other graphs.
    """

    def __init__(self, nodes: int, *, corrects: bool, searches: bool) -> None:
        self.nodes, self.corrects, self.searches = nodes, corrects, searches

    def remember(
        self, call: PlacedStep, outputs: Sequence[Any], done: Done, schedule: Schedule
    ) -> None:
        """Keep what the sampler was given, and what the branch owes after the step."""
        branch, full = call.branch, done.history is not None
        if full:
            repaid = done.repayment
            branch.curvature = None if repaid is None else repaid.curvature
        if call.pair is None or not call.pair.confirmed:
            call.pair = guessed(call.session, call.latents, outputs)
            if self.searches:
                branch.seen = seen(call.step, call.latents, outputs)
        if call.pair is None:
            return
        run = call.trajectory
        tracks = self.corrects or goes_by_fits(schedule, run)
        if call.positions is not None and tracks:
            time, *_ = nodes = call.positions[: self.nodes]
            if call.put_off and not full:
                branch.pending.append((call.step, time, call.follows))
            else:
                branch.debt = call.debt.after(time, nodes, full=full)
        latent, known = call.latent, branch.returned
        rows = known[0].partners if len(known) >= KEPT_OUTPUTS else partners(latent)
        with torch.inference_mode(mode=False):
            new = Returned(
                call.step, latent.clone(), call.pair.returned(outputs).clone(), rows
            )
        kept = KEPT_OUTPUTS + len(run.unfitted)
        branch.returned = [new, *known][: outputs_to_keep(run) if run.linked else kept]
        if call.step <= LINKED_STEPS and self.searches:
            link_runs(call.session, branch)

    def remember_later(self, call: PlacedStep, done: Done, schedule: Schedule) -> None:
        """The same, when the graph has run that returns the model's output."""
        forward = model_forward.running(call.context)
        if forward is None or not self.searches:
            return
        if call.pair is None and call.step >= SEARCHED_STEPS:
            return
        passed = list(map(is_passed, call.latents))
        call.latents = copies_of_tensors(call.latents)
        call.branch.awaited = Awaited(call, done, schedule, passed)
        answered = partial(self._answered, weakref.ref(call.branch))
        forward.expect(call.latents, call.session.answered_by, answered)

    def _answered(
        self,
        of: weakref.ref[GuidanceBranch],
        graph: Hashable,
        outputs: Sequence[Any],
        *,
        over: bool,
    ) -> Sequence[Any]:
        """A full step is corrected; returns what the caller is given.

        ``over`` says that the caller has been given the outputs already.
        """
        branch = of()
        awaited = None if branch is None else branch.awaited
        if branch is None or not isinstance(awaited, Awaited):
            return outputs  # its run has ended
        call, done, schedule, passed = awaited
        session, branch.awaited = call.session, None
        with session.lock:
            if session.answered_by not in (None, graph):
                # the outputs of another one may stand at other places
                session.pairs.pop(sizes_of(call.latents), None)
                branch.returned, branch.seen, branch.curvature = [], None, None
                call.pair = None
            session.answered_by = graph
            if graph is None:
                return outputs
            if call.pair is None or not call.pair.confirmed:
                call.pair = guessed(session, call.latents, outputs)
            pair = call.pair
            if pair is not None and not (pair.confirmed or passed[pair.index]):
                branch.seen = seen(call.step, call.latents, outputs)
                return outputs
            if done.history is not None and pair is not None:
                done = self._measured(awaited, pair, outputs, over=over)
                outputs = outputs if done.repayment is None else done.outputs
            self.remember(call, outputs, done, schedule)
            return outputs

    def _measured(
        self, awaited: Awaited, pair: LatentPair, outputs: Sequence[Any], *, over: bool
    ) -> Done:
        """A full step with the error of its prediction, which it repays if it can."""
        call, done, schedule, _ = awaited
        exact = pair.returned(outputs).clone()
        corrects = self.corrects and pair.confirmed and not over
        repayment = self._repayment(call, outputs, schedule, corrects)
        if call.positions is not None:
            kept = [(call.positions[0], exact), *call.branch.kept_full]
            call.branch.kept_full = kept[: self.nodes]
        if repayment is None:
            return done
        _record(call, repayment)
        return replace(done, outputs=repayment.outputs, repayment=repayment)

    def _repayment(
        self,
        call: PlacedStep,
        outputs: Sequence[Any],
        schedule: Schedule,
        corrects: bool,
    ) -> Repayment | None:
        """The prediction is that of the last full steps' outputs, extrapolated."""
        if call.positions is None or call.pair is None:
            return None
        debt, time = call.debt, call.positions[0]
        foretold = call.trajectory.declared and schedule.options.min_psnr is None
        if debt.fit is None and not foretold:
            return None
        output = call.pair.returned(outputs)
        guess = extrapolated(call.branch, debt.nodes, time, output)
        if guess is None:
            return None
        return repay(
            call.pair,
            call.latents,
            outputs,
            guess,
            debt,
            time,
            call.positions[: self.nodes],
            corrects=corrects,
        )


def _record(call: PlacedStep, repayment: Repayment) -> None:
    """The decision was recorded before the error was known."""
    decisions = call.trajectory.decisions
    for i, made in reversed([*enumerate(decisions)]):
        if (made.step, made.branch) == (call.step, call.branch.index):
            decisions[i] = replace(
                made,
                true_error=repayment.true_error,
                debt=repayment.debt,
                repaid=repayment.repaid,
            )
            return


def goes_by_fits(schedule: Schedule, run: Trajectory) -> bool:
    """Whether a schedule asks how a run's latents follow from its outputs."""
    return schedule.measures or (schedule.by_noise and run.step < 1)


def extrapolated(
    branch: GuidanceBranch, nodes: Sequence[float], time: float, like: Tensor
) -> Tensor | None:
    """The polynomial through a branch's full outputs at ``nodes``, at a time (R, N).

    None where not all of them are kept.
    """
    kept = dict(reversed(branch.kept_full))  # of two at one time the newest
    nodes = list(dict.fromkeys(nodes))
    if not nodes or any(node not in kept for node in nodes):
        return None
    if any(kept[node].shape != like.shape for node in nodes):
        return None
    terms = [
        math.prod((time - other) / (node - other) for other in nodes if other != node)
        * kept[node].float()
        for node in nodes
    ]
    return torch.stack(terms).sum(0).to(like.dtype)
