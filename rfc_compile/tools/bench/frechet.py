"""Frechet distance between two sets of images, in the features of a small classifier.

The classifier is trained here, always the same way, on images that the bundled model
draws for each class, and is kept in a file. Its features are the 16 numbers before the
last layer. Distances are only comparable between runs with the same file.

Shape suffixes: B images, C channels, H height, W width, F features.
"""

from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rfc_compile.errors import OptionError, one_line
from rfc_compile.tools.bench.workloads import GLYPH, plain
from rfc_compile.tools.measure import glyph_dit

FEATURES: Final = 16

_MOST_BYTES: Final = 1 << 20
"""Of the classifier's file, which has a hundred thousand."""

_FIRST_SEED: Final = 50_000
_CHUNK: Final = 50
_TRAINING_STEPS: Final = 600
_BATCH: Final = 64
_MOST_SHIFT: Final = 3


class Classifier(nn.Module):
    """Three strided convolutions, 16 features, ten classes; about 26,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, FEATURES),
        )
        self.head = nn.Sequential(nn.GELU(), nn.Linear(FEATURES, glyph_dit.NUM_CLASSES))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores (B, 10)."""
        scores: Tensor = self.head(self.body(images_BCHW))
        return scores


def load_classifier(path: Path, images: int, steps: int) -> Classifier:
    """The classifier kept in a safetensors file; trained and kept there if there is
    none.

    ``images`` are drawn to train on, with so many denoising ``steps`` each.
    """
    model = Classifier().eval().requires_grad_(False)
    if not path.exists():
        save_file(train(*_labelled_images(images, steps)).state_dict(), path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES} bytes")
        model.load_state_dict(load_file(path))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise OptionError(
            f"{path} is not the classifier's file ({one_line(error)}): delete it, and "
            "it is trained again"
        ) from error
    return model.to(glyph_dit.default_device())


def _labelled_images(images: int, steps: int) -> tuple[Tensor, Tensor]:
    denoise = plain(GLYPH.make())
    chunks = [
        GLYPH.draw(denoise, _CHUNK, steps, _FIRST_SEED + first).cpu()
        for first in range(0, images, _CHUNK)
    ]
    labels = torch.arange(_CHUNK) % glyph_dit.NUM_CLASSES
    return torch.cat(chunks), labels.repeat(len(chunks))


def train(images_BCHW: Tensor, labels: Tensor) -> Classifier:
    """A classifier of these images; the same for the same images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(_TRAINING_STEPS):
            chosen = torch.randint(len(images_BCHW), (_BATCH,))
            shift = torch.randint(-_MOST_SHIFT, _MOST_SHIFT + 1, (2,)).tolist()
            batch = images_BCHW[chosen].roll(shift, dims=(2, 3))
            batch = batch[:, torch.randperm(3)]  # colours mean nothing
            loss = nn.functional.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval().requires_grad_(False)


def frechet_distance(first_BF: Tensor, second_BF: Tensor) -> float:
    """Distance of two normal distributions fitted to features (B, F), B >= 2.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)

    It is squared, in squared units of the features.
    """
    first, second = first_BF.double().cpu(), second_BF.double().cpu()
    means = (first.mean(0) - second.mean(0)).square().sum()
    covariances = first.T.cov(), second.T.cov()
    root = _square_root(covariances[0])
    cross = _square_root(root @ covariances[1] @ root).trace()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * cross
    return max(0.0, float(means + spread))


def _square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root
