"""What the sampler moves between two calls: which input is its latent, and what of it.

    first call     guessed from shapes                       (``latent_pair``)
    second call    of every input, what has moved is taken for the latent, with every
                   output of its size; the pair whose move the sampler's fit explains
                   best is the one; if none is explained, and the guess stands still at
                   another timestep, the first that has moved is guessed

So conditions and reference tokens may stand before the latent or behind it, and other
inputs of its shape beside it. Where no pair is explained in a run's first steps (fresh
noise), the guess stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.guidance_branch import Returned, Seen
from rfc_compile.runtime.latent_pair import (
    LatentPair,
    copies_of,
    copies_of_tensors,
    find_latent_pair,
    partners,
    sizes_of,
)
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import (
    EXACT,
    EXPLAINED,
    Array,
    Fit,
    fit_of,
    gram_matrix,
    in_rows,
    rounding_of,
    step_vectors,
)
from rfc_compile.runtime.session import Session
from rfc_compile.runtime.trajectory import Time, Trajectory

GUIDED = 3
"""Channels of an image that guidance in one batch is for, where it is not for all
(``eps[:, :3]``, DiT's ``forward_with_cfg``)."""

OF_A_STREAM = 0.02
"""Residual at most where the input may be a stream within the model: streams follow
from each other roughly, at small steps to 0.13."""

TAKES_PART = 1e-3
"""Least share of a move that the outputs explain in a latent. A reference that guidance
scales, or makes zero, is explained by what it was before alone."""

SEARCHED_STEPS = 4
"""Steps of a run whose calls are kept and compared: more would wait for the device in
every step of a sampler that no pair explains."""


def guessed(
    session: Session, latents: Sequence[Any], outputs: Sequence[Any]
) -> LatentPair | None:
    """The pair of these sizes that is known, or the guess from their shapes."""
    sizes = sizes_of(latents)
    if sizes not in session.pairs:
        session.pairs[sizes] = find_latent_pair(latents, outputs)
    return session.pairs[sizes]


def looked_for(
    session: Session,
    latents: Sequence[Any],
    as_conditioning: Sequence[int | None],
    time: Time,
    *,
    stream: bool = False,
) -> LatentPair | None:
    """The latent among the inputs of a call that may be it, and its output.

    ``as_conditioning`` are these inputs' indices among the conditioning, where they
    were taken for references; ``stream`` says that they may be a stream in the model.
    """
    guess = session.pairs.get(sizes_of(latents))
    explained = _best(guess, session.live, latents, stream=stream)
    if explained is not None:
        found = replace(explained, confirmed=True)
    else:
        moved = _moved_instead(guess, session.live, latents, time)
        if moved is None:
            return guess
        found = moved
    session.pairs[sizes_of(latents)] = found
    reference = as_conditioning[found.index]
    if reference is not None:
        session.moves(reference)
    for branch in [branch for run in session.live for branch in run.branches]:
        if branch.seen is not None:
            if found != guess:
                branch.returned = [_returned(found, branch.seen)]
            if found.confirmed:
                branch.seen = None
    return found


def seen(step: int, latents: Sequence[Any], outputs: Sequence[Any]) -> Seen | None:
    """A copy of a call, as long as the run's latent is looked for.

    The caller may write into what it passed and what it was returned.
    """
    if step >= SEARCHED_STEPS:
        return None
    return Seen(step, copies_of_tensors(latents), copies_of_tensors(outputs))


def _best(
    guess: LatentPair | None,
    runs: Sequence[Trajectory],
    latents: Sequence[Any],
    *,
    stream: bool,
) -> LatentPair | None:
    """The pair that explains best how a call continues one of the runs."""
    largest = OF_A_STREAM if stream else EXPLAINED
    candidates = [one for run in runs for one in _candidates(guess, run, latents)]
    read = read_all([gram for _, gram, _ in candidates])
    found = []
    for (pair, gram, outputs), values in zip(candidates, read, strict=True):
        # what rounding may hide of a stream's move counts against it
        rounding = 0.0 if stream else rounding_of(latents[pair.index])
        known = np.reshape(values, gram.shape)
        fit = fit_of(known, outputs, rounding)
        if fit.residual <= largest and _follows_outputs(fit, known):
            # one more output never explains less, and a part of the latent as well
            doubtful = pair.further or pair != guess
            residual = fit.residual * (2 if doubtful else 1)
            found.append((fit.residual > EXACT or pair != guess, residual, pair))
    return min(found, key=lambda one: one[:2])[2] if found else None


def _moved_instead(
    guess: LatentPair | None,
    runs: Sequence[Trajectory],
    latents: Sequence[Any],
    time: Time,
) -> LatentPair | None:
    """Another input, all of it moved to a new timestep where the guess stands."""
    calls = [b.seen for run in runs for b in run.branches if run.times[-1] != time]
    for call in calls:
        if guess is None or call is None:
            continue
        if torch.equal(call.latents[guess.index], latents[guess.index]):
            for pair in _pairs(None, call, latents):
                if pair.size == latents[pair.index].shape[1] and not pair.further:
                    return pair
    return None


def _follows_outputs(fit: Fit, gram: Array) -> bool:
    """Whether the outputs take part in the move of any row."""
    sizes = np.sqrt(np.einsum("rkk->rk", gram))
    parts = np.abs(fit.b) * sizes[:, 2 : 2 + fit.b.shape[1]]
    return fit.moved and bool((parts.max(1) > TAKES_PART * sizes[:, 0]).any())


def _returned(pair: LatentPair, call: Seen) -> Returned:
    """What the sampler was given by a call."""
    latent = pair.latent(call.latents)
    with torch.inference_mode(mode=False):
        output = pair.returned(call.outputs).clone()
        return Returned(call.step, latent.clone(), output, partners(latent))


def _candidates(
    guess: LatentPair | None, run: Trajectory, latents: Sequence[Any]
) -> Iterator[tuple[LatentPair, Tensor, int]]:
    """The pairs that a call may show after the newest step of a run.

    Each with the Gram matrix of its fit, on the device, and the number of outputs.
    """
    newest_first = sorted(run.branches, key=lambda branch: branch is not run.newest)
    calls = [b.seen for b in newest_first if b.seen and b.seen.step == run.step]
    if not calls:
        return
    for pair in dict.fromkeys(_pairs(guess, calls[0], latents)):
        given = [_returned(pair, call) for call in calls]
        outputs = [output for one in given for output in one.outputs]
        linked = [branch for other in run.linked for branch in other.branches]
        beside = [x for branch in linked for x in branch.returned_at(run.step)]
        outputs += [part for x in beside for part in in_rows(x, given[0].latent)]
        vectors = step_vectors(pair.latent(latents), [given[0].latent], [outputs])
        yield pair, gram_matrix(vectors), len(outputs)


def _pairs(
    guess: LatentPair | None, before: Seen, latents: Sequence[Any]
) -> Iterator[LatentPair]:
    """The guess, then what has moved with the outputs that have its size."""
    if guess is not None:
        yield guess
        if guess.dim == 1 and latents[guess.index].ndim > 3 and guess.size > GUIDED:
            yield replace(guess, size=GUIDED)
    for index, (old, new) in enumerate(zip(before.latents, latents, strict=True)):
        if not isinstance(new, Tensor) or old.shape != new.shape:
            continue
        for dim, start, size in _moved_parts(old, new):
            for output, value in enumerate(before.outputs):
                copies = copies_of(new, value)
                for begin in _starts(new, value, dim, start, size):
                    part = dim, size, start, begin
                    if size == new.shape[dim] == value.shape[dim]:  # all, by any dim
                        part = 1, new.shape[1], 0, 0
                    pair = LatentPair(index, output, *part, copies)
                    yield pair
                    further = _outputs_like(value, before.outputs, output + 1)
                    if further:
                        yield replace(pair, further=further)


def _outputs_like(value: Tensor, outputs: Sequence[Any], start: int) -> tuple[int, ...]:
    """Positions, from ``start`` on, of outputs that have a shape."""
    rest = enumerate(outputs[start:], start)
    return tuple(i for i, x in rest if isinstance(x, Tensor) and x.shape == value.shape)


def _moved_parts(old: Tensor, new: Tensor) -> Iterator[tuple[int, int, int]]:
    """Dimension, start and size of what differs where that is one range."""
    differs = old != new
    for dim in range(1, new.ndim):
        moved = differs.movedim(dim, 0).flatten(1).any(1).nonzero().flatten().tolist()
        if moved and moved[-1] - moved[0] == len(moved) - 1:
            yield dim, moved[0], len(moved)


def _starts(
    latent: Tensor, output: Any, dim: int, start: int, size: int
) -> Iterator[int]:
    """Where an output may hold the answer to a part of the latent."""
    if not copies_of(latent, output) or output.shape[dim] < size:
        return
    sizes = enumerate(zip(latent.shape, output.shape, strict=True))
    if any(a != b for d, (a, b) in sizes if d not in (0, dim)):
        return
    yield 0
    if start and output.shape[dim] >= start + size:
        yield start
