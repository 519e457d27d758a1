"""`min_psnr`: as many full steps as the image needs, or all of them and a word."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph

import rfc_compile
from rfc_compile.schedules.promise import MARGIN, psnr_of, tolerance_for
from rfc_compile.tools.measure.emoji_flux import EMOJI_FLUX
from rfc_compile.tools.measure.glyph_dit import GLYPH_DIT, GLYPH_DIT_EPSILON
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.trained_model import TrainedModel

EAGER = {"inner": "eager"}


def sampled(trained: TrainedModel, model: Any, scheduler: str) -> torch.Tensor:
    return trained.sample(
        model, trained.conditions(4), seed=40, scheduler=scheduler, steps=50
    )


@pytest.mark.parametrize(
    ("trained", "scheduler"),
    [(GLYPH_DIT, "ddim"), (GLYPH_DIT_EPSILON, "dpmpp_2m"), (EMOJI_FLUX, "euler")],
    ids=lambda value: getattr(value, "name", value),
)
def test_images_have_what_was_asked_for(trained: TrainedModel, scheduler: str) -> None:
    """More decibels are more full steps, without a warning.

    Nine of ten hold it; here it is the mean.
    """
    torch._dynamo.reset()
    wanted = sampled(trained, trained.load(), scheduler)
    model = torch.compile(trained.load(), backend="rfc", options=EAGER)
    full = []
    for asked in (30.0, 40.0):
        with (
            warnings.catch_warnings(),
            rfc_compile.trajectory("image", num_steps=50, min_psnr=asked),
        ):
            warnings.simplefilter("error", rfc_compile.BudgetWarning)
            image = sampled(trained, model, scheduler)
        assert psnr(image, wanted).mean() >= asked
        stats = rfc_compile.stats(model)
        assert stats.estimated_psnr == pytest.approx(asked + MARGIN)
        assert f"about {asked + MARGIN:.0f} dB" in str(stats)
        full.append(stats.nfc)
    assert full[0] < full[1] < 50


def test_fresh_noise_takes_all_steps_and_says_so() -> None:
    """The error cannot be estimated where the sampler adds noise."""
    model = compiled(min_psnr=35)
    with (
        pytest.warns(rfc_compile.BudgetWarning, match="min_psnr=35 took all 50 steps"),
        rfc_compile.trajectory("image", num_steps=50),
    ):
        image = sampled(GLYPH_DIT, model, "ddpm")
    stats = rfc_compile.stats(model)
    assert stats.estimated_psnr == math.inf
    assert torch.equal(image, sampled(GLYPH_DIT, small_glyph(), "ddpm"))
    assert {made.reason for made in stats.decisions[3:]} == {"not_foretold"}


def test_more_than_cached_steps_give_takes_all_steps_and_says_so() -> None:
    model = compiled()
    with (
        pytest.warns(rfc_compile.BudgetWarning, match="ask for less"),
        rfc_compile.trajectory("image", num_steps=20, min_psnr=100),
    ):
        GLYPH_DIT.sample(model, GLYPH_DIT.conditions(1), seed=0, steps=20)
    assert rfc_compile.stats(model).nfc == 20


@pytest.mark.parametrize(
    "other",
    [
        {"tolerance": 0.1},
        {"threshold": 0.1},
        {"target_nfc": 9},
        {"target_speedup": 2.0},
        {"schedule": "interval"},
        {"corrector": "off"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_it_stands_alone(other: dict[str, Any]) -> None:
    (name,) = other
    with pytest.raises(rfc_compile.OptionError, match=f"{name}=.*exclude") as raised:
        rfc_compile.Options(min_psnr=35, **other)
    assert "min_psnr=35" in str(raised.value)


def test_a_promise_is_its_margin_below_the_average() -> None:
    for asked in (20.0, 35.0, 60.0):
        assert psnr_of(tolerance_for(asked)) == pytest.approx(asked + MARGIN)
    assert tolerance_for(40) < tolerance_for(35)


@pytest.mark.parametrize("asked", [30.0, 50.0])
def test_of_a_model_and_of_a_run_are_alike(asked: float) -> None:
    """An option of the model is the run's where the run asks for nothing."""
    torch._dynamo.reset()
    found = []
    for options, wish in (({"min_psnr": asked}, {}), ({}, {"min_psnr": asked})):
        model = compiled(**options)
        with rfc_compile.trajectory("image", num_steps=20, **wish):
            found.append(
                GLYPH_DIT.sample(model, GLYPH_DIT.conditions(1), seed=1, steps=20)
            )
    assert torch.equal(*found)
