"""How close images are to a reference, per sample.

Images are (B, C, H, W) in [-1, 1]. The extra `demo` is needed to call them.
"""

from typing import Final

from torch import Tensor

_DATA_RANGE: Final = 2.0


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        images: (B, C, H, W) in [-1, 1].
        reference: same shape, what the images should be.

    Returns:
        (B,) float32, in dB; infinite where image and reference are identical.
    """
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
    """Structural similarity of each image.

    The window is Gaussian, 11x11 with sigma 1.5; edges are reflected.

    Args:
        images: (B, C, H, W) in [-1, 1], at least 11x11.
        reference: same shape, what the images should be.

    Returns:
        (B,) float32, at most 1; 1 where image and reference are identical.
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
