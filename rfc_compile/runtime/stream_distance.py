"""What the stream says of a call where a graph sees no latent with its output.

``nearest_first`` sorts the branches that a call may continue; ``is_another_stage``
tells a further step at the timestep of the call before (Heun) from another branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rfc_compile.estimators.step_signal import farthest_move
from rfc_compile.runtime.guidance_branch import UNRELATED, GuidanceBranch
from rfc_compile.runtime.place import Place
from rfc_compile.runtime.readback import read_all

CLEARLY_NEARER = 0.5
"""Of two runs that only the timestep speaks for, one is continued if the distance to
its stream is less than this share of that to the other's."""


def nearest_first(places: Sequence[Place], stream: Sequence[Tensor]) -> list[Place]:
    """Without those that are far, or of which none is clearly the nearest."""
    branches = [branch for place in places for branch in place.branches]
    moves = [farthest_move(stream, b.state.slots[: len(stream)]) for b in branches]
    read = [float(move) for (move,) in read_all([move[None] for move in moves])]
    distances = dict(zip(branches, read, strict=True))

    def is_clear(branch: GuidanceBranch) -> bool:
        own = distances[branch]
        alike = [b for b in branches if b.conditioning == branch.conditioning]
        others = [distances[b] for b in alike if b is not branch]
        clear = all(own == x or own <= CLEARLY_NEARER * x for x in others)
        return clear and own <= UNRELATED

    found = [
        replace(place, branches=[branch])
        for place in places
        for branch in place.branches
        if is_clear(branch)
    ]
    return sorted(found, key=lambda place: distances[place.branches[0]])


def is_another_stage(standing: Place, stream: Sequence[Tensor]) -> bool:
    """Whether a timestep comes again with another stream (Heun's two calls a step).

    All known branches have been called: a further one has other conditioning. Heun
    repeats the run's second timestep and all after it; where nobody has named the run,
    one that comes again later is another image's.
    """
    run = standing.run
    if run.step == 0 or standing.branches or run.newest is None:
        return False
    if not (run.declared or run.step == 1 or run.has_stages):
        return False
    kept = run.newest.state.slots[: len(stream)]
    return bool(kept) and float(farthest_move(stream, kept)) > 0
