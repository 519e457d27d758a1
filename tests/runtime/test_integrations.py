"""What diffusers tells the runtime: starts of runs and names of CFG branches."""

from __future__ import annotations

import pytest
import torch
from denoising import LABELS, compiled, run, steps_of
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from diffusers.models.cache_utils import CacheMixin

import rfc_compile
from rfc_compile.integrations.diffusers import connect
from rfc_compile.runtime.call_context import begin_run, branch, current_context
from rfc_compile.runtime.run_boundaries import end_run
from rfc_compile.tools.measure.glyph_dit import initial_noise

OPTIONS = {"schedule": "interval", "interval": 3, "warmup": 2}


def test_connecting_twice_wraps_once() -> None:
    connect()
    methods = DiffusionPipeline.progress_bar, CacheMixin.cache_context
    connect()
    assert (DiffusionPipeline.progress_bar, CacheMixin.cache_context) == methods
    assert methods[0].__name__ == "progress_bar"


def test_cache_context_names_the_branch() -> None:
    connect()
    model = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    assert current_context().branch is None
    with model.cache_context("cond"):
        assert current_context().branch == "cond"
        with model.cache_context("uncond"):
            assert current_context().branch == "uncond"
        assert current_context().branch == "cond"
    assert current_context().branch is None


def test_a_progress_bar_starts_a_run() -> None:
    connect()
    pipeline = DiffusionPipeline()
    pipeline.set_progress_bar_config(disable=True)
    before = current_context().run
    with pipeline.progress_bar(total=3) as bar:
        started = current_context().run
        assert current_context().iterations == 3
        bar.update()
    assert started > before
    assert current_context().run == 0
    runs = [current_context().run for _ in pipeline.progress_bar(range(2))]
    assert runs == [started + 1] * 2
    assert current_context().run == 0
    for _ in pipeline.progress_bar(range(2)):
        assert current_context().iterations == 2
    for _ in pipeline.progress_bar(iter(range(2))):
        assert current_context().iterations is None
    assert current_context().iterations is None


@pytest.mark.parametrize("iterations", [20, 14, 40])
def test_the_iterations_of_a_pipeline_are_the_steps_of_its_run(iterations: int) -> None:
    """About so many: another number changes where full steps are."""
    model = compiled(target_nfc=5)
    drawn = []
    for _ in range(2):
        number = begin_run(iterations)
        *_, image = steps_of(model)
        end_run(number)
        drawn.append(image)
        decisions = rfc_compile.stats(model).decisions
        assert len(decisions) == 20
        full = [decision.step for decision in decisions if decision.full]
        assert len([step for step in full if step < iterations]) == 5
        # a run that goes on after its last step has as large a share of full ones
        assert len(full) <= round(5 * max(20, iterations) / iterations) + (
            iterations < 20
        )
    assert torch.equal(*drawn)
    if iterations == 20:
        with rfc_compile.trajectory("named", num_steps=20):
            *_, image = steps_of(model)
        assert torch.equal(image, drawn[0])


def test_a_run_of_a_pipeline_is_never_split() -> None:
    """Fresh noise at every step follows from nothing that was returned."""
    model = compiled(**OPTIONS)
    number = begin_run(20)
    for step in range(20):
        x = initial_noise(2, step)
        timestep = torch.full((2,), 950 - 50 * step)
        with torch.no_grad():
            model(x, timestep=timestep, class_labels=LABELS)
    end_run(number)
    stats = rfc_compile.stats(model)
    assert (stats.steps, stats.last) == (20, None)
    assert stats.nfc < 20


def test_a_known_start_begins_a_trajectory() -> None:
    """Although the timestep and the latent go on as if it were the same run."""
    model = compiled(**OPTIONS)
    for step, _ in enumerate(steps_of(model)):
        if step == 7:
            begin_run()
    statistics = rfc_compile.stats(model)
    assert statistics.last is not None
    assert (statistics.last.steps, statistics.steps) == (8, 12)
    assert [d.full for d in statistics.decisions[:3]] == [True, True, False]


def test_named_branches_are_not_mixed() -> None:
    """Calls that look alike go to the branch that they name."""
    options = {**OPTIONS, "corrector": "off"}  # they are no guidance: both are images
    model = compiled(**options)
    runs = {name: steps_of(model) for name in ("cond", "uncond")}
    images = {}
    for _ in range(20):
        for name, steps in runs.items():
            with branch(name):
                images[name] = next(steps)
    decisions = rfc_compile.stats(model).decisions
    assert len(decisions) == 40
    for index in (0, 1):
        own = [d.full for d in decisions if d.branch == index]
        assert own == [d.full for d in decisions if d.branch == 0]
    assert torch.equal(images["cond"], images["uncond"])
    assert torch.equal(images["cond"], run(compiled(**options)))
