"""The fit of the sampler tells own latents from foreign ones, sampler by sampler."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, full_calls, small_glyph
from diffusers import SchedulerMixin
from torch import Tensor

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime.registry import newest_run
from rfc_compile.runtime.sampler_fit import (
    EXPLAINED,
    fit_of,
    gram_matrix,
    step_vectors,
)
from rfc_compile.runtime.session import Session
from rfc_compile.tools.measure.denoising import Guidance, denoise, seeded
from rfc_compile.tools.measure.glyph_dit import class_inputs, initial_noise

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks.residuals import DIFFUSION, FLOW, STOCHASTIC

SAMPLERS = {**DIFFUSION, **FLOW}
STEPS = 20

deterministic = pytest.mark.parametrize(
    "sampler", [name for name in SAMPLERS if name not in STOCHASTIC]
)
stochastic = pytest.mark.parametrize("sampler", STOCHASTIC)
NIGHTLY = pytest.mark.nightly
as_called = pytest.mark.parametrize(
    ("separate", "dtype"),
    [
        pytest.param(False, torch.float32, id="batch-float32"),
        pytest.param(True, torch.bfloat16, id="calls-bfloat16"),
        pytest.param(True, torch.float32, id="calls-float32", marks=NIGHTLY),
        pytest.param(False, torch.bfloat16, id="batch-bfloat16", marks=NIGHTLY),
    ],
)


@dataclass
class Drawing:
    """A compiled model and how it is sampled."""

    model: Any
    sampler: str
    separate: bool = False
    dtype: torch.dtype = torch.float32

    def draw(self, seed: int = 0, steps: int = STEPS) -> list[float]:
        """One run; the residual of every step that was looked at."""
        inputs, empty = class_inputs(LABELS)
        torch.manual_seed(seed)  # of the samplers that are given no generator
        found: list[float] = []

        def predict(x: Tensor, t: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            latent = x.to(self.dtype)
            output: Tensor = self.model(latent, timestep=t, **given).sample
            return output.float()

        def look(done: int, total: int) -> None:
            run = self.session.current
            assert run is not None
            if run.fitted == run.step and (fit := run.fits.get(0)) and fit.moved:
                found.append(fit.residual)

        denoise(
            predict,
            initial_noise(len(LABELS), seed),
            SAMPLERS[self.sampler](steps, "v_prediction"),
            inputs=inputs,
            empty=empty,
            guidance=Guidance(2.0, self.separate),
            generators=seeded(len(LABELS), seed + 1000),
            progress=look,
        )
        return found

    @property
    def session(self) -> Session:
        """The runs of the owner that called last."""
        newest = newest_run(self.model)
        assert newest is not None
        return newest[0]

    @property
    def lengths(self) -> list[int]:
        """Of the runs that are kept, in steps."""
        return [len(run.times) for run in self.session.runs]


def drawing(
    sampler: str, *, separate: bool = False, dtype: torch.dtype = torch.float32
) -> Drawing:
    return Drawing(compiled(small_glyph(dtype=dtype)), sampler, separate, dtype)


@as_called
@deterministic
def test_every_step_is_explained(
    sampler: str, separate: bool, dtype: torch.dtype
) -> None:
    """Nobody tells where the run begins, and it is one run, cached."""
    drawn = drawing(sampler, separate=separate, dtype=dtype)
    found = drawn.draw()
    calls = len(SAMPLERS[sampler](STEPS, "v_prediction").timesteps)
    assert drawn.lengths == [calls]
    assert len(found) == calls - 1
    assert max(found) <= EXPLAINED
    stats = rfc_compile.stats(drawn.model)
    assert stats.nfc < len(stats.decisions)


@as_called
@stochastic
def test_fresh_noise_is_not_explained(
    sampler: str, separate: bool, dtype: torch.dtype
) -> None:
    """Without a name no step is cached, with a warning; named, it is one cached run."""
    drawn = drawing(sampler, separate=separate, dtype=dtype)
    with pytest.warns(UncachedWarning, match="do not follow from what the model"):
        drawn.draw()
    *others, last = drawn.lengths
    assert set(others) == {1}
    assert last <= 2  # the last step of all adds no noise
    assert full_calls(drawn.model) >= (STEPS - 1) * (2 if separate else 1)
    with rfc_compile.trajectory("named", num_steps=STEPS):
        found = drawn.draw(seed=1)
    assert min(found[:-1]) > 2 * EXPLAINED
    stats = rfc_compile.stats(drawn.model)
    assert stats.name == "named"
    assert stats.steps == STEPS
    assert stats.nfc < len(stats.decisions)


@deterministic
def test_the_latent_of_another_image_is_not_explained(sampler: str) -> None:
    """The same prompt and timesteps: every step of it would begin a run."""
    make, latents = SAMPLERS[sampler], []
    plain = small_glyph()
    for seed in (0, 7):
        x, made = initial_noise(1, seed), make(STEPS, "v_prediction")
        latents.append(list(walk(plain, made, x)))
    for own, other in itertools.permutations(latents, 2):
        for step in range(1, len(own)):
            back = [own[i] for i in (step - 1, step - 2) if i >= 0]
            for now, explained in ((own, True), (other, False)):
                vectors = step_vectors(
                    now[step][0], [x for x, _ in back], [[y] for _, y in back]
                )
                fit = fit_of(gram_matrix(vectors).numpy(), 1)
                if fit.moved:
                    assert fit.explained == explained, (step, fit.residual)


@torch.no_grad()
def walk(
    model: Any, sampler: SchedulerMixin, x: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the model is given and returns at every step, (1, N) each."""
    scaled = hasattr(sampler, "scale_model_input")
    x = x * sampler.init_noise_sigma if scaled else x
    for t in sampler.timesteps:
        latent = sampler.scale_model_input(x, t) if scaled else x
        given = {"timestep": t.expand(1), "class_labels": LABELS[:1]}
        output = model(latent, **given).sample
        x = sampler.step(output, t, x).prev_sample
        yield latent.flatten(1), output.flatten(1)
