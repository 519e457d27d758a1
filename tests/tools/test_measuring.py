"""Targets, references and what is measured against them, on real models."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tuning_factory
from pipelines.images import dit
from torch import Tensor, nn
from tuning_factory import STEPS

from rfc_compile import OptionError, TargetError
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.reference import draw_reference
from rfc_compile.tools.measure.target import Settings, Target, resolve_target
from rfc_compile.tools.measure.trial import measure

INTERVAL = {
    "schedule": "interval",
    "interval": 3,
    "warmup": 3,
    "max_cached_run": None,
    "min_coverage": 0.0,
}

FULL = [0, 1, *range(2, STEPS, 3)]
"""The full steps of a run with a full step in three."""


@pytest.fixture(scope="module")
def target() -> Target:
    return resolve_target(tuning_factory.make())


def test_a_setting_is_measured(target: Target) -> None:
    reference = draw_reference(target, (0, 1))
    assert reference.span == 2
    trial = measure(target, INTERVAL, reference)
    found = trial.measured
    assert (found.nfc, found.steps, found.images) == (len(FULL), STEPS, 2)
    full = [d.step for d in trial.runs[1].decisions if d.full]
    assert full == FULL
    drawn = torch.cat([run.images for run in trial.runs])
    wanted = torch.cat(list(reference.images.values()))
    decibels = psnr(drawn, wanted)
    assert found.psnr == pytest.approx(float(decibels.mean()), abs=1e-4)
    assert found.psnr_min == pytest.approx(float(decibels.min()), abs=1e-4)
    assert found.ssim is not None
    assert 0.3 < found.ssim < 1
    assert found.state_bytes > 1 << 17
    assert (found.graph_breaks, found.recompiles, found.seconds) == (0, 0, None)


def test_a_wanted_number_of_full_steps_is_met_by_every_run(target: Target) -> None:
    """Nobody says how many steps a run has; its timesteps fall evenly."""
    options = {"target_nfc": 12, "min_coverage": 0.0}
    trial = measure(target, options, draw_reference(target, (0, 1)))
    assert [run.nfc for run in trial.runs] == [12, 12]
    assert trial.measured.nfc == 12


def test_times_are_of_runs_that_take_turns(target: Target) -> None:
    reference = draw_reference(target, (0,))
    found = measure(target, INTERVAL, reference, repeats=3, inner="eager").measured
    assert found.seconds is not None
    assert found.uncached_seconds is not None
    assert found.speedup is not None
    assert 0 < found.seconds < 60
    assert 0.3 < found.speedup * found.seconds / found.uncached_seconds < 3


def test_nothing_cached_is_identical(target: Target) -> None:
    options = {"schedule": "interval", "interval": 1, "min_coverage": 0.0}
    found = measure(target, options, draw_reference(target, (3,))).measured
    assert (found.nfc, found.psnr) == (STEPS, 120)


def test_seeds_of_the_bundled_model_share_no_image() -> None:
    target = resolve_target("glyph-dit", Settings(steps=2, images=2))
    drawn = [target.draw(target.model, seed) for seed in (0, 1)]
    every = torch.cat(drawn)
    for i in range(4):
        for j in range(i):
            assert not torch.equal(every[i], every[j])


def test_a_pipeline_is_a_target(tmp_path: Path) -> None:
    """From its folder and as an object, with images in [-1, 1]."""
    torch.manual_seed(0)
    pipe = dit()
    pipe.transformer.eval()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    settings = Settings(steps=STEPS, guidance=1.5, call={"class_labels": [3]})
    loaded = resolve_target(str(tmp_path), settings)
    given = resolve_target(pipe, settings)
    assert given.model is pipe.transformer
    images = draw_reference(loaded, (0,)).images[0]
    assert images.shape == (1, 3, 8, 8)
    assert float(images.min()) >= -1
    assert torch.equal(images, draw_reference(given, (0,)).images[0])
    found = measure(given, INTERVAL, draw_reference(given, (1,)))
    assert (found.measured.nfc, found.measured.steps) == (len(FULL), STEPS)
    assert found.measured.ssim is None  # 8 pixels
    assert pipe.transformer is given.model
    assert given.sampler == "DDIMScheduler"
    assert loaded.fingerprint().differences(given.fingerprint()) == []
    call = {"class_labels": [3]}
    euler = Settings(STEPS, sampler="EulerDiscreteScheduler", call=call)
    other = resolve_target(pipe, euler)
    assert not torch.equal(draw_reference(other, (0,)).images[0], images)
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert given.fingerprint().differences(other.fingerprint()) == [
        "sampler is 'EulerDiscreteScheduler', tuned with 'DDIMScheduler'"
    ]


FACTORY = """
from tuning_factory import make
def broken():
    raise RuntimeError("no weights here")
def one():
    return make()[0]
"""


def test_a_factory_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    made = resolve_target("my_factory:make")
    assert made.fingerprint().model["class"] == "DiTTransformer2DModel"
    assert draw_reference(made, (5,)).images[5].shape == (1, 3, 32, 32)
    with pytest.raises(OptionError, match="my_factory:broken: RuntimeError: no weigh"):
        resolve_target("my_factory:broken")
    with pytest.raises(OptionError, match="my_factory:none: AttributeError"):
        resolve_target("my_factory:none")
    with pytest.raises(TargetError, match=r"my_factory:one must be a pair \(model, sa"):
        resolve_target("my_factory:one")
    with pytest.raises(OptionError, match="steps is not for my_factory:make"):
        resolve_target("my_factory:make", Settings(steps=20))


def test_what_is_no_target_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'nothing' is no target; allowed: glyph-dit"):
        resolve_target("nothing")
    with pytest.raises(OptionError, match="neither a pipeline"):
        resolve_target(3)
    with pytest.raises(OptionError, match="sampler='plms' is not allowed; allowed: dd"):
        resolve_target("glyph-dit", Settings(sampler="plms"))
    with pytest.raises(OptionError, match=str(tmp_path)):
        resolve_target(str(tmp_path))


def draws(sample: Callable[[nn.Module, int], Any]) -> Target:
    return resolve_target((nn.Linear(4, 4), sample))


def noise(seed: int) -> Tensor:
    return torch.randn(1, 4, generator=torch.Generator().manual_seed(seed))


BAD = {
    "never": (lambda model, seed: noise(seed), "the sampler never calls the model"),
    "random": (
        lambda model, seed: model(torch.randn(1, 4)),
        "two draws of seed 0 differ without caching",
    ),
    "nan": (lambda model, seed: model(noise(seed)) * math.nan, "gives NaN or Inf"),
    "kind": (lambda model, seed: [model(noise(seed))], "floats (B, ...), not list"),
    "dtype": (
        lambda model, seed: model(noise(seed)).to(torch.uint8),
        "not torch.uint8",
    ),
    "flat": (lambda model, seed: model(noise(seed)) * 0 + 2, "every value"),
    "fails": (
        lambda model, seed: model(torch.zeros(1, 3)),
        "drawing seed 0 fails: RuntimeError",
    ),
}


@pytest.mark.parametrize(("sample", "message"), BAD.values(), ids=BAD)
def test_what_gives_no_reference_is_refused(
    sample: Callable[[nn.Module, int], Any], message: str
) -> None:
    with pytest.raises(TargetError) as caught:
        draw_reference(draws(sample), (0, 1))
    assert str(caught.value).startswith("(model, sample): ")
    assert message in str(caught.value)


def test_latents_are_compared_by_their_own_spread() -> None:
    found = draw_reference(draws(lambda model, seed: model(noise(seed)) * 10), (0, 1))
    values = torch.cat(list(found.images.values()))
    assert found.span == pytest.approx(float(values.max() - values.min()))


def test_a_wrong_option_stays_an_option_error(target: Target) -> None:
    reference = draw_reference(target, (0,))
    with pytest.raises(OptionError, match="treshold"):
        measure(target, {"treshold": 1}, reference)
