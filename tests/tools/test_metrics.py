"""PSNR and SSIM against the formulas, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from rfc_compile.tools.measure.metrics import psnr, ssim

PEAK = 2.0
WINDOW = 11
SIGMA = 1.5

shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), *[st.integers(11, 16)] * 2)
seeds = st.integers(0, 2**31)


def pair(
    shape: tuple[int, ...], seed: int, noise: float = 0.3
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=generator) * 2 - 1
    change = noise * torch.randn(shape, generator=generator)
    return (reference + change).clamp(-1, 1), reference


def numpy_psnr(images: Tensor, reference: Tensor) -> np.ndarray:
    difference = images.double().numpy() - reference.double().numpy()
    return 10 * np.log10(PEAK**2 / (difference**2).mean(axis=(1, 2, 3)))


def window_mean(values: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean around every pixel of (B, C, H, W), edges reflected."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    line = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = np.outer(line, line) / line.sum() ** 2
    margin = [(0, 0), (0, 0), *[(WINDOW // 2, WINDOW // 2)] * 2]
    padded = np.pad(values, margin, mode="reflect")
    windows = sliding_window_view(padded, (WINDOW, WINDOW), axis=(2, 3))
    return np.einsum("bchwij,ij->bchw", windows, weights)


def numpy_ssim(images: Tensor, reference: Tensor) -> np.ndarray:
    x, y = images.double().numpy(), reference.double().numpy()
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y = window_mean(x), window_mean(y)
    var_x = window_mean(x * x) - mean_x**2
    var_y = window_mean(y * y) - mean_y**2
    covariance = window_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (numerator / denominator).mean(axis=(1, 2, 3))


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=seeds, noise=st.floats(0.01, 1.0))
def test_psnr_is_the_formula(
    shape: tuple[int, int, int, int], seed: int, noise: float
) -> None:
    images, reference = pair(shape, seed, noise)
    value = psnr(images, reference)
    assert value.shape == shape[:1]
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, numpy_psnr(images, reference), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(shape=shapes, seed=seeds, noise=st.floats(0.01, 1.0))
def test_ssim_is_the_formula(
    shape: tuple[int, int, int, int], seed: int, noise: float
) -> None:
    images, reference = pair(shape, seed, noise)
    value = ssim(images, reference)
    assert value.shape == shape[:1]
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, numpy_ssim(images, reference), atol=1e-4)


def test_known_values() -> None:
    """An error of 0.2 everywhere is a hundredth of the squared peak: 20 dB."""
    reference = torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(psnr(reference + 0.2, reference), torch.tensor([20.0]))
    # two flat images: (2 a b + c1) / (a^2 + b^2 + c1), with a = 0
    c1 = (0.01 * PEAK) ** 2
    expected = torch.tensor([c1 / (0.2**2 + c1)])
    torch.testing.assert_close(ssim(reference + 0.2, reference), expected)


def test_identical_images() -> None:
    """Only the identical one of two samples is infinite, or 1."""
    images, reference = pair((2, 3, 16, 16), seed=0)
    images[1] = reference[1]
    assert psnr(images, reference).isinf().tolist() == [False, True]
    assert psnr(images, reference)[1] > 0
    torch.testing.assert_close(ssim(images, reference)[1], torch.tensor(1.0))
    assert ssim(images, reference)[0] < 0.99


@settings(max_examples=20, deadline=None)
@given(seed=seeds, order=st.permutations(range(4)))
def test_every_sample_is_on_its_own(seed: int, order: list[int]) -> None:
    """Permuting the samples permutes the values; so does taking one at a time."""
    images, reference = pair((4, 3, 12, 12), seed)
    for metric in (psnr, ssim):
        whole = metric(images, reference)
        permuted = metric(images[order], reference[order])
        torch.testing.assert_close(permuted, whole[order])
        single = metric(images[2:3], reference[2:3])
        torch.testing.assert_close(single, whole[2:3])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_more_noise_is_worse(seed: int) -> None:
    slight, reference = pair((2, 3, 16, 16), seed, noise=0.05)
    strong, _ = pair((2, 3, 16, 16), seed, noise=0.5)
    for metric in (psnr, ssim):
        assert (metric(strong, reference) < metric(slight, reference)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_single(dtype: torch.dtype) -> None:
    images, reference = (t.to(dtype) for t in pair((2, 3, 16, 16), seed=3))
    for metric in (psnr, ssim):
        value = metric(images, reference)
        torch.testing.assert_close(value, metric(images.float(), reference.float()))


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 1, 16, 16), (3, 16, 16)])
def test_other_shapes_are_refused(metric: object, shape: tuple[int, ...]) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="same shape"):
        metric(torch.zeros(shape), torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_missing_batch_is_refused(metric: object) -> None:
    assert callable(metric)
    image = torch.zeros(3, 16, 16)
    with pytest.raises(ValueError, match=r"\(3, 16, 16\)"):
        metric(image, image)
