"""Graphs that see no latent with its output: only their stream tells what is new."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, small_glyph
from models import Stack, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

STEPS = 20


def blocks_alone(**options: Any) -> nn.Module:
    """Each block is compiled by itself, and is given the timestep."""
    model = small_glyph(4)
    for block in model.transformer_blocks:
        block.compile(backend="rfc", options={"inner": "eager", **options})
    return model


@torch.no_grad()
def draw(model: nn.Module, scheduler: str, seed: int, *, guided: bool) -> Tensor:
    """An image, with guidance in two calls a step or without."""
    sampler = make_scheduler(scheduler, STEPS)
    generator = torch.Generator().manual_seed(seed)
    x = initial_noise(len(LABELS), seed)
    labels = [LABELS, torch.full_like(LABELS, EMPTY_CLASS)][: 1 + guided]
    for t in sampler.timesteps:
        given = {"timestep": t.expand(len(LABELS))}
        found = [model(x, class_labels=label, **given).sample for label in labels]
        v = 2 * found[0] - found[-1]
        noise = {} if scheduler == "heun" else {"generator": generator}
        x = sampler.step(v, t, x, **noise).prev_sample
    return x


def named(calls: int) -> AbstractContextManager[Any]:
    return rfc_compile.trajectory("run", num_steps=calls)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_two_calls_at_one_timestep_are_two_steps(*, known: bool, guided: bool) -> None:
    """Heun's: nothing but the stream distinguishes them."""
    model, calls = blocks_alone(), 2 * STEPS - 1
    for seed in (1, 2):
        with named(calls) if known else nullcontext():
            found = draw(model, "heun", seed, guided=guided)
        made = rfc_compile.stats(model).decisions
        assert len(made) == calls * (1 + guided)
        assert {one.branch for one in made} == set(range(1 + guided))
        assert sum(one.full for one in made) < 0.45 * len(made)
        expected = draw(small_glyph(4), "heun", seed, guided=guided)
        assert (found - expected).norm() < 0.15 * expected.norm()


def test_a_repeated_call_is_no_further_step() -> None:
    model, t = blocks_alone(), torch.full((len(LABELS),), 500.0)
    x = initial_noise(len(LABELS), 0)
    with named(STEPS), torch.no_grad():
        for time in (t + 100, t, t):
            model(x * time[0] / 1000, timestep=time, class_labels=LABELS)
    assert rfc_compile.stats(model).steps == 2


@pytest.mark.parametrize("guided", [False, True])
def test_fresh_noise_in_blocks_that_are_given_the_timestep(*, guided: bool) -> None:
    """Their input is predicted so badly that no step is cached."""
    model = blocks_alone()
    told = pytest.warns(rfc_compile.UncachedWarning, match="its input cannot be")
    with told, named(STEPS):
        found = draw(model, "ddpm", 1, guided=guided)
    assert torch.equal(found, draw(small_glyph(4), "ddpm", 1, guided=guided))


class Flat(Stack):
    """Its output has another number of dimensions than the latent."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t).flatten(1)


@pytest.mark.parametrize(("noise", "cached"), [(0.0, True), (0.5, False)])
def test_fresh_noise_in_a_model_whose_output_is_not_the_latents(
    noise: float, *, cached: bool
) -> None:
    model = compiled(build(Flat))
    generator = torch.Generator().manual_seed(0)
    x = tokens()
    with named(STEPS), torch.no_grad():
        for step in range(STEPS):
            out = model(x, timesteps(1000 - 50 * step)).view_as(x)
            fresh = torch.randn(x.shape, generator=generator)
            x = (1 - noise) ** 0.5 * (x - 0.05 * out) + noise**0.5 * fresh
    nfc = rfc_compile.stats(model).nfc
    assert nfc <= STEPS // 2 if cached else nfc == STEPS


class Broken(Stack):
    """Dynamo compiles its blocks alone: the loop over them has a graph break."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            torch._dynamo.graph_break()
            x = block(x, c, text)
        return x


@torch.no_grad()
def heun(model: nn.Module) -> Tensor:
    x = tokens()
    for step in range(STEPS):
        out = model(x, timesteps(1000 - 50 * step))
        ahead = model(x - 0.02 * out, timesteps(950 - 50 * step))
        x = x - 0.01 * (out + ahead)
    return x


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_two_calls_with_one_embedding_are_two_steps(
    *, broken: bool, known: bool
) -> None:
    """Blocks are given what is made of the timestep: the same at both calls."""
    expected, calls = heun(build(Stack)), 2 * STEPS
    if broken:
        model = compiled(build(Broken))
    else:
        model = build(Stack)
        for block in model.blocks:
            block.compile(backend="rfc", options={"inner": "eager"})
    for _ in range(2):
        with named(calls) if known else nullcontext():
            found = heun(model)
        made = rfc_compile.stats(model).decisions
        assert len(made) == calls
        assert sum(one.full for one in made) < 0.45 * calls
        assert (found - expected).norm() < 0.02 * expected.norm()


@torch.no_grad()
def in_turn(model: nn.Module, seeds: range) -> None:
    latents = [tokens(seed) for seed in seeds]
    for step in range(STEPS):
        for i, x in enumerate(latents):
            latents[i] = x - 0.02 * model(x, timesteps(1000 - 50 * step))


def test_images_in_turn_that_no_block_can_tell_apart_are_told() -> None:
    """Their blocks are given one embedding, and nobody has said where a run begins."""
    model = compiled(build(Broken))
    with pytest.warns(rfc_compile.UncachedWarning, match="runs in a row of a block"):
        in_turn(model, range(3))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_fresh_noise_in_blocks_that_see_its_embedding_alone(
    noise: float, *, known: bool
) -> None:
    """Steps whose input is not predicted are full, whether the run is named or not."""

    @torch.no_grad()
    def draw_with_noise(model: nn.Module) -> Tensor:
        generator, x = torch.Generator().manual_seed(0), tokens()
        for step in range(STEPS):
            x = x - 0.05 * model(x, timesteps(1000 - 50 * step))
            fresh = torch.randn(x.shape, generator=generator)
            x = (1 - noise) ** 0.5 * x + noise**0.5 * fresh
        return x

    expected = draw_with_noise(build(Stack))
    with named(STEPS) if known else nullcontext():
        found = draw_with_noise(compiled(build(Broken)))
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("timed", [False, True])
@torch.no_grad()
def test_another_image_at_the_timestep_of_a_run_is_no_stage_of_it(
    *, timed: bool, known: bool
) -> None:
    """Heun repeats every timestep from the second on; a named run is one run."""
    options = {"schedule": "mask", "full_steps": [0, 1]}
    if timed:
        model: Any = blocks_alone(**options)
        x = initial_noise(len(LABELS), 0)
    else:
        model, x = compiled(build(Broken), **options), tokens()

    def called(x: Tensor, t: Tensor) -> Tensor:
        if not timed:
            return model(x, t)
        return model(x, timestep=t, class_labels=LABELS).sample

    with named(STEPS) if known else nullcontext():
        for step in range(6):
            t = timesteps(1000 - 50 * step)
            out = called(x, t)
            x = x - 0.02 * out
        assert not rfc_compile.stats(model).decisions[-1].full
        called(x + 0.05 * out, t)
    assert rfc_compile.stats(model).decisions[-1].full is not known
