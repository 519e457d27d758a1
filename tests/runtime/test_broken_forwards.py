"""A forward that Dynamo breaks into several graphs is one model to the sampler."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from models import WIDTH, Block, Stack, build, text_tokens, timesteps, tokens
from torch import Tensor, nn
from torch.nn import functional as F

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.runtime.returned_outputs import extrapolated
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

STEPS = 20
LABELS = torch.tensor([3, 3])


def broken(where: str) -> nn.Module:
    """The bundled model with a graph break before its last layers or a block."""
    model = small_glyph(4)
    part = model.norm_out if where == "end" else model.transformer_blocks[int(where)]
    forward = part.forward

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        torch._dynamo.graph_break()
        return forward(*args, **kwargs)

    part.forward = interrupted
    return model


@torch.no_grad()
def in_turn(
    model: Any,
    seeds: Sequence[int],
    *,
    scheduler: str = "ddim",
    separate: bool = False,
    reverse: bool = False,
) -> list[Tensor]:
    """Images of one prompt, each by one call a step, or two with guidance."""
    samplers = [make_scheduler(scheduler, STEPS) for _ in seeds]
    latents = [initial_noise(1, seed) for seed in seeds]
    labels = [LABELS[:1], torch.tensor([EMPTY_CLASS])][: 1 + separate]
    for step, t in enumerate(samplers[0].timesteps):
        order = range(len(seeds))
        for i in reversed(order) if reverse and step % 2 else order:
            given = partial(model, latents[i], timestep=t.expand(1))
            outputs = [given(class_labels=label).sample for label in labels]
            v = 2 * outputs[0] - outputs[-1]
            latents[i] = samplers[i].step(v, t, latents[i]).prev_sample
    return latents


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "unipc"])
def test_full_steps_repay_as_in_a_whole_forward(
    scheduler: str, *, separate: bool
) -> None:
    (expected,) = in_turn(small_glyph(4), [1], scheduler=scheduler, separate=separate)
    errors, counts = [], []
    for model in (small_glyph(4), broken("end")):
        rfc = compiled(model)
        (found,) = in_turn(rfc, [1], scheduler=scheduler, separate=separate)
        errors.append(distance(found, expected))
        counts.append(rfc_compile.stats(rfc).nfc)
    decisions = rfc_compile.stats(rfc).decisions
    assert counts[1] <= 1.35 * counts[0]
    assert counts[1] < 0.75 * len(decisions)
    assert errors[1] < 2 * errors[0] + 0.02
    assert any(made.repaid for made in decisions)


def test_all_steps_full_are_the_models_own() -> None:
    expected = in_turn(small_glyph(4), [1, 2])
    found = in_turn(compiled(broken("end"), schedule="interval", interval=1), [1, 2])
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_stream_of_a_block_is_not_taken_for_the_latent(dtype: torch.dtype) -> None:
    """Blocks are given the timestep here: one of them leads, and sees no latent."""
    model = compiled(broken("2").to(dtype))

    def called(x: Tensor, **inputs: Any) -> Any:
        return SimpleNamespace(sample=model(x.to(dtype), **inputs).sample.float())

    with rfc_compile.trajectory("run", num_steps=STEPS):
        in_turn(called, [1], scheduler="unipc")
    reasons = [made.reason for made in rfc_compile.stats(model).decisions if made.full]
    assert set(reasons[2:]) == {"even"}
    assert len(reasons) <= STEPS // 2


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("where", ["end", "0", "2"])
def test_images_drawn_in_turn_are_those_drawn_alone(
    where: str, *, reverse: bool
) -> None:
    """The timestep alone cannot tell them apart: their prompt is the same."""
    model = compiled(broken(where))
    alone = []
    for seed in (1, 2, 3):
        rfc_compile.reset(model)
        alone += in_turn(model, [seed])
    assert rfc_compile.stats(model).nfc < 0.75 * STEPS
    rfc_compile.reset(model)
    found = in_turn(model, [1, 2, 3], reverse=reverse)
    assert all(map(torch.equal, found, alone))


def test_what_answers_the_latent_is_found_anew_when_the_graphs_change() -> None:
    """The last graph is compiled again, as for other sizes."""
    model = compiled(broken("end"))
    first = in_turn(model, [1])[0]
    sessions = [s for d in dispatchers_of(model) for s in d.sessions()]
    (session,) = [one for one in sessions if one.answered_by is not None]
    session.answered_by = object()
    assert torch.equal(in_turn(model, [1])[0], first)


def test_an_output_that_the_caller_overwrites_is_kept_as_it_was() -> None:
    def overwriting(model: Any, overwrite: bool) -> Tensor:
        sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 1)
        for t in sampler.timesteps:
            v = model(x, timestep=t.expand(1), class_labels=LABELS[:1]).sample
            x = sampler.step(v, t, x).prev_sample
            if overwrite:
                v.zero_()
        return x

    with torch.no_grad():
        found = [overwriting(compiled(broken("end")), how) for how in (False, True)]
    assert torch.equal(*found)


class Storing(nn.Module):
    """A last layer that keeps what it is given, while it is asked to."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.stores = layer, False
        self.stored: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.stores:
            self.stored = 2 * x
        result: Tensor = self.layer(x)
        return result


@pytest.mark.parametrize("stores", [range(8), range(10, 20), range(0, 20, 5)])
def test_another_last_graph_is_another_answer(stores: Sequence[int]) -> None:
    """Its outputs stand at other places: the pair of the graph before is of no use."""
    (expected,) = in_turn(small_glyph(4), [1])
    model: Any = broken("end")
    model.proj_out_2 = Storing(model.proj_out_2)
    rfc = compiled(model)
    sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 1)
    with torch.no_grad():
        for step, t in enumerate(sampler.timesteps):
            model.proj_out_2.stores = step in stores
            v = rfc(x, timestep=t.expand(1), class_labels=LABELS[:1]).sample
            x = sampler.step(v, t, x).prev_sample
    assert distance(x, expected) < 0.15
    assert rfc_compile.stats(rfc).nfc < STEPS


def test_a_run_that_ends_leaves_nothing_of_its_last_forward() -> None:
    model = compiled(broken("end"))
    in_turn(model, [1])
    sessions = [s for d in dispatchers_of(model) for s in d.sessions()]
    branches = [weakref.ref(b) for s in sessions for r in s.live for b in r.branches]
    assert branches
    del sessions
    gc.collect()
    gc.disable()
    try:
        rfc_compile.reset(model)
        assert not any(branch() for branch in branches)
    finally:
        gc.enable()


def test_a_forward_that_is_interrupted_and_repeated() -> None:
    """Its run has lost an output and stands beside the one that goes on."""
    model = broken("end")
    rfc = compiled(model)
    in_turn(rfc, [2])
    sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 1)
    for step, t in enumerate(sampler.timesteps):
        given = {"timestep": t.expand(1), "class_labels": LABELS[:1]}
        with torch.no_grad():
            if step == 6:
                hook = model.norm_out.register_forward_pre_hook(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    rfc(x, **given)
                hook.remove()
            x = sampler.step(rfc(x, **given).sample, t, x).prev_sample
    full = [made.full for made in rfc_compile.stats(rfc).decisions]
    assert sum(full) < 0.75 * STEPS
    (expected,) = in_turn(small_glyph(4), [1])
    assert distance(x, expected) < 0.15


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_outputs_at_one_time_are_extrapolated_once() -> None:
    branch: Any = SimpleNamespace(
        kept_full=[(5.0, torch.full((1, 2), 3.0)), (5.0, torch.ones(1, 2))]
    )
    found = extrapolated(branch, [5.0, 5.0], 4.0, torch.zeros(1, 2))
    assert found is not None
    assert torch.equal(found, torch.full((1, 2), 3.0))


class Patched(Stack):
    """Broken behind its patch embedding; what it returns is unlike the stream."""

    def forward(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:  # type: ignore[override]
        stream = self.embed(x.flatten(2))
        torch._dynamo.graph_break()
        prompt = self.head(p)
        stream = stream + F.scaled_dot_product_attention(stream, prompt, prompt)
        stream = self.run_blocks(stream, self.time(t), stream)
        return self.head(self.norm(stream)).unflatten(-1, x.shape[2:])


@torch.no_grad()
def guided_in_turn(model: Any, seeds: Sequence[int]) -> list[Tensor]:
    """Images of prompts of their own, by two calls a step each."""
    latents = [tokens(seed).unflatten(-1, (4, -1)) for seed in seeds]
    for step in range(STEPS):
        time = timesteps(10 - step / 2)
        for i, seed in enumerate(seeds):
            prompts = text_tokens(50 + seed), text_tokens(0)
            wanted, empty = (model(latents[i], time, p) for p in prompts)
            latents[i] = latents[i] - (3 * wanted - 2 * empty) / 80
    return latents


def test_images_in_turn_where_no_result_is_like_the_stream() -> None:
    """The prompt is no latent, and the stream no prompt that changes."""
    model = compiled(build(Patched))
    alone = []
    for seed in (1, 2):
        rfc_compile.reset(model)
        alone += guided_in_turn(model, [seed])
    assert rfc_compile.stats(model).nfc < 0.75 * 2 * STEPS
    rfc_compile.reset(model)
    assert all(map(torch.equal, guided_in_turn(model, [1, 2]), alone))


class Unmodulated(Block):
    """Is given no timestep."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TimeToken(Stack):
    """The time is a token, and every block a graph that is given the stream alone."""

    block = Unmodulated

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        x = torch.cat([c[:, None], x], 1)
        for block in self.blocks:
            torch._dynamo.graph_break()
            x = block(x, c, text)
        return x[:, 1:]


@torch.no_grad()
def warnings_of(model: Any) -> list[str]:
    """Ours, of an image."""
    x = tokens()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for step in range(24):
            x = x - model(x, timesteps(10 - step / 2)) / 80
    return [str(w.message) for w in found if w.category is UncachedWarning]


def test_blocks_of_which_none_tells_its_steps_are_told() -> None:
    (warning,) = warnings_of(compiled(build(TimeToken)))
    assert "no input of this graph changes with the timestep" in warning
    assert "the graph breaks that explain() tells" in warning


class Scattered(Stack):
    """Every layer is a graph of its own."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        for block in self.blocks:
            for layer in (block.attn, block.mlp):
                torch._dynamo.graph_break()
                x = x + layer(x)
        return x


def test_graphs_without_a_region_are_told_once() -> None:
    (warning,) = warnings_of(compiled(build(Scattered)))
    assert "no graph that runs has an attention or MLP" in warning


class Heavy(Stack):
    """Most of its work is a graph without a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(WIDTH, 999), nn.Linear(999, WIDTH))

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        x = self.wide(x)
        torch._dynamo.graph_break()
        return super().forward(x, t, text)


def test_regions_with_little_of_a_broken_forward_are_told() -> None:
    (warning,) = warnings_of(compiled(build(Heavy), min_coverage=0.3))
    assert "of the FLOPs, less than min_coverage=0.3" in warning
    assert not warnings_of(compiled(build(Heavy), min_coverage=0.1))
