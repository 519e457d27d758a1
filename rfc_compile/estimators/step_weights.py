"""The coefficients of a step: Taylor's and Newton's, on the device of the state."""

from __future__ import annotations

from collections.abc import Sequence


def newton_coefficients(
    now: float, kept: Sequence[float], width: int
) -> list[float] | None:
    """Weights of the last changes that extrapolate a polynomial in time.

    ``kept`` are the times of the kept full steps, newest first, for ``width`` changes;
    of degree 2 at most. None where two of the times are the same.
    """
    weights = [0.0] * width
    known = kept[: min(width, 2) + 1]
    if len(set(known)) < len(known):
        return None
    if len(known) > 1:
        ahead, gap = now - known[0], known[0] - known[1]
        weights[0] = ahead / gap
        if len(known) > 2:
            before, reach = known[1] - known[2], known[0] - known[2]
            bend = ahead * (now - known[1]) / reach
            weights[0] += bend / gap
            weights[1] = -bend / before
    return weights


LARGEST_ERROR = 0.2
"""Relative error of a full step's prediction above which the next trust less in the
changes between full steps."""


def trend_after(error: float) -> float:
    """The share of its changes that predictions go on with, after this error.

    Where a change did not go on as foretold, less of the next one is taken. Source: a
    damped trend (Gardner and McKenzie, Management Science 31 (10), 1985), here by the
    error that a full step shows.
    """
    return round(min(1.0, LARGEST_ERROR / error), 3) if error > 0 else 1.0


def coefficients_tensor(
    step: int, full_steps: Sequence[int], width: int
) -> list[list[float]]:
    """Taylor weights and validity of the last changes, two rows of ``width``.

    ``full_steps`` are the indices of the kept full steps, newest first. The weights are
    those of ``k^i / i! * D_i`` with the derivatives D_i from divided differences over
    the true gaps; a change that has no history yet gets 0.
    """
    taylor = [0.0] * width
    valid = [1.0 if j + 1 < len(full_steps) else 0.0 for j in range(width)]
    if len(full_steps) > 1:
        k, gap = step - full_steps[0], full_steps[0] - full_steps[1]
        taylor[0] = k / gap
        if width > 1 and len(full_steps) > 2:
            before = full_steps[1] - full_steps[2]
            curvature = k * k / (gap + before)
            taylor[0] += curvature / gap
            taylor[1] = -curvature / before
    return [taylor, valid]


def common_position(times: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    """The timesteps of several steps as one number each; None if they have none.

    Rows, tokens or frames may have timesteps of their own as long as all that move do
    so in proportion: then predictions have the same coefficients for all, and the
    means, by which runs are timed, move in proportion as well.
    """
    if all(len(time) == 1 for time in times):
        return tuple(time[0] for time in times)
    length = max(map(len, times))
    rows = [time * length if len(time) == 1 else time for time in times]
    if any(len(row) != length for row in rows):
        return None
    moves = [
        [value - last for value, last in zip(row, rows[0], strict=True)] for row in rows
    ]
    farthest = max(range(length), key=lambda i: max(abs(move[i]) for move in moves))
    scale = max((abs(move[farthest]) for move in moves), default=0.0)
    if scale == 0:
        return tuple(map(mean_time, times))
    for i in range(length):
        own = max((move[i] for move in moves), key=abs)
        ratio = own / max((move[farthest] for move in moves), key=abs)
        if ratio and any(
            abs(move[i] - ratio * move[farthest]) > _UNEVEN * abs(ratio) * scale
            for move in moves
        ):
            return None
    means = tuple(map(mean_time, times))
    if max(abs(mean - means[0]) for mean in means) > _STANDING * scale:
        return means
    return tuple(row[farthest] for row in rows)


def mean_time(time: Sequence[float]) -> float:
    """One number for the timesteps of a call; exact where all are the same."""
    first = time[0]
    return first + sum([value - first for value in time]) / len(time)


_UNEVEN = 0.02
"""How far timesteps may be from moving in proportion, relatively: some are rounded."""

_STANDING = 0.01
"""Of the farthest move: a mean that moves less says nothing (rows to and fro)."""
