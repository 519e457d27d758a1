"""What the model draws without caching, and how close other images are to it.

    reference = draw_reference(target, seeds)      once
    similarity(images, reference)                  PSNR and SSIM of what was drawn

Needs the extra `demo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.errors import OptionError, TargetError, one_line
from rfc_compile.tools.measure.metrics import psnr, ssim
from rfc_compile.tools.measure.target import Target

IDENTICAL_DECIBELS: Final = 120.0
"""What identical images are given, and the most that any are."""

REPEATABLE_DECIBELS: Final = 60.0
"""How close two draws of one seed must be: kernels may add up in another order."""

_SMALLEST_FOR_SSIM: Final = 11


@dataclass(frozen=True)
class Reference:
    """What the model draws without caching, one entry per seed.

    Attributes:
        images: (B, ...) by seed, on the CPU.
        span: difference of the largest and the smallest possible value: 2 for images
            in [-1, 1], else that of the values drawn.
    """

    target: Target
    images: Mapping[int, Tensor]
    span: float

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were drawn."""
        return tuple(self.images)

    def of(self, seeds: Sequence[int]) -> Reference:
        """The part with these seeds."""
        return replace(self, images={seed: self.images[seed] for seed in seeds})


def draw_reference(target: Target, seeds: Sequence[int]) -> Reference:
    """Draw every seed without caching, the first one twice.

    Raises:
        TargetError: the sampler fails, never calls the model, returns something else
            than a tensor of finite floats, or not the same for the same seed.
    """
    images = {seed: _checked_draw(target, seed) for seed in seeds}
    largest = max(float(x.abs().max()) for x in images.values())
    span = 2.0 if largest <= 1 else _spread(images.values())
    if not span:
        raise TargetError(f"{target.name}: every value of every image is the same")
    first = next(iter(images))
    again = _checked_draw(target, first)
    if again.shape != images[first].shape or (
        _decibels(again, images[first], span).min() < REPEATABLE_DECIBELS
    ):
        raise TargetError(
            f"{target.name}: two draws of seed {first} differ without caching; call "
            "model.eval(), and take all random numbers of a sampler from its seed"
        )
    return Reference(target, images, span)


def _spread(images: Iterable[Tensor]) -> float:
    values = torch.cat([x.flatten() for x in images])
    return float(values.max() - values.min())


def _checked_draw(target: Target, seed: int) -> Tensor:
    called = False

    def note(*_: object) -> None:
        nonlocal called
        called = True

    with target.model.register_forward_hook(note):
        images = draw_with(target, target.model, seed)
    if not called:
        raise TargetError(
            f"{target.name}: the sampler never calls the model; sample(model, seed) "
            "must draw with the model that it is given"
        )
    if not bool(images.isfinite().all()):
        raise TargetError(
            f"{target.name}: seed {seed} gives NaN or Inf without caching; choose "
            "another sampler, dtype or seed"
        )
    return images


def draw_with(target: Target, model: nn.Module, seed: int) -> Tensor:
    """What the target's sampler draws with a model in place of its own, on the CPU."""
    try:
        with torch.no_grad():
            images: Any = target.draw(model, seed)
    except OptionError:
        raise
    except Exception as error:
        raise TargetError(
            f"{target.name}: drawing seed {seed} fails: {one_line(error)}"
        ) from error
    if not (isinstance(images, Tensor) and images.is_floating_point() and images.ndim):
        raise TargetError(
            f"{target.name}: the sampler must return a tensor of floats (B, ...), not "
            f"{_kind(images)}"
        )
    return images.float().cpu()


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def similarity(drawn: Sequence[Tensor], reference: Reference) -> dict[str, Any]:
    """`psnr`, `psnr_min`, `ssim` and `images` of what was drawn, seed by seed."""
    decibels, similarities = [], []
    for images, wanted in zip(drawn, reference.images.values(), strict=True):
        if images.shape != wanted.shape:
            raise TargetError(
                f"{reference.target.name}: images have shape {tuple(images.shape)} "
                f"with caching and {tuple(wanted.shape)} without"
            )
        finite = images.nan_to_num(nan=reference.span, posinf=reference.span)
        decibels.append(_decibels(finite, wanted, reference.span))
        if min(_as_images(wanted).shape[-2:]) >= _SMALLEST_FOR_SSIM:
            pair = (_scaled(x, reference.span) for x in (finite, wanted))
            similarities.append(ssim(*pair))
    each = torch.cat(decibels)
    return {
        "psnr": float(each.mean()),
        "psnr_min": float(each.min()),
        "ssim": float(torch.cat(similarities).mean()) if similarities else None,
        "images": len(each),
    }


def _decibels(images: Tensor, wanted: Tensor, span: float) -> Tensor:
    values = psnr(_scaled(images, span), _scaled(wanted, span))
    return values.reshape(-1).clamp(max=IDENTICAL_DECIBELS)


def _scaled(images: Tensor, span: float) -> Tensor:
    """As images whose values span 2."""
    return _as_images(images) * (2 / span)


def _as_images(x: Tensor) -> Tensor:
    """(N, C, H, W): frames of a video are images, a list of tokens is one channel."""
    while x.ndim < 4:
        x = x.unsqueeze(1)
    return x.flatten(0, x.ndim - 4)
