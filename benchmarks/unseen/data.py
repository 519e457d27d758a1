"""What the unseen models draw; labels count from 0.

Real images come with scikit-learn: handwritten digits of 8x8 and two photographs.
"""

import math
from functools import cache
from typing import Final

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn import functional as F

POINTS: Final = 64
"""Of a series."""
SIDE: Final = 16
"""Of a part of a photograph, in pixels."""
PARTS: Final = (64, 256)
"""Smallest and largest side of a part of a photograph before it is reduced."""


def digits(labels: Tensor) -> Tensor:
    """Handwritten digits (B, 1, 8, 8) in [-1, 1], of these labels (B,)."""
    images, known = _digits()
    chosen = [_one_of(torch.nonzero(known == label)) for label in labels]
    return images[torch.cat(chosen).flatten()]


def photographs(labels: Tensor) -> Tensor:
    """Square parts (B, 3, 16, 16) in [-1, 1] of photograph 0 or 1, some mirrored."""
    parts = []
    for label in labels.tolist():
        photograph = _photographs()[label]
        smallest, largest = (math.log(side) for side in PARTS)
        side = int(math.exp(smallest + torch.rand(()).item() * (largest - smallest)))
        top, left = (
            int(torch.randint(size - side + 1, ())) for size in photograph.shape[1:]
        )
        part = photograph[:, top : top + side, left : left + side]
        if torch.rand(()) < 0.5:
            part = part.flip(-1)
        parts.append(F.interpolate(part[None], (SIDE, SIDE), mode="area"))
    return torch.cat(parts)


def series(labels: Tensor) -> Tensor:
    """Waves (B, 3, 64) in about [-1, 1]: 5 frequencies, of sines or of saw teeth."""
    count = len(labels)
    time = torch.linspace(0, 1, POINTS)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1) * (high - low) + low

    frequency = 1 + (labels % 5)[:, None] + uniform(-0.1, 0.1)
    height, middle = uniform(0.5, 0.9), uniform(0.2, 0.8)
    phase = frequency * time + uniform(0, 1)
    is_sine = (labels < 5)[:, None]
    wave = torch.where(is_sine, torch.sin(2 * math.pi * phase), 2 * (phase % 1) - 1)
    octave = torch.where(is_sine, 1, 2)
    faded = torch.cos(2 * math.pi * octave * phase) * torch.exp(
        -2 * time * uniform(0, 1)
    )
    step = torch.sigmoid((time - middle) * 20) * 2 - 1
    return torch.stack([wave * height, faded * height, step * height], dim=1)


def _one_of(places: Tensor) -> Tensor:
    return places[torch.randint(len(places), (1,))]


@cache
def _digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 8 - 1
    return images, torch.from_numpy(found.target)


@cache
def _photographs() -> list[Tensor]:
    found: list[np.ndarray] = load_sample_images().images
    return [
        torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1
        for image in found
    ]
