"""Noise levels: where a step lies between noise and image, by its timestep alone.

    flow        x = (1 - s) x_0 + s n              level s / (1 - s)
    diffusion   x = a x_0 + sqrt(1 - a^2) n        level sqrt(1 - a^2) / a

Over a trajectory the residual stream is far smoother in the noise level than in the
index of the step: there, straight lines through the last full steps reach further
(`python -m benchmarks matrix`). No model is known here: which family a trajectory is of
shows in how far its latent moves between the first two timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LAST = 1000.0
"""Largest timestep, unless all lie between 0 and 1."""


CLEANEST = 1e-3
"""Least share of the image that is told from pure noise, whose level is infinite."""


def unit_of(*timesteps: float) -> float:
    """What the timestep of pure noise is, or that of the image where they rise."""
    return LAST if max(timesteps) > 1 else 1.0


def flow_level(time: float) -> float:
    """Rectified flow: the time is the share of the noise, 1 for noise alone."""
    return time / max(1.0 - time, CLEANEST)


def diffusion_level(time: float) -> float:
    """Diffusion with betas from 1e-4 to 0.02 over 1000 steps, linear in time.

    The product of ``1 - beta``, this step's among them, is the exponential of a sum.
    """
    end = time + 1e-3
    exponent = 0.1 * end + 9.95 * end**2 + 0.066 * end**3
    return math.sqrt(math.expm1(exponent))


def flow_move(first: float, second: float) -> float:
    """About how far the latent moves, relative to its size."""
    return 1.2 * abs(first - second)


def diffusion_move(first: float, second: float) -> float:
    """The angle between image and noise that the latent turns by, in radians."""
    levels = diffusion_level(first), diffusion_level(second)
    return abs(math.atan(levels[0]) - math.atan(levels[1]))


FAMILIES: dict[
    str, tuple[Callable[[float], float], Callable[[float, float], float]]
] = {
    "flow": (flow_level, flow_move),
    "diffusion": (diffusion_level, diffusion_move),
}
"""Each with the level of a time in 0..1 and the move of the latent between two."""


@dataclass(frozen=True)
class NoiseSchedule:
    """How the timesteps of a trajectory are read.

    Attributes:
        family: a name in ``FAMILIES``.
        unit: the timestep that pure noise has, or image where they rise.
        rising: whether the timesteps rise from noise to image.

    """

    family: str
    unit: float
    rising: bool

    def level(self, timestep: float) -> float | None:
        """The noise level of a timestep; None outside of 0 to ``unit``."""
        time = timestep / self.unit
        if not 0 <= time <= 1:
            return None
        to_level, _ = FAMILIES[self.family]
        return to_level(1 - time if self.rising else time)


def recognise(first: float, second: float, change: float) -> NoiseSchedule | None:
    """The schedule of a run, from its first two timesteps; None if it is neither.

    ``change`` is how far the latent moved in between, relative to its size.
    """
    unit = unit_of(first, second)
    rising = second > first
    times = [t / unit for t in (first, second)]
    if change <= 0 or first == second or not all(0 <= time <= 1 for time in times):
        return None
    if rising:
        times = [1 - time for time in times]
    moved = math.log(change)
    distance = {
        family: abs(math.log(move(*times)) - moved)
        for family, (_, move) in FAMILIES.items()
        if unit == LAST or family == "flow"
    }
    return NoiseSchedule(min(distance, key=distance.__getitem__), unit, rising)
