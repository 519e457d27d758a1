"""Which run a call continues: the fit of the sampler says so.

    the latent stands still, same timestep      the same step, another branch
    the latent follows from the run's           its next step
    it follows from a waiting branch's alone    that branch leaves: another image
    none of these                               a new run

A run that the caller has named (a pipeline, ``trajectory(num_steps=)``) is continued by
every call of it, whatever the fit says: samplers with fresh noise and edited latents
are no combination of what was returned. Its fits are only looked at where a full step
needs them (``settle``), or where the timestep goes back. Two things that the timestep
shows are not left to the name:

    another latent at the run's first timestep      one of several parts of an image
                                                    (windows): a branch of its own
    the timestep jumps back                         a pipeline's history is dropped,
                                                    else the name's next image begins
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from rfc_compile.estimators.step_weights import mean_time
from rfc_compile.runtime.call_context import CallContext
from rfc_compile.runtime.guidance_branch import UNRELATED
from rfc_compile.runtime.place import Place
from rfc_compile.runtime.run_fits import fits_after
from rfc_compile.runtime.sampler_fit import EXACT, Fit
from rfc_compile.runtime.stream_distance import is_another_stage, nearest_first
from rfc_compile.runtime.trajectory import Time, Trajectory

LINEAR_STEP, OTHER_IMAGE = 1e-3, 0.1
"""Residuals of samplers that are linear in what they are given stay below the first; a
step that leaves more than the second after one is none of theirs."""

ALIKE = 2.0
"""Residuals of one run's steps differ by more; of two runs with less between them, that
of the same image which was broken off may have the smaller one."""

LARGEST_OF_A_PART = 0.7
"""Largest residual of a part of an image: where windows overlap, the caller mixes what
was returned for several. Unrelated latents leave as little, but are far away."""


def places(
    runs: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
    stream: Sequence[Tensor] = (),
    *,
    unseen: bool = False,
) -> Iterator[Place]:
    """The runs that a call may continue, likeliest first.

    ``runs`` are those under way; ``latent`` (R, N) is None where the graph has none
    that an output answers; the ``stream`` is all that a branch keeps of its last call.
    Where the graph sees no output of the model (``unseen``), the timestep says which
    step a call is, and of several runs that of the nearest stream is continued.
    """
    own = [
        run
        for run in runs
        if run.run == context.run and run.newest is not None and not run.complete
    ]
    if len(own) == 1 and context.run_is_known:
        (run,) = own
        if (context.run or run.in_parts) and run.jumps_back(time):
            if context.run:
                yield Place(run, run.step + 1, (), restarts=True)
            return
        if run.in_parts:
            yield from _parts(run, context, latent, time, stream)
            return
        if run.times[-1] != time and not run.goes_back(time):
            yield _going(run, context, None, time)
            return
    newest = [(run, run.newest) for run in own if run.newest is not None]
    fits = fits_after(newest, latent)
    pairs = zip(own, fits, strict=True)
    revisited = [run for run, fit in pairs if fit and run.stands_at(fit, time)]
    for run in revisited:
        run.same_latent = run.step
    standing, going = [], []
    for run, fit in zip(own, fits, strict=True):
        same = run.times[-1] == time
        if fit is None:
            if same and (context.run_is_known or unseen):
                standing.append(_standing(run, context))
                if is_another_stage(standing[-1], stream):
                    going.append(_going(run, context, None, time))
            elif context.run_is_known or (unseen and not run.goes_back(time)):
                going.append(_going(run, context, None, time))
        elif same and run.step == 0 and context.run_is_known and fit.moved:
            yield Place(run, 0, (), part=True)
            return
        elif not fit.moved:
            if same:
                standing.append(_standing(run, context))
            elif context.run_is_known:
                going.append(_going(run, context, fit, time))
        elif _continues(run, context, fit, time) and _ahead(run, runs, fit, time):
            going.append(_going(run, context, fit, time))
    if unseen and len(going) > 1 and not context.run_is_known:
        explained = [place for place in going if place.fit is not None]
        going = explained or nearest_first(going, stream)
    going.sort(key=_unlikeliness)
    _put_latest_first(going, time)
    for place in _in_order(own, standing, going, context, latent, time):
        yield replace(place, same_latent=bool(revisited))


def _resembles(fit: Fit) -> bool:
    return fit.residual <= LARGEST_OF_A_PART and fit.change <= UNRELATED


def _parts(
    run: Trajectory,
    context: CallContext,
    latent: Tensor | None,
    time: Time,
    stream: Sequence[Tensor],
) -> Iterator[Place]:
    """The branches whose part of the image a call may go on with, else a fresh one."""
    step = run.step + (run.times[-1] != time)
    waiting = run.waiting(step, context.branch)
    if latent is None and waiting:
        yield from nearest_first([Place(run, step, waiting, part=True)], stream)
    fits = fits_after([(run, branch) for branch in waiting], latent)
    found = [
        Place(run, step, [branch], fit, part=True)
        for branch, fit in zip(waiting, fits, strict=True)
        if fit is not None and fit.moved and (fit.explained or _resembles(fit))
    ]
    yield from sorted(found, key=_unlikeliness)
    yield Place(run, step, (), part=True)


def _in_order(
    runs: Sequence[Trajectory],
    standing: Sequence[Place],
    going: Sequence[Place],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
) -> Iterator[Place]:
    """The places where the latent stands still or moves on, and parts of runs."""
    waiting = [place for place in standing if place.branches]
    yield from waiting
    # a run that nobody has continued yet comes before part of one that somebody has
    untouched = [p for p in going if _follows_exactly(p) and p.run.times[-1] != time]
    yield from untouched
    # one step of a branch explains more than two of a run, or another image's
    certain = any(p.fit is None or p.fit.linear for p in going)
    going = [place for place in going if place not in untouched]
    beside = [place.run for place in going if place.run.times[-1] == time]
    # what stands here is refused for its conditioning: no old run is any nearer
    lagging = beside if certain else [place.run for place in waiting] or runs
    if lagging:
        yield from _leaving(lagging, context, latent, time)
    ready = [place for place in standing if not place.branches]
    # images with one noise whose calls of one kind come one after the other
    ready.sort(key=lambda place: (len(place.run.branches), place.run.last_call))
    joining = _joining(runs, [place.run for place in ready], context, latent)
    exactly = [p for p in going if p.fit is None or p.fit.residual <= EXACT]
    for place in exactly:
        yield from [p for p in ready if place.fit is None and p.run is place.run]
        yield place
    yield from joining
    yield from [place for place in going if place not in exactly]
    yield from ready


def _unlikeliness(place: Place) -> tuple[bool, float]:
    """Two steps of another image with the same noise explain as much as one's own."""
    fit = place.fit
    return (False, 0.0) if fit is None else (not fit.linear, fit.residual)


def _put_latest_first(going: list[Place], time: Time) -> None:
    """Of runs that explain a call alike the one that was called last.

    A run that was broken off stands where another of the same image has been.
    """
    alike = [place for place in going if _is_like(place, going[0], time)]
    if alike:
        latest = max(alike, key=lambda place: place.run.last_call)
        going.remove(latest)
        going.insert(0, latest)


def _is_like(place: Place, best: Place, time: Time) -> bool:
    if place.fit is None or best.fit is None or place.run.times[-1] == time:
        return False
    return place.fit.residual <= ALIKE * best.fit.residual


def _follows_exactly(place: Place) -> bool:
    fit = place.fit
    return fit is not None and fit.linear and fit.residual <= EXACT


def _standing(run: Trajectory, context: CallContext) -> Place:
    return Place(run, run.step, run.waiting(run.step, context.branch))


def _going(run: Trajectory, context: CallContext, fit: Fit | None, time: Time) -> Place:
    step = run.next_step(time) if run.linked else run.step + 1
    return Place(run, step, run.waiting(step, context.branch), fit)


def _continues(run: Trajectory, context: CallContext, fit: Fit, time: Time) -> bool:
    if context.run:
        return True
    if context.run_is_known:  # the stages of a solver go back, too
        return not run.jumps_back(time)
    if run.goes_back(time):
        return False
    # the noise of a run that was broken off, when another begins with it
    if not fit.explained or fit.returns:
        return False
    # a picture that the run was about to end with, from somewhere else
    known = [one.residual for one in run.fits.values() if run.fitted == run.step]
    return not known or max(known) > LINEAR_STEP or fit.residual < OTHER_IMAGE


def _ahead(run: Trajectory, runs: Sequence[Trajectory], fit: Fit, time: Time) -> bool:
    """Whether the second step of a run goes where other runs went, or must follow.

    Noise follows roughly from a single call with some of it.
    """
    if run.step > 0 or fit.residual <= EXACT:
        return True
    move = mean_time(time) - run.timesteps[0]
    return all(move * other.direction >= 0 for other in runs)


def _leaving(
    runs: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
    time: Time,
) -> list[Place]:
    """Branches that lag behind their run, where the latent follows from theirs."""
    lagging = [
        (run, branch)
        for run in runs
        for branch in run.waiting(run.step, context.branch)
        if not context.run_is_known
    ]
    fits = fits_after(lagging, latent)
    found = [
        Place(run, branch.step + 1, [branch], fit, leaves=True)
        for (run, branch), fit in zip(lagging, fits, strict=True)
        if fit is not None and fit.explained and run.leads_on(time, branch.step)
    ]
    return sorted(found, key=lambda place: place.fit.residual if place.fit else 0.0)


def _joining(
    runs: Sequence[Trajectory],
    standing: Sequence[Trajectory],
    context: CallContext,
    latent: Tensor | None,
) -> list[Place]:
    """Branches of other runs that with those of a standing one explain its latent.

    Images with one noise are one run until their latents differ; there the guidance
    branches of an image leave it one after the other.
    """
    candidates = [
        (other, run, branch)
        for run in standing
        for other in runs
        if other is not run and not context.run_is_known and run.has_made(other)
        for branch in other.waiting(run.step, context.branch)
        if branch.step == run.step - 1
    ]
    fits = fits_after([(run, branch) for _, run, branch in candidates], latent)
    return [
        Place(other, run.step, [branch], fit, leaves=True, joins=run)
        for (other, run, branch), fit in zip(candidates, fits, strict=True)
        if fit is not None and fit.explained
    ]
