"""How close images are to a reference, per sample.

Images are (B, C, H, W) in [-1, 1]. The extra `demo` is needed to call them.
"""

from typing import Final

from torch import Tensor

_DATA_RANGE: Final = 2.0


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,); infinite if identical."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check_shapes(images, reference)
    value: Tensor = peak_signal_noise_ratio(
        images.float(),
        reference.float(),
        data_range=_DATA_RANGE,
        reduction="none",
        dim=(1, 2, 3),
    )
    return value


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image, (B,); 1 if identical.

    The window is Gaussian, 11x11 with sigma 1.5; edges are reflected.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_shapes(images, reference)
    value = structural_similarity_index_measure(
        images.float(),
        reference.float(),
        data_range=_DATA_RANGE,
        reduction="none",
    )
    assert isinstance(value, Tensor)
    return value


def _check_shapes(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.ndim != 4:
        raise ValueError(
            "images and reference must have the same shape (B, C, H, W), not "
            f"{tuple(images.shape)} and {tuple(reference.shape)}"
        )
