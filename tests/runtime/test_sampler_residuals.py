"""The fit of the sampler tells own latents from foreign ones, sampler by sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, small_glyph
from torch import Tensor

import rfc_compile
from rfc_compile.runtime.registry import dispatchers_of
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
guided = pytest.mark.parametrize("separate", [False, True], ids=["batch", "calls"])
of_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


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
            if run.fit is not None and run.fit.fit.moved:
                found.append(run.fit.fit.residual)

        denoise(
            predict,
            initial_noise(len(LABELS), seed),
            SAMPLERS[self.sampler](steps, "v_prediction"),
            inputs=inputs,
            empty=empty,
            guidance=Guidance(2.0, self.separate),
            generators=seeded(len(LABELS), seed),
            progress=look,
        )
        return found

    @property
    def session(self) -> Session:
        """The runs of this thread."""
        (session,) = [s for d in dispatchers_of(self.model) for s in d.sessions()]
        return session

    @property
    def lengths(self) -> list[int]:
        """Of the runs that are kept, in steps."""
        return [len(run.times) for run in self.session.runs]


def drawing(sampler: str, separate: bool, dtype: torch.dtype) -> Drawing:
    return Drawing(compiled(small_glyph(dtype=dtype)), sampler, separate, dtype)


@of_dtypes
@guided
@deterministic
def test_every_step_is_explained(
    sampler: str, separate: bool, dtype: torch.dtype
) -> None:
    """Nobody tells where the run begins, and it is one run, cached."""
    drawn = drawing(sampler, separate, dtype)
    found = drawn.draw()
    assert len(found) >= STEPS - 2
    calls = len(SAMPLERS[sampler](STEPS, "v_prediction").timesteps)
    assert max(drawn.lengths) >= calls - 1
    assert len(drawn.lengths) == 1
    stats = rfc_compile.stats(drawn.model)
    assert stats.nfc < len(stats.decisions)
