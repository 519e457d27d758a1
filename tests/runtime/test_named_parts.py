"""One named run, several latents: windows, images in turn, one bar over many images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from diffusers import DiffusionPipeline, HeunDiscreteScheduler
from torch import Tensor, nn

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime.call_context import current_context
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

STEPS = 20
LABEL = torch.tensor([3])
Sampler = Callable[[Any], Tensor]


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return small_glyph(4)


@contextlib.contextmanager
def bar(total: int = STEPS, scheduler: Any = None) -> Iterator[None]:
    """What a pipeline does around its sampling loop."""
    pipeline = DiffusionPipeline()
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)
    with pipeline.progress_bar(total=total):
        yield


RUNS = {
    "pipeline": bar,
    "trajectory": lambda: rfc_compile.trajectory("run", num_steps=STEPS),
}


@torch.no_grad()
def predicted(model: Any, x: Tensor, t: Tensor, label: Tensor = LABEL) -> Tensor:
    given = {"timestep": t.expand(len(x)), "class_labels": label.expand(len(x))}
    output: Tensor = model(x, **given).sample
    return output


def windows(model: Any) -> Tensor:
    """MultiDiffusion: three windows of a wide latent, the overlaps averaged."""
    sampler, x = make_scheduler("ddim", STEPS), torch.randn(1, 3, 32, 56)
    for t in sampler.timesteps:
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for start in (0, 12, 24):
            part = slice(start, start + 32)
            total[..., part] += predicted(model, x[..., part], t)
            count[..., part] += 1
        x = sampler.step(total / count, t, x).prev_sample
    return x


def guided_windows(model: Any) -> Tensor:
    """Two windows, guidance by separate calls, in another order at every step."""
    sampler, x = make_scheduler("ddim", STEPS), torch.randn(1, 3, 32, 64)
    for step, t in enumerate(sampler.timesteps):
        total = torch.zeros_like(x)
        for start in (0, 32) if step % 2 else (32, 0):
            part = slice(start, start + 32)
            cond = predicted(model, x[..., part], t)
            empty = predicted(model, x[..., part], t, torch.tensor([EMPTY_CLASS]))
            total[..., part] = empty + 2 * (cond - empty)
        x = sampler.step(total, t, x).prev_sample
    return x


def in_turn(model: Any) -> Tensor:
    """Two images, drawn one call each a step."""
    samplers = [make_scheduler("ddim", STEPS) for _ in range(2)]
    latents = [initial_noise(1, seed) for seed in range(2)]
    for t in samplers[0].timesteps:
        for i, sampler in enumerate(samplers):
            v = predicted(model, latents[i], t)
            latents[i] = sampler.step(v, t, latents[i]).prev_sample
    return torch.cat(latents)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("draw", [windows, guided_windows, in_turn])
@pytest.mark.parametrize("run", RUNS)
def test_every_latent_goes_on_by_itself(
    plain: nn.Module, draw: Sampler, run: str
) -> None:
    """Taken for the next step of another one, they were off by half."""
    torch.manual_seed(0)
    expected = draw(plain)
    model = compiled(small_glyph(4))
    torch.manual_seed(0)
    with RUNS[run]():
        found = draw(model)
        stats = rfc_compile.stats(model)
    assert distance(found, expected) < 0.2
    assert stats.nfc < 0.7 * len(stats.decisions)


def test_images_in_turn_through_blocks_compiled_one_by_one(plain: nn.Module) -> None:
    model: Any = small_glyph(4)
    type(model)._repeated_blocks = ["BasicTransformerBlock"]
    model.compile_repeated_blocks(backend="rfc", options={"inner": "eager"})
    with bar():
        found = in_turn(model)
        stats = rfc_compile.stats(model)
    assert distance(found, in_turn(plain)) < 0.15
    assert stats.nfc < 0.7 * len(stats.decisions)


def rolling(model: Any) -> Tensor:
    """Frames in a queue, at the same timesteps in every call (FIFO diffusion)."""
    times = torch.tensor([100, 300, 500, 700])
    frames = torch.cat([initial_noise(1, seed) for seed in range(4)])
    for seed in range(16):
        with torch.no_grad():
            labels = LABEL.expand(4)
            v = model(frames, timestep=times, class_labels=labels).sample
        frames = torch.cat([(frames - 0.2 * v)[1:], initial_noise(1, 9 + seed)])
    return frames


def test_calls_at_the_same_timesteps_throughout_are_full_and_told(
    plain: nn.Module,
) -> None:
    model = compiled(small_glyph(4))
    with pytest.warns(UncachedWarning, match="at the timestep before"), bar():
        found = rolling(model)
    assert torch.equal(found, rolling(plain))


def drawn(model: Any, seed: int, scheduler: Any = None) -> Tensor:
    sampler = make_scheduler("ddim", STEPS) if scheduler is None else scheduler
    x = initial_noise(1, seed) * sampler.init_noise_sigma
    for t in sampler.timesteps:
        scaled = sampler.scale_model_input(x, t)
        x = sampler.step(predicted(model, scaled, t), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    "options",
    [{"interval": 3}, {"target_nfc": 24}, {"target_speedup": 3.0}, {}],
    ids=str,
)
def test_one_bar_over_several_images(plain: nn.Module, options: dict[str, Any]) -> None:
    """The history of one image was that of the next, 30 dB worse."""
    model = compiled(small_glyph(4), **options)
    with bar(3 * STEPS):
        found = [drawn(model, seed) for seed in range(3)]
        stats = rfc_compile.stats(model)
    errors = [distance(x, drawn(plain, seed)) for seed, x in enumerate(found)]
    assert max(errors) < 0.25
    assert stats.nfc < 0.7 * len(stats.decisions)
    assert stats.decisions[STEPS].full
    if "interval" in options:
        alone = []
        for seed in range(3):
            with bar():
                alone.append(drawn(model, seed))
        assert all(map(torch.equal, found, alone))


@pytest.mark.parametrize("wanted", [8, 12])
def test_a_solver_of_order_two_spreads_its_full_steps_over_all_calls(
    wanted: int,
) -> None:
    """The bar counts 20 iterations, the model is called 39 times."""
    scheduler = HeunDiscreteScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(STEPS)
    model = compiled(small_glyph(4), target_nfc=wanted)
    with bar(STEPS, scheduler):
        drawn(model, 0, scheduler)
        decisions = rfc_compile.stats(model).decisions
    full = [made.step for made in decisions if made.full]
    assert len(decisions) == 2 * STEPS - 1
    assert len(full) == wanted
    assert full[-1] > 1.5 * STEPS


def test_latents_that_a_callback_replaces_begin_a_new_history(
    plain: nn.Module,
) -> None:
    others: list[Tensor] = []

    def swapped(model: Any, at: int | None) -> Tensor:
        sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, at or 5)
        for step, t in enumerate(sampler.timesteps):
            if step == at:
                x = others[step]
            if at is None:
                others.append(x)
            x = sampler.step(predicted(model, x, t), t, x).prev_sample
        return x

    swapped(plain, None)
    model = compiled(small_glyph(4))
    with bar():
        found = swapped(model, 8)
        decisions = rfc_compile.stats(model).decisions
    assert decisions[8].full
    assert decisions[8].reason == "discontinuity"
    assert distance(found, swapped(plain, 8)) < 0.1


def test_more_prompts_than_guidance_has_branches(plain: nn.Module) -> None:
    def mixed(model: Any) -> Tensor:
        sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 0)
        for t in sampler.timesteps:
            outputs = [predicted(model, x, t, torch.tensor([i])) for i in range(10)]
            x = sampler.step(torch.stack(outputs).mean(0), t, x).prev_sample
        return x

    model = compiled(small_glyph(4))
    with bar():
        found = mixed(model)
        stats = rfc_compile.stats(model)
    assert distance(found, mixed(plain)) < 0.15
    assert stats.nfc < 0.7 * len(stats.decisions)


def test_the_first_image_is_the_one_drawn_later() -> None:
    """An expert takes over in the midst of a run: its first steps show no sampler."""
    early = small_glyph(4)

    def experts(model: Any) -> Tensor:
        sampler, x = make_scheduler("unipc", STEPS), initial_noise(1, 1)
        with bar(STEPS):
            for step, t in enumerate(sampler.timesteps):
                which = early if step < 8 else model
                x = sampler.step(predicted(which, x, t), t, x).prev_sample
        return x

    model = compiled(small_glyph(4))
    assert torch.equal(experts(model), experts(model))


def test_windows_at_other_places_at_every_step_are_full(plain: nn.Module) -> None:
    """A window's content is another one's, which is far but not unlike it."""

    def shifted(model: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        sampler = make_scheduler("ddim", STEPS)
        x = torch.randn(1, 3, 32, 64, generator=generator)
        for t in sampler.timesteps:
            shift = int(torch.randint(64, (), generator=generator))
            rolled, total = x.roll(shift, -1), torch.zeros_like(x)
            for start in (0, 32):
                part = slice(start, start + 32)
                total[..., part] = predicted(model, rolled[..., part], t)
            x = sampler.step(total.roll(-shift, -1), t, x).prev_sample
        return x

    model = compiled(small_glyph(4), interval=3)
    with bar():
        found = shifted(model)
        held = rfc_compile.stats(model).cache_bytes
        decisions = rfc_compile.stats(model).decisions
    assert distance(found, shifted(plain)) < 0.4
    assert all(made.full for made in decisions[:4])
    assert held < 12 * 143_360


def test_timesteps_that_change_places_between_rows(plain: nn.Module) -> None:
    def swapping(model: Any) -> Tensor:
        x = torch.cat([initial_noise(1, seed) for seed in range(2)])
        for times in [(800, 600), (600, 800), (800, 600), (500, 700)]:
            with torch.no_grad():
                labels = LABEL.expand(2)
                v = model(x, timestep=torch.tensor(times), class_labels=labels).sample
            x = x - 0.05 * v
        return x

    with bar(4):
        found = swapping(compiled(small_glyph(4)))
    assert torch.equal(found, swapping(plain))


@pytest.mark.parametrize("count", [4, 20])
def test_images_that_begin_at_timesteps_of_their_own(count: int) -> None:
    """Requests of several strengths, in turn and without names."""
    model = compiled(small_glyph(4))
    samplers = [make_scheduler("ddim", 40) for _ in range(count)]
    times = [sampler.timesteps[i : i + 10] for i, sampler in enumerate(samplers)]
    latents = [initial_noise(1, seed) for seed in range(count)]
    for step in range(10):
        for i, sampler in enumerate(samplers):
            t = times[i][step]
            v = predicted(model, latents[i], t)
            latents[i] = sampler.step(v, t, latents[i]).prev_sample
    full = sum(d.graphs["full"].calls for d in dispatchers_of(model))
    assert full < 0.6 * 10 * count


def test_a_bar_that_counts_timesteps_is_believed() -> None:
    """SDXL with denoising_end: a slice of the timesteps of a solver of order 2."""
    scheduler = HeunDiscreteScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(STEPS)
    with bar(31, scheduler):
        assert current_context().iterations == 31
    with bar(STEPS, scheduler):
        assert current_context().iterations == 2 * STEPS - 1


def test_branches_that_lag_behind_are_freed_where_there_are_many() -> None:
    """An input that is new at every second step is never known to vary."""
    model = compiled(small_glyph(4))
    sampler, x = make_scheduler("ddim", 40), initial_noise(1, 0)
    sizes = []
    with bar(40):
        for step, t in enumerate(sampler.timesteps):
            label = torch.tensor([step // 2 % 10])
            x = sampler.step(predicted(model, x, t, label), t, x).prev_sample
            sizes.append(rfc_compile.stats(model).cache_bytes)
    assert max(sizes) <= 9 * sizes[0]
