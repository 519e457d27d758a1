"""Where full steps go: by the noise level that the sampler's first step tells."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.registry import reset
from rfc_compile.schedules.even import Even
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.metrics import psnr

FLOW, VIDEO, VELOCITY, EPSILON = (
    MODELS[name]
    for name in ("emoji-flux", "motion-hunyuan", "glyph-dit", "glyph-dit-epsilon")
)
WANTED = 6
EAGER: dict[str, Any] = {"inner": "eager"}
OPTIONS = {**EAGER, "target_nfc": WANTED}
STEPS = 20


@pytest.fixture(scope="module")
def compiled() -> dict[str, nn.Module]:
    return {
        model.name: torch.compile(
            model.load(), backend="rfc", dynamic=False, options=OPTIONS
        )
        for model in (FLOW, VIDEO, VELOCITY, EPSILON)
    }  # type: ignore[return-value]


def drawn(model: Any, net: Any, scheduler: str, **given: Any) -> Tensor:
    settings = {"seed": 20, "steps": STEPS, "guidance": 1.0, **given}
    images: Tensor = model.sample(
        net, model.conditions(2), scheduler=scheduler, **settings
    )
    return images.flatten(2, -2) if images.ndim == 5 else images


def full_steps(net: Any) -> list[int]:
    known = rfc_compile.stats(net)
    assert known is not None
    return [d.step for d in known.decisions if d.full and d.branch == 0]


def cached(
    model: Any, net: Any, scheduler: str, *, named: bool = True, **given: Any
) -> tuple[list[int], Tensor]:
    """The full steps of a run with as many as wanted, and its images."""
    reset(net)
    with rfc_compile.trajectory("run", num_steps=STEPS) if named else nullcontext():
        images = drawn(model, net, scheduler, **given)
    return full_steps(net), images


EVENLY = [0, 4, 7, 10, 14, 17]


@pytest.mark.parametrize(
    ("flow", "scheduler"),
    [
        (FLOW, "euler_shift3"),  # at shift 1 even steps are nearer on this model
        (FLOW, "euler_shift7"),
        (VIDEO, "euler"),
        (VIDEO, "euler_dynamic"),
        (VIDEO, "unipc"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_flow_is_nearer_to_the_full_run_than_evenly_spread(
    compiled: dict[str, nn.Module],
    flow: Any,
    scheduler: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = compiled[flow.name]
    plain = drawn(flow, flow.load(), scheduler)
    steps, images = cached(flow, net, scheduler)
    monkeypatch.setattr(Even, "by_noise", False)
    evenly, others = cached(flow, net, scheduler)
    assert evenly == EVENLY
    assert len(steps) == WANTED
    assert steps != EVENLY
    assert psnr(images, plain).mean() > psnr(others, plain).mean() + 1.5


@pytest.mark.parametrize(
    ("model", "scheduler", "shift"),
    [
        (FLOW, "euler_shift3", "_shift3"),
        (FLOW, "euler_dynamic", "_dynamic"),
        (VIDEO, "euler", ""),
        (VELOCITY, "ddim", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_nearer_than_as_many_steps_of_a_good_solver(
    compiled: dict[str, nn.Module], model: Any, scheduler: str, shift: str
) -> None:
    net, plain = compiled[model.name], model.load()
    wanted = drawn(model, plain, scheduler)
    steps, images = cached(model, net, scheduler)
    assert len(steps) == WANTED
    fewer = [
        psnr(drawn(model, plain, solver + shift, steps=WANTED), wanted).mean()
        for solver in ("unipc", "dpmpp_2m")
    ]
    assert psnr(images, wanted).mean() > max(fewer) + 0.5


@pytest.mark.parametrize("named", [True, False], ids=["named", "by the fit"])
@pytest.mark.parametrize("separate", [False, True])
def test_guidance_in_any_form_has_the_same_full_steps(
    compiled: dict[str, nn.Module], separate: bool, named: bool
) -> None:
    net = compiled[FLOW.name]
    expected, _ = cached(FLOW, net, "euler_shift3")
    guided = {"guidance": 3.0, "separate": separate}
    found, _ = cached(FLOW, net, "euler_shift3", named=named, **guided)
    assert found == expected


def test_low_precision_has_the_same_full_steps(compiled: dict[str, nn.Module]) -> None:
    expected, _ = cached(FLOW, compiled[FLOW.name], "euler")
    net = torch.compile(
        FLOW.load(torch.bfloat16), backend="rfc", dynamic=False, options=OPTIONS
    )
    found, _ = cached(FLOW, net, "euler", dtype=torch.bfloat16)
    assert found == expected


class Rising(nn.Module):
    """A flow whose timesteps rise from 0 to 1, and whose output points to the image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, timestep: Tensor, **given: Any) -> Tensor:
        return -self.model(x, timestep=1 - timestep, **given).sample


def test_rising_timesteps_have_the_same_full_steps(
    compiled: dict[str, nn.Module],
) -> None:
    """The form of SiT, Lumina and others: drawn by Euler's rule written out."""
    model = Rising(FLOW.load())
    net = torch.compile(model, backend="rfc", dynamic=False, options=OPTIONS)
    inputs, _ = FLOW.encode(FLOW.conditions(2))
    inputs = {**inputs, **FLOW.shared}
    latent = torch.randn(2, *FLOW.latent_shape, generator=torch.manual_seed(0))
    with torch.no_grad():
        for step in range(STEPS):
            time = torch.full((2,), step / STEPS)
            latent = latent + net(latent, timestep=time, **inputs) / STEPS
    found = full_steps(net)
    steps, _ = cached(FLOW, compiled[FLOW.name], "euler", named=False)
    assert found == steps


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "unipc"])
def test_v_prediction_goes_by_the_noise_and_epsilon_by_steps(
    compiled: dict[str, nn.Module], scheduler: str
) -> None:
    """An epsilon model amplifies what errs at the start of a run."""
    by_noise, _ = cached(VELOCITY, compiled[VELOCITY.name], scheduler)
    by_steps, _ = cached(EPSILON, compiled[EPSILON.name], scheduler)
    assert by_steps == EVENLY
    assert len(by_noise) == WANTED
    assert by_noise[1] > EVENLY[1] - 1
    assert by_noise != EVENLY


def test_without_the_corrector_it_is_the_same(compiled: dict[str, nn.Module]) -> None:
    """The first step is looked at all the same."""
    expected, _ = cached(FLOW, compiled[FLOW.name], "euler")
    options = {**OPTIONS, "corrector": "off"}
    net = torch.compile(FLOW.load(), backend="rfc", dynamic=False, options=options)
    found, _ = cached(FLOW, net, "euler")
    assert found == expected


def test_samples_that_are_decided_by_themselves_have_the_same_full_steps(
    compiled: dict[str, nn.Module],
) -> None:
    expected, _ = cached(FLOW, compiled[FLOW.name], "euler")
    options = {**OPTIONS, "per_sample": True}
    net = torch.compile(FLOW.load(), backend="rfc", dynamic=True, options=options)
    with rfc_compile.trajectory("rows", num_steps=STEPS):
        drawn(FLOW, net, "euler", guidance=3.0)
    known = rfc_compile.stats(net)
    assert known is not None
    found = [[d.step for d in one.decisions if d.full] for one in known.samples]
    assert found == [expected] * 4


class Doubled(nn.Module):
    """A flow of another unit, which tells nobody its noise level."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, timestep: Tensor, **given: Any) -> Tensor:
        return 2 * self.model(x, timestep=timestep, **given).sample


def test_where_the_noise_is_not_known_the_first_interval_is_one_step() -> None:
    """Told the number of steps or not: they are no measure of the noise."""
    net = torch.compile(
        Doubled(FLOW.load()), backend="rfc", dynamic=False, options=EAGER
    )
    inputs, _ = FLOW.encode(FLOW.conditions(2))
    inputs = {**inputs, **FLOW.shared}
    found = []
    for run in (nullcontext(), rfc_compile.trajectory("run", num_steps=STEPS)):
        latent = torch.randn(2, *FLOW.latent_shape, generator=torch.manual_seed(0))
        with torch.no_grad(), run:
            for step in range(STEPS):
                time = torch.full((2,), 1 - step / STEPS)
                latent = latent - net(latent, timestep=time, **inputs) / STEPS / 2
        found.append(full_steps(net))
    assert found[0] == found[1]
    assert found[0][:2] == [0, 1]
    assert len(found[0]) < STEPS / 2


class Clean(nn.Module):
    """A flow that returns the image, at timesteps of a thousand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, timestep: Tensor, **given: Any) -> Tensor:
        time = timestep / 1000
        flow = self.model(x, timestep=time, **given).sample
        image: Tensor = x - time[:, None, None] * flow
        return image


def test_a_flow_that_returns_the_image_is_not_taken_for_one() -> None:
    """Its sampler has the same factors, but its latents hold little noise."""
    net: Any = torch.compile(
        Clean(FLOW.load()), backend="rfc", dynamic=False, options=EAGER
    )
    inputs, _ = FLOW.encode(FLOW.conditions(2))
    inputs = {**inputs, **FLOW.shared}
    x = torch.randn(2, *FLOW.latent_shape, generator=torch.manual_seed(0))
    with torch.no_grad():
        for step in range(STEPS):
            time = torch.full((2,), 1000.0 * (1 - step / STEPS))
            image = net(x, timestep=time, **inputs)
            x = x + (image - x) / (STEPS - step)
    assert full_steps(net)[:2] == [0, 1]
    assert len(full_steps(net)) < STEPS / 2


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "unipc"])
def test_where_noise_is_predicted_two_full_steps_come_first(scheduler: str) -> None:
    net = torch.compile(EPSILON.load(), backend="rfc", dynamic=False, options=EAGER)
    named, _ = cached(EPSILON, net, scheduler)
    unnamed, _ = cached(EPSILON, net, scheduler, named=False)
    assert named[:2] == unnamed[:2] == [0, 1]
