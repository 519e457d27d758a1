"""Images drawn side by side: each is the one that is drawn alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from denoising import compiled, small_glyph
from torch import Tensor

import rfc_compile
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

STEPS = 12
CLOSE = {"rtol": 0.0, "atol": 1e-6}


@dataclass(frozen=True)
class Image:
    """How an image is drawn; ``separate``: guidance takes two calls a step."""

    seed: int = 0
    label: int = 3
    strength: float = 1.0
    separate: bool = False

    @torch.no_grad()
    def steps(self, model: Any) -> Iterator[Tensor]:
        """The latents after every step."""
        sampler = make_scheduler("ddim", round(STEPS / self.strength))
        times, x = sampler.timesteps[-STEPS:], initial_noise(1, self.seed)
        if self.strength < 1:
            x = sampler.add_noise(start(self.seed), x, times[:1])
        labels = [self.label, EMPTY_CLASS] if self.separate else [self.label]
        for t in times:
            outputs = [
                model(
                    x, timestep=t.expand(1), class_labels=torch.tensor([label])
                ).sample
                for label in labels
            ]
            v = 2 * outputs[0] - outputs[-1]
            x = sampler.step(v, t, x).prev_sample
            yield x


@cache
def start(seed: int) -> Tensor:
    """An image to begin with; all resemble each other, as the frames of a video do."""
    return (0.8 * initial_noise(1, 99) + 0.2 * initial_noise(1, 100 + seed)).tanh()


ALONE: dict[Image, Tensor] = {}
"""Images drawn by themselves, by a model that has kept nothing."""


def draw_alone(images: Sequence[Image]) -> None:
    """Draw the images that have not been, and see that steps of them are cached."""
    missing = [image for image in dict.fromkeys(images) if image not in ALONE]
    plain, model = small_glyph(), compiled() if missing else None
    for image in missing:
        rfc_compile.reset(model)
        *_, ALONE[image] = image.steps(model)
        *_, uncached = image.steps(plain)
        assert not torch.equal(ALONE[image], uncached), "nothing is cached"


def assert_as_alone(images: Sequence[Image], drawn: Sequence[Tensor]) -> None:
    draw_alone(images)
    for image, found in zip(images, drawn, strict=True):
        assert torch.allclose(found, ALONE[image], **CLOSE), image


def side_by_side(
    model: Any, images: Sequence[Image], order: random.Random | None = None
) -> list[Tensor]:
    """A step of each in turn; with ``order``, shuffled anew at every timestep."""
    walks = [image.steps(model) for image in images]
    last: list[Tensor] = [torch.empty(0)] * len(images)
    turn = list(range(len(images)))
    for _ in range(STEPS):
        if order is not None:
            order.shuffle(turn)
        for i in turn:
            last[i] = next(walks[i])
    return last


def images_of(count: int, kind: str, **settings: Any) -> list[Image]:
    """Of one prompt with other noise, with the same noise, or of other prompts."""
    if kind == "other noise":
        return [Image(seed=i, **settings) for i in range(count)]
    return [Image(label=i, **settings) for i in range(count)]


@pytest.mark.parametrize("shuffled", [False, True], ids=["in turn", "shuffled"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("count", [2, 5, 12])
def test_other_noise(count: int, strength: float, shuffled: bool) -> None:
    images = images_of(count, "other noise", strength=strength)
    order = random.Random(count) if shuffled else None
    assert_as_alone(images, side_by_side(compiled(), images, order))


def test_many_images() -> None:
    images = images_of(32, "other noise")
    assert_as_alone(images, side_by_side(compiled(), images, random.Random(0)))


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_same_noise_and_another_prompt(count: int, strength: float) -> None:
    """Taken for branches of one run at first; each is a run of its own."""
    images = images_of(count, "other prompts", strength=strength)
    assert_as_alone(images, side_by_side(compiled(), images))


def test_the_same_noise_and_prompt() -> None:
    """Twins have the same latents at every step: whose is whose makes no difference."""
    images = [Image()] * 4
    drawn = side_by_side(compiled(), images)
    assert_as_alone(images, drawn)


@pytest.mark.parametrize("count", [2, 6])
def test_guidance_by_separate_calls(count: int) -> None:
    images = images_of(count, "other noise", separate=True)
    assert_as_alone(images, side_by_side(compiled(), images, random.Random(1)))


def call_by_call(model: Any, images: Sequence[Image], arrange: Any) -> list[Tensor]:
    """Both guidance calls of every image at a step, in the order of ``arrange``."""
    samplers = [make_scheduler("ddim", STEPS) for _ in images]
    latents = [initial_noise(1, image.seed) for image in images]
    for t in samplers[0].timesteps:
        calls = arrange([(i, label) for i in range(len(images)) for label in (0, 1)])
        outputs = {
            (i, label): model(
                latents[i],
                timestep=t.expand(1),
                class_labels=torch.tensor([(images[i].label, EMPTY_CLASS)[label]]),
            ).sample
            for i, label in calls
        }
        for i, sampler in enumerate(samplers):
            v = 2 * outputs[i, 0] - outputs[i, 1]
            latents[i] = sampler.step(v, t, latents[i]).prev_sample
    return latents


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("other noise", "shuffled"),
        ("other noise", "by branch"),
        ("other prompts", "by image"),
        ("other prompts", "by branch"),
        ("other prompts", "empty first"),
    ],
)
def test_guidance_calls_in_any_order(kind: str, order: str) -> None:
    """Those of one step: which comes first says nothing of whose it is."""
    images = images_of(3, kind, separate=True)
    shuffled = random.Random(4)
    arrange = {
        "shuffled": lambda calls: shuffled.sample(calls, len(calls)),
        "by branch": lambda calls: sorted(calls, key=lambda call: call[1]),
        "by image": lambda calls: calls,
        "empty first": lambda calls: sorted(calls, key=lambda call: -call[1]),
    }[order]
    assert_as_alone(images, call_by_call(compiled(), images, arrange))


def guided_calls(
    model: Any, scale: float, drawn: dict[float, Tensor], order: random.Random
) -> Iterator[None]:
    """A call in turn of a prompt and of none, as they come; the image at the end."""
    sampler, x = make_scheduler("ddim", STEPS), initial_noise(1, 0)
    for t in sampler.timesteps:
        outputs = {}
        for label in order.sample([3, EMPTY_CLASS], 2):
            given = {"timestep": t.expand(1), "class_labels": torch.tensor([label])}
            with torch.no_grad():
                outputs[label] = model(x, **given).sample
            yield
        v = outputs[EMPTY_CLASS] + scale * (outputs[3] - outputs[EMPTY_CLASS])
        x = sampler.step(v, t, x).prev_sample
    drawn[scale] = x


@pytest.mark.parametrize("seed", range(6))
def test_the_same_noise_and_prompt_guided_otherwise(seed: int) -> None:
    """Nothing but the scale differs, which the model does not see; calls in any order
    within a step."""
    order, model = random.Random(seed), compiled()
    scales, alone, beside = (
        (1.5, 3.0, 5.0),
        dict[float, Tensor](),
        dict[float, Tensor](),
    )
    for scale in scales:
        rfc_compile.reset(model)
        for _ in guided_calls(model, scale, alone, order):
            pass
    rfc_compile.reset(model)
    walks = [guided_calls(model, scale, beside, order) for scale in scales]
    for _ in range(STEPS):
        for walk in order.sample(walks * 2, 2 * len(walks)):
            next(walk, None)
    for walk in walks:
        next(walk, None)
    for scale in scales:
        assert torch.allclose(beside[scale], alone[scale], **CLOSE), scale


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_steps(seed: int) -> None:
    """Images that are ahead of others, or begin when others end."""
    order = random.Random(seed)
    images = [
        Image(i, order.choice([3, 8]), order.choice([0.3, 1.0]), order.random() < 0.3)
        for i in range(6)
    ]
    model = compiled()
    walks, last = {i: image.steps(model) for i, image in enumerate(images)}, {}
    patience = 12  # calls for which one may be left waiting
    waited = dict.fromkeys(walks, 0)
    while walks:
        late = max(walks, key=lambda i: waited[i])
        i = late if waited[late] >= patience else order.choice(list(walks))
        waited = {j: 0 if j == i else n + 1 for j, n in waited.items()}
        step = next(walks[i], None)
        if step is None:
            del walks[i]
        else:
            last[i] = step
    assert_as_alone(images, [last[i] for i in range(len(images))])


@pytest.mark.parametrize("after", [1, 2, 7])
def test_broken_off_and_begun_anew(after: int) -> None:
    """The same images again, while the halves of the first ones are still kept."""
    model, images = compiled(), images_of(3, "other noise")
    walks = [image.steps(model) for image in images]
    for _ in range(after):
        for walk in walks:
            next(walk)
    assert_as_alone(images, side_by_side(model, images))


@torch.no_grad()
def test_the_noise_of_a_run_that_was_broken_off_begins_another() -> None:
    """From where it was left it looks like a step, backwards: of another sampler."""
    model, image = compiled(), Image()
    walk = image.steps(model)
    for _ in range(2):
        next(walk)
    late = [0.5, 0.4, 0.3, 0.2]  # as if for a sampler that begins later

    def draw(denoise: Any) -> Tensor:
        x = initial_noise(1, image.seed)
        for t in late:
            labels = torch.tensor([image.label])
            x = (
                x
                - 0.1
                * denoise(
                    x, timestep=torch.tensor([1000 * t]), class_labels=labels
                ).sample
            )
        return x

    found = draw(model)
    assert rfc_compile.stats(model).steps == len(late)
    rfc_compile.reset(model)
    assert torch.allclose(found, draw(model), **CLOSE)


def test_another_thread_draws_the_same_images() -> None:
    """Each thread has runs of its own; their steps alternate."""
    model, images = compiled(), images_of(3, "other noise")
    list(Image(seed=50).steps(model))  # compiled by one thread
    meet, other = threading.Barrier(2, timeout=120), images_of(3, "other prompts")
    found: dict[str, list[Tensor]] = {}

    def draw(name: str, those: Sequence[Image]) -> None:
        walks = [image.steps(model) for image in those]
        for _ in range(STEPS):
            meet.wait()
            found[name] = [next(walk) for walk in walks]

    threads = [
        threading.Thread(target=draw, args=("a", images)),
        threading.Thread(target=draw, args=("b", other)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_as_alone(images, found["a"])
    assert_as_alone(other, found["b"])
