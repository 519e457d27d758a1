"""Guidance in calls of their own that other graphs or shapes serve: one run of two."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from models import WIDTH, Stack, build, timesteps
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime import session_table
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

STEPS = 16
SCALE = 3.0


class Prompted(nn.Module):
    """Draws the glyph that the first token of a prompt names."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_glyph()
        self.register_buffer("empty", torch.full((1, 2), float(EMPTY_CLASS)))

    def forward(
        self, x: Tensor, timestep: Tensor, prompt: Tensor | None, *, drop: bool = False
    ) -> Tensor:
        tokens = self.empty if prompt is None else prompt
        if drop:
            tokens = tokens * 0 + EMPTY_CLASS
        labels = tokens[:, 0].long()
        out: Tensor = self.model(x, timestep=timestep, class_labels=labels).sample
        return out


EMPTY: dict[str, dict[str, Any]] = {
    "tensor": {"prompt": torch.full((1, 5), float(EMPTY_CLASS))},
    "length": {"prompt": torch.full((1, 2), float(EMPTY_CLASS))},
    "flag": {"prompt": torch.zeros(1, 5), "drop": True},
    "none": {"prompt": None},
}
"""Ways to call a model without the prompt, which otherwise has five tokens."""


@torch.no_grad()
def steps_of(
    model: Any, form: str, *, seed: int = 0, label: int = 3, scheduler: str = "ddim"
) -> Iterator[Tensor]:
    """The latents after every step."""
    sampler = make_scheduler(scheduler, STEPS)
    x = initial_noise(1, seed) * sampler.init_noise_sigma
    for t in sampler.timesteps:
        time = t.expand(1)
        cond = model(x, time, torch.full((1, 5), float(label)))
        empty = model(x, time, **EMPTY[form])
        x = sampler.step(empty + SCALE * (cond - empty), t, x).prev_sample
        yield x


def drawn(model: Any, form: str, **settings: Any) -> Tensor:
    *_, image = steps_of(model, form, **settings)
    return image


@pytest.mark.parametrize("named", [True, False], ids=["named", "by the fit"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m"])
def test_the_image_is_that_of_one_graph(scheduler: str, named: bool) -> None:
    images, decided = {}, {}
    for form in EMPTY:
        model = compiled(Prompted())
        run = rfc_compile.trajectory("image", num_steps=STEPS)
        with run if named else nullcontext():
            images[form] = drawn(model, form, scheduler=scheduler)
        decisions = rfc_compile.stats(model).decisions
        decided[form] = [d.step for d in decisions if d.full and d.branch == 0]
        assert len(decided[form]) < STEPS - 4
    for form, image in images.items():
        assert decided[form] == decided["tensor"], form
        assert torch.equal(image, images["tensor"]), form


@pytest.mark.parametrize("form", ["length", "flag", "none"])
def test_it_is_as_close_as_in_one_graph(form: str) -> None:
    reference = drawn(Prompted(), form)
    model = compiled(Prompted())
    for _ in range(2):  # the second is a run of its own
        error = (drawn(model, form) - reference).norm() / reference.norm()
        assert error < 0.05


def side_by_side(
    model: Any, runs: Sequence[dict[str, Any]], form: str, order: random.Random
) -> list[Tensor]:
    walks = [steps_of(model, form, **settings) for settings in runs]
    last = [torch.empty(0) for _ in runs]
    for _ in range(STEPS):
        for i in order.sample(range(len(runs)), len(runs)):
            last[i] = next(walks[i])
    return last


@pytest.mark.parametrize("form", ["length", "flag"])
@pytest.mark.parametrize(
    "runs",
    [
        [{"seed": 0}, {"seed": 1}, {"seed": 2}],
        [{"label": 1}, {"label": 5}, {"label": 8}],
        [{}, {}],
    ],
    ids=["other noise", "other prompts", "twins"],
)
def test_images_side_by_side(runs: list[dict[str, Any]], form: str) -> None:
    model, alone = compiled(Prompted()), compiled(Prompted())
    found = side_by_side(model, runs, form, random.Random(2))
    for settings, image in zip(runs, found, strict=True):
        rfc_compile.reset(alone)
        assert torch.allclose(image, drawn(alone, form, **settings), atol=1e-6)


def test_links_end_with_their_runs_and_between_images() -> None:
    model = compiled(Prompted())
    walks = [steps_of(model, "length", label=label) for label in (1, 5)]
    for count in range(STEPS):
        for walk in walks:
            next(walk)
        live = [run for _, run in session_table.running() if run.linked]
        assert len(live) == 4 or count == 0
        assert all(len(run.linked) == 1 for run in live) or count == 0
    rfc_compile.reset(model)
    assert not [run for _, run in session_table.running() if run.linked]


@pytest.mark.parametrize("end", [10, 12])
def test_guidance_that_ends_early_is_exact_or_close(end: int) -> None:
    def image(model: Any) -> Tensor:
        sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 4)
        for step, t in enumerate(sampler.timesteps):
            v = model(x, t.expand(1), torch.full((1, 5), 3.0))
            if step < end:
                empty = model(x, t.expand(1), **EMPTY["length"])
                v = empty + SCALE * (v - empty)
            x = sampler.step(v, t, x).prev_sample
        return x

    with torch.no_grad():
        reference, model = image(Prompted()), compiled(Prompted())
        assert (image(model) - reference).norm() / reference.norm() < 0.05
    decisions = rfc_compile.stats(model).decisions
    assert sum(d.full for d in decisions) < len(decisions) - 4


class Painted(Stack):
    """Latents of four channels: guidance of three of them is a candidate, too."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.unpatch = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        assert text is not None
        h = self.patch(x.flatten(2).mT) + 3 * text.mean(1, keepdim=True)
        return self.unpatch(super().forward(h, t)).mT.unflatten(2, x.shape[2:])


@torch.no_grad()
def painted(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, text = (torch.randn(1, *n, generator=generator) for n in ((4, 2, 4), (5, WIDTH)))
    for step in range(STEPS):
        t = timesteps(900 - 50 * step, batch=1)
        cond, empty = model(x, t, text), model(x, t, 0 * text[:, :2])
        x = x - (empty + SCALE * (cond - empty)) / STEPS
    return x


def test_latents_of_four_channels() -> None:
    model = build(Painted)
    rfc, reference = compiled(model), painted(model)
    assert (painted(rfc) - reference).norm() / reference.norm() < 0.05
    decisions = rfc_compile.stats(rfc).decisions
    assert len(decisions) == STEPS
    assert sum(d.full for d in decisions) < STEPS - 4


def test_wrappers_with_other_options_decide_by_themselves() -> None:
    """The same model and noise, in lockstep: one of them is all full."""
    model = Prompted()
    every, some = (compiled(model, interval=n) for n in (1, 4))
    for _ in zip(steps_of(some, "tensor"), steps_of(every, "tensor"), strict=True):
        pass
    decided = [[d.full for d in rfc_compile.stats(m).decisions] for m in (every, some)]
    assert all(decided[0])
    assert not all(decided[1])


def test_a_run_that_begins_beside_another_knows_its_noise_level() -> None:
    model = compiled(Prompted())
    sampler = make_scheduler("ddim", STEPS)
    x = initial_noise(1, 0)
    with torch.no_grad(), rfc_compile.trajectory("image", target_nfc=6):
        for step, t in enumerate(sampler.timesteps[: STEPS // 2]):
            out = model(x, t.expand(1), torch.full((1, 5), 3.0))
            if step > 4:
                empty = model(x, t.expand(1), **EMPTY["length"])
                out = empty + SCALE * (out - empty)
            x = sampler.step(out, t, x).prev_sample
    found = [run.process for _, run in session_table.running() if run.linked]
    assert len(found) == 2
    assert found[0] is found[1] is not None
    rfc_compile.reset(model)
