"""Runs that cannot be cached, or are easily taken for another: the image or a word."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, full_calls, run, small_glyph, steps_of
from models import WIDTH, Stack, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile
from rfc_compile import BudgetWarning, UncachedWarning
from rfc_compile.tools.measure.glyph_dit import (
    GLYPH_DIT,
    initial_noise,
    make_scheduler,
)
from rfc_compile.tools.measure.metrics import psnr

STEPS = 20
UNLINKED = "do not follow from what the model returned"


@pytest.fixture
def silent() -> Iterator[None]:
    """No warning of ours is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        warnings.simplefilter("error", BudgetWarning)
        yield


def prompted(
    model: Any, labels: tuple[int, ...], every: int = 1, steps: int = STEPS
) -> Tensor:
    """An image whose prompt is the next of ``labels`` after so many steps."""
    sampler, x = make_scheduler("ddim", steps), initial_noise(1, 0)
    with torch.no_grad():
        for i, t in enumerate(sampler.timesteps):
            label = torch.tensor([labels[i // every % len(labels)]])
            v = model(x, timestep=t.expand(1), class_labels=label).sample
            x = sampler.step(v, t, x).prev_sample
    return x


@pytest.mark.usefixtures("silent")
def test_many_images_that_begin_together_are_cached_without_a_word() -> None:
    """One loop over images inside the loop over timesteps."""
    model = compiled()
    walks = [steps_of(model, seed=10 * i) for i in range(6)]
    for step in zip(*walks, strict=True):
        assert len(step) == len(walks)
    assert full_calls(model) < len(walks) * STEPS / 2


@pytest.mark.parametrize(
    "options", [{}, {"schedule": "interval", "interval": 4}, {"target_nfc": 8}]
)
def test_what_is_learnt_of_varying_prompts_does_not_outlive_a_run(
    options: dict[str, Any],
) -> None:
    """The same call after other runs gives the same image, the first included."""
    model = compiled(corrector="off", **options)
    first = prompted(model, (3, 8))
    prompted(model, (5,))
    assert torch.equal(prompted(model, (3, 8)), first)
    assert psnr(first, prompted(small_glyph(), (3, 8))).item() > 25


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("every", [20, 10, 5])
def test_a_target_is_met_by_a_run_that_prompts_split(
    every: int, *, named: bool
) -> None:
    """Every part is at least one step in full, and the whole has the target."""
    model, before = compiled(target_nfc=8), 0
    for _ in range(3):
        if named:
            with rfc_compile.trajectory("run", num_steps=STEPS):
                prompted(model, (3, 8, 5, 1), every)
        else:
            prompted(model, (3, 8, 5, 1), every)
        full = full_calls(model) - before
        before += full
        assert full <= 8 + STEPS // every - 1


@pytest.mark.usefixtures("silent")
def test_one_call_to_warm_up_costs_no_target() -> None:
    model, warm_up = compiled(target_nfc=6), initial_noise(2, 99)
    with torch.no_grad():
        model(warm_up, timestep=torch.tensor([999, 999]), class_labels=LABELS)
    for seed in range(3):
        run(model, seed=seed)
        stats = rfc_compile.stats(model)
        assert (stats.steps, stats.nfc) == (STEPS, 6)


def ddpm(model: Any, seed: int = 0) -> None:
    """Fresh noise at every step."""
    sampler = GLYPH_DIT.make_scheduler("ddpm", STEPS)
    generator = torch.Generator().manual_seed(1000 + seed)
    x = initial_noise(2, seed)
    with torch.no_grad():
        for t in sampler.timesteps:
            v = model(x, timestep=t.expand(2), class_labels=LABELS).sample
            x = sampler.step(v, t, x, generator=generator).prev_sample


def test_a_told_run_with_fresh_noise_is_one_run_that_meets_its_target() -> None:
    model = compiled(target_nfc=8)
    with rfc_compile.trajectory("one", num_steps=STEPS):
        ddpm(model)
    stats = rfc_compile.stats(model)
    assert (stats.steps, stats.nfc, stats.last) == (STEPS, 8, None)


@pytest.mark.parametrize("options", [{}, {"target_nfc": 8}])
def test_fresh_noise_that_nobody_told_of_is_computed_in_full(
    options: dict[str, Any],
) -> None:
    model = compiled(**options)
    with pytest.warns(UncachedWarning, match=UNLINKED) as warned:
        ddpm(model)
    assert len(warned) == 1
    assert full_calls(model) == STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        ddpm(model, seed=1)  # said once
    assert any(
        UNLINKED in reason for reason in rfc_compile.explain(model).uncached_reasons
    )


@torch.no_grad()
def queue(model: Any, calls: int) -> None:
    """Every call has the same timesteps; a row moves on to the next place."""
    times, x = torch.tensor([800, 600, 400, 200]), initial_noise(4, 0)
    labels = torch.tensor([3] * 4)
    for i in range(calls):
        x = x - 0.2 * model(x, timestep=times, class_labels=labels).sample
        x = torch.cat([initial_noise(1, 50 + i), x[:-1]])


def test_a_queue_of_frames_is_computed_in_full() -> None:
    model = compiled()
    with pytest.warns(UncachedWarning, match=UNLINKED):
        queue(model, 10)
    assert full_calls(model) == 10


class Numbered(nn.Module):
    """A model that is given the number of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_glyph()

    def forward(self, x: Tensor, timestep: Tensor, number: int) -> Any:
        sample = self.model(x, timestep=timestep, class_labels=LABELS).sample
        return sample * (1 + 0 * number)


@torch.no_grad()
def numbered(model: Any) -> None:
    sampler, x = make_scheduler("ddim", STEPS), initial_noise(2, 0)
    for i, t in enumerate(sampler.timesteps):
        x = sampler.step(model(x, t.expand(2), i), t, x).prev_sample


def test_a_number_that_counts_the_steps_is_told() -> None:
    """Every value has state of its own."""
    model = compiled(Numbered())
    with pytest.warns(UncachedWarning, match="called once"):
        numbered(model)
    assert full_calls(model) == STEPS


@pytest.mark.parametrize(
    "options", [{}, {"schedule": "interval", "interval": 3, "warmup": 2}]
)
def test_rows_at_timesteps_to_and_fro(options: dict[str, Any]) -> None:
    """Each row of a batch is at a step of its own run, in an order of its own."""
    rows, sampler = 4, make_scheduler("ddim", STEPS)
    plain, model = small_glyph(), compiled(**options)
    labels, x, latents = torch.tensor([3] * rows), initial_noise(rows, 0), []
    with torch.no_grad():
        for t in sampler.timesteps:
            latents.append(x)
            v = plain(x, timestep=t.expand(rows), class_labels=labels).sample
            x = sampler.step(v, t, x).prev_sample
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(STEPS, generator=generator) for _ in range(rows)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UncachedWarning)
        for steps in torch.stack(orders, 1):
            x = torch.stack([latents[i][row] for row, i in enumerate(steps)])
            given = {"timestep": sampler.timesteps[steps], "class_labels": labels}
            expected = plain(x, **given).sample
            assert torch.allclose(model(x, **given).sample, expected, atol=1e-6)


def test_two_wrappers_of_one_model() -> None:
    """Each is asked about itself, whichever ran last."""
    model = small_glyph()
    every = compiled(model, schedule="interval", interval=1)
    cached = compiled(model, schedule="interval", interval=4)
    walks = steps_of(every), steps_of(cached, seed=5)
    for _ in zip(*walks, strict=True):
        assert rfc_compile.stats(every).nfc == rfc_compile.stats(every).steps
    run(cached)
    counts = [rfc_compile.stats(wrapper).nfc for wrapper in (every, cached)]
    run(every)
    assert [rfc_compile.stats(w).nfc for w in (every, cached)] == counts
    assert counts[0] == STEPS > counts[1]
    assert [rfc_compile.explain(w).graphs for w in (every, cached)] == [1, 1]
    assert rfc_compile.explain(model).graphs == 2


def test_a_wrapper_that_has_not_run_has_nothing_to_explain() -> None:
    model = small_glyph()
    run(compiled(model))
    other = compiled(model, threshold=0.3)
    assert rfc_compile.explain(other).graphs == 0
    assert not rfc_compile.stats(other).decisions


def test_explain_forgets_the_graphs_of_before_a_reset() -> None:
    model = compiled()
    run(model, steps=4)
    torch.compiler.reset()
    gc.collect()
    assert rfc_compile.explain(model).graphs == 0
    run(model, steps=4)
    assert rfc_compile.explain(model).graphs == 1


class NumberedTime(Stack):
    """Takes the timestep as a Python number, and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(4, WIDTH)

    def forward(self, x: Tensor, t: Any, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + self.labels(y)[:, None], timesteps(t, len(x)))


def test_advice_to_name_the_timestep_goes_where_it_is_found() -> None:
    """Dynamo takes a number for a constant at the first call only."""
    model, labels = compiled(build(NumberedTime)), torch.arange(2)
    with torch.no_grad():
        model(tokens(), 0.9, labels)
        assert "options={'timestep': ...}" in str(rfc_compile.explain(model))
        model(tokens(), 0.8, labels)
    found = str(rfc_compile.explain(model))
    assert "timestep input: t" in found
    assert "options={'timestep': ...}" not in found
