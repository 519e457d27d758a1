"""How much noise a latent holds, shown by the sampler's first step.

The noise level is s / (a + s) for a latent a x0 + s noise. A sampler's first step has
one output to go by, so its factors (``sampler_fit``) are those of its process alone:

    rectified flow      x' = x + (s' - s) y                  s = t, or 1 - t if t rises
    v-prediction        x' = (a a' + s s') x + (a' s - a s') y
    noise prediction    x' = a'/a x + (s' - s a'/a) y
    noise added, image  x' = s'/s x + (1 - s'/s) y    a = 1, s the timestep
    noise added, noise  x' = x + (s' - s) y           the same

They are compared with those of the processes known here at the step's timesteps. One
that agrees tells the noise level of every timestep; where none does, it is not known.
A timestep that is the noise added (sigma) falls by factors, so it is no axis to predict
along: there the noise level is.
Sources: Liu et al., arXiv 2209.03003, eq. 1; Salimans and Ho, arXiv 2202.00512, app. D;
Song et al., arXiv 2010.02502, eq. 12; Karras et al., arXiv 2206.00364, eq. 4 and 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from rfc_compile.estimators.step_weights import common_position
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import EXACT, Array, Fit
from rfc_compile.runtime.trajectory import Time, Trajectory
from rfc_compile.schedules.base import Process

AGREES: Final = 0.05
"""Largest difference of a factor, relative to that of the output."""

ROUNDED: Final = 1e-3
"""Of a timestep that schedulers round to a whole one of a thousand."""


def _flow(scale: float, *, rises: bool) -> Process:
    """Rectified flow whose timesteps go from 0 to ``scale``, or back."""

    def level(time: float) -> float:
        noise = 1 - time / scale if rises else time / scale
        return min(max(noise, 0.0), 1.0)

    def factors(start: float, end: float) -> tuple[float, float]:
        return 1.0, abs(end - start) / scale

    return Process(level, factors, ROUNDED, largest=scale * (1 + ROUNDED))


def _diffusion(betas: Array) -> tuple[Process, Process]:
    """v-prediction and that of noise, with the variances added at each timestep."""
    kept = np.log(np.cumprod(1 - betas))
    steps = np.arange(len(betas))

    def parts(time: float) -> tuple[float, float]:
        squared = float(np.exp(np.interp(time, steps, kept)))
        return squared**0.5, (1 - squared) ** 0.5

    def level(time: float) -> float:
        image, noise = parts(time)
        return noise / (image + noise)

    def of_velocity(start: float, end: float) -> tuple[float, float]:
        (a, s), (b, r) = parts(start), parts(end)
        return a * b + s * r, abs(b * s - a * r)

    def of_noise(start: float, end: float) -> tuple[float, float]:
        (a, s), (b, r) = parts(start), parts(end)
        return b / a, abs(r - s * b / a)

    velocity = Process(level, of_velocity)
    return velocity, Process(level, of_noise, by_steps=True)


def _noise_added() -> tuple[Process, Process]:
    """The timestep is the noise added to the image, which is predicted, or the noise.

    The sampler multiplies errors of noise by it, which is largest at the start: there
    full steps by noise level are as dense as they are best.
    """

    def level(sigma: float) -> float:
        return sigma / (1 + sigma)

    def of_image(start: float, end: float) -> tuple[float, float]:
        kept = end / max(start, 1.0)  # less is not taken for it
        return kept, 1 - kept

    def of_noise(start: float, end: float) -> tuple[float, float]:
        return 1.0, abs(end - start)

    image = Process(level, of_image, by_level=True)
    return image, Process(level, of_noise, by_level=True)


def _cosine(steps: int) -> Array:
    kept = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: Array = np.minimum(1 - kept[1:] / kept[:-1], 0.999)
    return betas


_FALLING: Final = (
    _flow(1.0, rises=False),
    _flow(1000.0, rises=False),
    *_diffusion(np.linspace(1e-4, 0.02, 1000)),  # DDPM
    *_diffusion(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),  # latent diffusion
    *_diffusion(_cosine(1000)),  # improved DDPM
    *_noise_added(),
)
_RISING: Final = (_flow(1.0, rises=True), _flow(1000.0, rises=True))


def find_process(run: Trajectory, fit: Fit | None, start: float, end: float) -> None:
    """Learn a run's process from its first step, between these timesteps.

    What its branches keep of that step is placed on the axis of predictions anew.
    """
    process = process_of(fit, start, end)
    if process is None or not process.by_level:
        run.process = process
        return
    if not _is_added(run, start):
        return
    run.process = process
    for branch in run.branches:
        nodes = tuple([process.level(node) for node in branch.debt.nodes])
        branch.debt = replace(branch.debt, nodes=nodes)
        branch.kept_full = [(process.level(t), x) for t, x in branch.kept_full]


def _is_added(run: Trajectory, sigma: float) -> bool:
    """Whether as much noise is in a run's first latent: flows have at most 1."""
    kept = [one.latent for b in run.branches for one in b.returned]
    if sigma <= 1 or not kept:
        return False
    (size,) = read_all([kept[0].float().square().mean().sqrt()[None]])
    return bool(size[0] > sigma / 2)


def on_axis(process: Process | None, times: Sequence[Time]) -> tuple[float, ...] | None:
    """Where steps with these timesteps are on the axis of predictions.

    None where rows have timesteps that do not move in proportion.
    """
    found = common_position(times)
    if found is None or process is None or not process.by_level:
        return found
    return tuple([process.level(time) for time in found])


def process_of(fit: Fit | None, start: float, end: float) -> Process | None:
    """By the fit of a run's first step, between these timesteps; None if not known."""
    if fit is None or fit.residual > EXACT or start == end:
        return None
    latent, output = float(fit.a.mean()), abs(float(fit.b.sum(1).mean()))
    for process in _RISING if end > start else _FALLING:
        if max(start, end) > process.largest:
            continue
        a, b = process.factors(start, end)
        alike = abs(latent - a) <= AGREES * b
        off = abs(output - b)
        if alike and off <= max(AGREES * b, min(process.rounding, b / 2)):
            return process
    return None
