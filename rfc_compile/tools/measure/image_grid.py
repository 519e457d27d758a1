"""Pictures of images, and of figures. Needs the extra `demo`.

Images are (B, C, H, W) in [-1, 1], on the CPU.
"""

import io
from pathlib import Path
from typing import BinaryIO, Final

from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

_GAP_PIXELS: Final = 2
_DIFFERENCE_GAIN: Final = 4


def as_png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def save_comparison(
    path: Path | BinaryIO, reference: Tensor, cached: dict[str, Tensor], title: str
) -> None:
    """Saves a PNG: a row of the reference, then by label images and differences."""
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
