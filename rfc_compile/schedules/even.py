"""Full steps spread evenly: a wanted number of them, or a wanted speed-up.

    full  <=>  floor(n s / steps) is another number than at the last full step

for step s and n full steps in all. Where others had to be full besides (a second
history, an edited latent), what is left of n is spread over what is left of the run.
Where the number of steps is unknown,
full steps are spread over the timesteps instead, from the first one to that of the
image; where the graph is not given the timestep either, as over a run of 50 steps. A
speed-up needs no number of steps: a fixed share of them is full. What cached steps cost
outside of regions is made up for by fewer full ones, down to half (``LEAST_FULL``).

Where the noise level u of the latent is known (``runtime.noise_level``), full steps are
spread over u with the density 1 + 3 u^8 instead: errors made at the start, where the
model decides what the image shows, grow most until the end. The last distance is
shorter, as nothing repays what is owed then. Up to four full steps have the density
1 + u^8 and a last distance like the others: a change between two close ones says
nothing of a long interval after them. A run that is longer than declared has as large a
share of full ones there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.base import (
    CACHED,
    FULL,
    Position,
    Schedule,
    ScheduleOptions,
)

BY_NOISE = "noise_level"
"""The reason of full steps that are spread over the noise level."""

PRESET_STEPS = 50
"""Steps of the run that ``even_steps`` refers to."""

DENSER, ORDER = 3.0, 8
"""Of full steps over the noise level u: their density is 1 + DENSER u^ORDER."""

FIRST_DISTANCE, SHORT = 0.7, 12
"""Between the first two full steps, of the distances between, where no number is asked
for (error control) and fewer than ``SHORT`` are to be expected."""

LAST_DISTANCE = 0.5
"""From the last full step to the image, of the distances between."""

FEW, DENSER_OF_FEW = 4, 1.0
"""With so many full steps or fewer: their density, and no shorter last distance."""

BEYOND = (
    "target_nfc is exceeded: the timesteps go on beyond that of an image (0, or 1 or "
    "1000 where they rise), so where the run ends is not known; say how many steps it "
    "has by a pipeline or rfc_compile.trajectory(name, num_steps=...)"
)

USED_UP = (
    "target_nfc is exceeded, and no full step is left for the rest of a run: steps had "
    "to be full for other reasons, which rfc_compile.stats(model) tells"
)

NOT_KNOWN = (
    "target_nfc is spread as over a run of 50 steps: this graph knows neither the "
    "number of steps nor the timestep; say how many steps a run has by a pipeline or "
    "rfc_compile.trajectory(name, num_steps=...)"
)

LEAST_LEFT = 0.5
"""Of the share of full steps that the rest of a run has where no number is asked for.
With less of it left (a prompt that changed at every step) the whole share is."""

LEAST_FULL = 0.5
"""Of the full steps that a speed-up leaves where cached steps cost nothing: fewer do
not make up for what cached steps compute outside of regions."""

NOT_REACHED = (
    "target_speedup={:g} is not reached: {:.1%} of the FLOPs are outside of regions; "
    "{:.0%} of the steps are full, as fewer would cost too much of the image, which is "
    "a speed-up of {:.3g}"
)

ROUNDED = 1e-9
"""Of a share of steps that is not exact in floating point."""


class Even(Schedule):
    """Full steps at equal distances, whatever their errors."""

    name = "even"
    static = True
    by_noise = True

    def __init__(
        self, options: ScheduleOptions, report: GraphReport | None = None
    ) -> None:
        super().__init__(options, report)
        outside = 0.0 if report is None else 1 - report.coverage
        self._speedup_share: float | None = None
        speedup: float | None = options.target_speedup
        if speedup is not None:
            share = (1 / speedup - outside) / (1 - outside)
            least = LEAST_FULL / speedup
            self._speedup_share = max(share, least)
            reached = 1 / (outside + (1 - outside) * self._speedup_share)
            if share < least - ROUNDED:
                self._warn(NOT_REACHED.format(speedup, outside, least, reached))

    def decide(self, position: Position) -> tuple[float, str]:
        """Full at the first step of every interval."""
        assert position.last_full is not None, "a branch without history is full"
        wanted, target = self._wanted(position), self.options.target_nfc
        if target is not None and position.computed > target:
            self._warn(USED_UP)
        over = position.steps is not None and position.step >= position.steps
        if position.noise_level is not None and wanted is not None and not over:
            level, strict = position.noise_level, self._is_targeted
            due = _due_by_noise(position, level, wanted, strict=strict)
            return (FULL if due else CACHED), BY_NOISE
        share = self._share(position)
        if target is not None and wanted is None:
            self._warn(NOT_KNOWN)
        if wanted is not None and not over and (self._is_targeted or share is None):
            parts = self._done(position)
            if parts[1] > 1:
                return self._beyond(position)
            due = _due_by_share(parts, wanted, position.computed)
            return (FULL if due else CACHED), self.name
        assert share is not None, "a number of steps is wanted of a run that has one"
        now, before = (
            math.floor(step * share + ROUNDED)
            for step in (position.step, position.last_full)
        )
        return (FULL if now != before else CACHED), self.name

    def _beyond(self, position: Position) -> tuple[float, str]:
        """Timesteps go on beyond that of the image: intervals stay as they were."""
        self._warn(BEYOND)
        due = position.since_full + 1 >= (position.last_interval or 1)
        return (FULL if due else CACHED), self.name

    @property
    def _is_targeted(self) -> bool:
        """Whether a number of full steps is asked for, and no more."""
        options = self.options
        return not (options.target_nfc is None and options.target_speedup is None)

    def _warn(self, text: str) -> None:
        if self.report is not None:
            self.report.warn(text)

    def interval(self, position: Position) -> int:
        """Steps from one full step to the next; 1 where that is not known."""
        share = self._share(position)
        return 1 if share is None else max(1, math.floor(1 / share))

    def _done(self, position: Position) -> tuple[float, float]:
        """The parts of the run before the last full step, and before this one."""
        assert position.last_full is not None
        steps = position.steps
        if steps is not None:
            return position.last_full / steps, position.step / steps
        places = position.places
        first, last = places[0], _image_time(places)
        if last == first:
            return 1.0, 1.0
        before, now = places[position.last_full], places[position.step]
        return (before - first) / (last - first), (now - first) / (last - first)

    def _wanted(self, position: Position) -> int | None:
        """Full steps of the run; None where that is not known."""
        if position.steps is None:
            asked = self.options.target_nfc or self.options.even_steps
            by_share = self.options.target_speedup is not None or self.untimed
            return None if by_share else asked
        share = self._share(position)
        return None if share is None else math.ceil(position.steps * share - ROUNDED)

    def _share(self, position: Position) -> float | None:
        """Full steps over all steps; None where that is not known."""
        nfc: int | None = self.options.target_nfc
        if self._speedup_share is not None:
            return self._speedup_share
        if nfc is not None and position.steps is not None:
            return min(1.0, nfc / position.steps)
        if nfc is not None:
            return min(1.0, nfc / PRESET_STEPS) if self.untimed else None
        wanted: int = self.options.even_steps
        steps = position.steps or PRESET_STEPS
        return min(1.0, wanted / PRESET_STEPS * math.sqrt(PRESET_STEPS / steps))


def _due_by_share(parts: tuple[float, float], wanted: int, computed: int) -> bool:
    """Whether the next of the full steps wanted is due, when so many are computed."""
    before, now = parts
    left = wanted - computed
    planned = 1 + math.floor(before * wanted + ROUNDED)
    if computed > planned:
        return left > 0 and (now - before) * (left + 1) >= 1 - before - ROUNDED
    numbers = [math.floor(part * wanted + ROUNDED) for part in parts]
    return numbers[0] < min(numbers[1], wanted - 1)


def _due_by_noise(
    position: Position,
    level: Callable[[float], float],
    wanted: int,
    *,
    strict: bool,
) -> bool:
    """Whether the distance to the last full step is its share of what was left then.

    Rounded to the nearer of this step and the next. Full steps that would be left over
    at the end are taken before it. Where no number is asked for (not ``strict``), full
    steps that were taken for other reasons leave enough for the rest.
    """
    assert position.last_full is not None
    few = wanted <= FEW
    steps, times = position.steps, position.times
    last, before, now = (
        _place(level(times[step]), DENSER_OF_FEW if few else DENSER)
        for step in (position.last_full, position.step - 1, position.step)
    )
    left = wanted - position.computed
    enough = math.floor(last * wanted)
    if not strict and left < LEAST_LEFT * enough:
        left = enough
    if left <= 0 or (steps is not None and steps - position.step <= left):
        return left > 0
    shorter = position.recorded == 1 and wanted < SHORT and not strict
    distance = FIRST_DISTANCE if shorter else 1.0
    due = last * distance / (distance + left - 1 + (1.0 if few else LAST_DISTANCE))
    return last - now + (before - now) / 2 >= due


def distance(level: Callable[[float], float], start: float, end: float) -> float:
    """The part of a run between two timesteps, on the axis of full steps, 0 to 1."""
    return abs(_place(level(start), DENSER) - _place(level(end), DENSER))


def _place(noise: float, denser: float) -> float:
    """Of a noise level on the axis over which full steps are spread, 0 to 1."""
    more = denser / (ORDER + 1)
    return (noise + more * noise ** (ORDER + 1)) / (1 + more)


def _image_time(times: Sequence[float]) -> float:
    """The timestep of the image: 0, or where timesteps rise the largest there is."""
    rising = len(times) > 1 and times[1] > times[0]
    if not rising:
        return 0.0
    return 1.0 if max(times) <= 1 else max(1000.0, max(times))
