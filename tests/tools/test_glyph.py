"""The bundled model and its sampler: sound, repeatable, and drawing digits."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from denoising import small_glyph
from torch import Tensor

from rfc_compile.tools.measure import glyph_dit

LABELS = [1, 0, 8]
SEED = 1
STEPS = 20


def draw(labels: list[int], seed: int, steps: int = 4, **settings: object) -> Tensor:
    """Images of the model's first two blocks."""
    arguments = {"labels": torch.tensor(labels), "seed": seed, "steps": steps}
    return glyph_dit.sample(small_glyph(), **arguments, **settings)  # type: ignore[arg-type]


def draw_well(labels: list[int], seed: int) -> Tensor:
    """Images of the whole model."""
    model = glyph_dit.load_glyph_dit()
    return glyph_dit.sample(model, labels=torch.tensor(labels), seed=seed, steps=STEPS)


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """A 1, a 0 and an 8."""
    return draw_well(LABELS, SEED)


def test_the_bundled_model_loads() -> None:
    model = glyph_dit.load_glyph_dit()
    config = json.loads((glyph_dit.MODEL_FOLDER / "config.json").read_text())
    assert len(model.transformer_blocks) == config["num_layers"] == 12
    assert not model.training
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.device.type == "cpu"
        assert not parameter.requires_grad
        assert parameter.isfinite().all(), name
    gates = [block.norm1.linear.weight for block in model.transformer_blocks]
    assert all(gate.abs().mean() > 1e-3 for gate in gates), "untrained"


def test_the_bundled_model_loads_in_half_precision() -> None:
    model = glyph_dit.load_glyph_dit(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    labels = torch.tensor([3])
    images = glyph_dit.sample(
        model, labels=labels, seed=0, steps=2, dtype=torch.bfloat16
    )
    assert images.dtype == torch.float32
    assert images.isfinite().all()


def test_the_noise_of_an_image_is_that_of_its_seed() -> None:
    noise = glyph_dit.initial_noise(4, seed=10)
    assert noise.shape == (4, *glyph_dit.IMAGE_SHAPE)
    assert torch.equal(noise[2:], glyph_dit.initial_noise(2, seed=12))
    assert noise.std() == pytest.approx(1, abs=0.05)
    distances = torch.cdist(noise.flatten(1), noise.flatten(1))
    assert (distances + 1e3 * torch.eye(4)).min() > 50


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_sampling_is_repeatable(guidance: float) -> None:
    first = draw([3, 8], seed=5, guidance=guidance)
    assert first.shape == (2, *glyph_dit.IMAGE_SHAPE)
    assert first.dtype == torch.float32
    assert first.abs().max() <= 1
    assert torch.equal(first, draw([3, 8], seed=5, guidance=guidance))
    assert (first - draw([3, 8], seed=7, guidance=guidance)).abs().mean() > 0.05


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_image_does_not_depend_on_its_batch(guidance: float) -> None:
    batch = draw([3, 8, 1], seed=5, guidance=guidance)
    alone = draw([8], seed=6, guidance=guidance)
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-4)
    neighbours = draw([0, 8, 7], seed=5, guidance=guidance)
    torch.testing.assert_close(batch[1], neighbours[1], rtol=1e-4, atol=1e-4)
    assert (batch[0] - neighbours[0]).abs().max() > 1e-2  # another label, same seed


def test_guidance_of_one_calls_the_model_once_per_image() -> None:
    model = small_glyph()
    sizes = []

    def denoise(x: Tensor, /, *, timestep: Tensor, class_labels: Tensor) -> object:
        assert len(x) == len(timestep) == len(class_labels)
        assert not torch.is_grad_enabled()
        sizes.append((len(x), class_labels.tolist()))
        return model(x, timestep=timestep, class_labels=class_labels)

    labels = torch.tensor([3, 8])
    for guidance in (1.0, 2.0):
        glyph_dit.sample(denoise, labels=labels, seed=0, steps=1, guidance=guidance)
    empty = glyph_dit.EMPTY_CLASS
    assert sizes == [(2, [3, 8]), (4, [3, 8, empty, empty])]


@pytest.mark.parametrize("scheduler", glyph_dit.SCHEDULERS)
def test_every_scheduler_draws(scheduler: str) -> None:
    seen = []
    images = draw(
        [3, 8],
        seed=0,
        steps=5,
        scheduler=scheduler,
        progress=lambda done, total: seen.append((done, total)),
    )
    calls = 9 if scheduler == "heun" else 5
    assert seen == [(done, calls) for done in range(1, calls + 1)]
    assert images.isfinite().all()
    assert images.abs().max() <= 1
    assert images.std() > 0.1
    noise = glyph_dit.initial_noise(2, seed=0).clamp(-1, 1)
    assert roughness(images) < 0.7 * roughness(noise)


def test_schedulers_agree_on_the_image() -> None:
    """All of them solve the same equation: their images are close."""
    model, labels = small_glyph(), torch.tensor([3])
    images = {
        name: glyph_dit.sample(
            model, labels=labels, seed=0, steps=20, guidance=1.0, scheduler=name
        )
        for name in glyph_dit.SCHEDULERS
    }
    assert images["ddim"].std() > 0.15
    for name, image in images.items():
        error = (image - images["ddim"]).square().mean().sqrt()
        assert error < 0.06, name


@pytest.mark.parametrize("scheduler", ["", "DDIM", "plms"])
def test_an_unknown_scheduler_is_refused(scheduler: str) -> None:
    with pytest.raises(ValueError, match=r"unknown scheduler .* choose from"):
        draw([1], seed=0, scheduler=scheduler)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_a_bad_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.1000, not {steps}"):
        draw([1], seed=0, steps=steps)


def roughness(images: Tensor) -> float:
    """Mean difference of neighbouring pixels."""
    return float((images[..., 1:] - images[..., :-1]).abs().mean())


def test_digits_stand_out_from_a_smooth_background(digits: Tensor) -> None:
    for image in digits:
        distance, border = distance_from_background(image)
        assert distance.max() > 1.0
        assert float(np.sqrt((distance[border] ** 2).mean())) < 0.1
        assert 0.05 < (distance > distance.max() / 2).mean() < 0.35


def test_digits_have_the_holes_of_their_class(digits: Tensor) -> None:
    """None in a 1, one in a 0, two in an 8."""
    holes = []
    for image in digits:
        distance, border = distance_from_background(image)
        ink = distance > distance.max() / 2
        assert not (ink & border).any()
        holes.append(sum(size >= 6 for size in parts(~ink)) - 1)
    assert holes == [0, 1, 2]


def test_labels_draw_different_digits_from_the_same_noise(digits: Tensor) -> None:
    other = draw_well([8], SEED + 1)[0]
    zero = digits[1]
    assert (other - zero).square().mean().sqrt() > 0.2


def distance_from_background(image: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is from the gradient of colour that best fits the border.

    Returns:
        Distances (H, W), and the mask (H, W) of the border, three pixels wide.
    """
    pixels = image.permute(1, 2, 0).double().numpy()
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[3:-3, 3:-3] = False
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    terms = np.stack([np.ones_like(x), y, x], axis=-1)
    weights = np.linalg.lstsq(terms[border], pixels[border], rcond=None)[0]
    return np.linalg.norm(pixels - terms @ weights, axis=-1), border


def parts(mask: np.ndarray) -> Iterator[int]:
    """Sizes of the connected parts of a mask, in pixels."""
    left = {(int(i), int(j)) for i, j in np.argwhere(mask)}
    while left:
        waiting, size = [left.pop()], 0
        while waiting:
            i, j = waiting.pop()
            size += 1
            near = {(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)} & left
            left -= near
            waiting += near
        yield size
