"""Pictures of images, and of what a schedule saw. Needs the extra `demo`.

Images are (B, C, H, W) in [-1, 1], on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor
from torch.nn.functional import pad

_GAP_PIXELS: Final = 2
_DIFFERENCE_GAIN: Final = 4
_ZOOM: Final = 3


@dataclass(frozen=True)
class ErrorCurve:
    """What the schedule saw during one trajectory, one entry per model call."""

    title: str
    errors: Sequence[float | None]
    """Input prediction error of the step; None where it was not computed."""
    full: Sequence[bool]
    """Whether the step ran the whole model."""


def save_comparison(
    path: Path | BinaryIO, reference: Tensor, cached: dict[str, Tensor], title: str
) -> None:
    """Saves a PNG: a row of the reference, then per label its images and differences.

    Args:
        path: the file to write, or one that is open.
        reference: (B, C, H, W), the images drawn without caching.
        cached: the same images drawn with caching, by row label.
        title: stands above the rows.
    """
    rows = [("uncached", (reference + 1) / 2)]
    for label, images in cached.items():
        difference = (images - reference).abs() / 2 * _DIFFERENCE_GAIN
        rows.append((label, (images + 1) / 2))
        rows.append((f"difference x{_DIFFERENCE_GAIN}", difference))
    size = (1.4 + 0.9 * len(reference), 0.5 + 0.92 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for ax, (label, images) in zip(axes, rows, strict=True):
        ax.imshow(_strip(images), interpolation="nearest")
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.savefig(path, dpi=160, bbox_inches="tight")


def _strip(images: Tensor) -> Tensor:
    """Lays images (B, C, H, W) in [0, 1] side by side, as (H, B * W, C) with gaps."""
    padded = pad(images.clamp(0, 1), (_GAP_PIXELS, _GAP_PIXELS), value=1.0)
    return padded.permute(2, 0, 3, 1).flatten(1, 2)


def save_sheet(path: Path | BinaryIO, images: Tensor, columns: int) -> None:
    """Saves a PNG of images (B, C, H, W), so many in a row, every pixel three times.

    The last row is filled up with white.
    """
    missing = -len(images) % columns
    filled = pad(images, (0, 0, 0, 0, 0, 0, 0, missing), value=1.0)
    starts = range(0, len(filled), columns)
    rows = [_strip((filled[i : i + columns] + 1) / 2) for i in starts]
    pixels = torch.cat(rows).repeat_interleave(_ZOOM, 0).repeat_interleave(_ZOOM, 1)
    imsave(path, pixels.numpy())


def save_error_curves(
    path: Path | BinaryIO, curves: Sequence[ErrorCurve], title: str
) -> None:
    """Saves a PNG: for each curve the error over the steps, with full steps marked."""
    size = (7.5, 0.9 + 1.7 * len(curves))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for ax, curve in zip(axes, curves, strict=True):
        _draw_curve(ax, curve)
    above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False}
    axes[0].legend(ncols=2, fontsize=8, **above)
    axes[-1].set_xlabel("step")
    figure.supylabel("input prediction error", fontsize=10)
    figure.savefig(path, dpi=160)


def _draw_curve(ax: Axes, curve: ErrorCurve) -> None:
    full_steps = [step for step, full in enumerate(curve.full) if full]
    known = [(s, e) for s, e in enumerate(curve.errors) if e is not None]
    at_full = [(step, error) for step, error in known if curve.full[step]]
    for step in full_steps:
        ax.axvline(step, color="tab:orange", alpha=0.35, linewidth=1.2)
    ax.plot(*_columns(known), color="tab:blue", linewidth=1.2, label="error")
    ax.plot(
        *_columns(at_full), "o", color="tab:orange", markersize=4, label="full step"
    )
    ax.set_title(curve.title, fontsize=9, loc="left")
    ax.set_yscale("log")
    ax.margins(x=0.01)
    ax.grid(axis="y", alpha=0.3)


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
