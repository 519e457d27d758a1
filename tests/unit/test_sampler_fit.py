"""The fit of the sampler: linear samplers are explained, other latents are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rfc_compile.runtime.sampler_fit import (
    Fit,
    fit_of,
    gram_matrix,
    rounding_of,
    step_vectors,
)

ROWS, VALUES = 3, 500
SEEDS = st.integers(0, 2**31)
FACTORS = st.floats(0.5, 1.5)
WEIGHTS = st.floats(0.05, 2).flatmap(lambda x: st.sampled_from([x, -x]))


def drawn(seed: int, count: int) -> list[Tensor]:
    """Independent vectors, (R, N) each."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, ROWS, VALUES, generator=generator))


def fitted(
    now: Tensor,
    latents: list[Tensor],
    outputs: list[list[Tensor]],
    rounding: float = 0.0,
) -> Fit:
    gram = gram_matrix(step_vectors(now, latents, outputs))
    return fit_of(gram.numpy(), len(outputs[0]), rounding)


def step(a: float, b: list[float], latent: Tensor, outputs: list[Tensor]) -> Tensor:
    """A linear sampler's next latent."""
    mixed = sum(w * y.double() for w, y in zip(b, outputs, strict=True))
    return a * latent.double() + mixed


@given(SEEDS, FACTORS, st.lists(WEIGHTS, min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_linear_sampler_is_explained(seed: int, a: float, b: list[float]) -> None:
    """With a guidance branch for every weight."""
    latent, *outputs = drawn(seed, 1 + len(b))
    fit = fitted(step(a, b, latent, outputs), [latent], [outputs])
    assert fit.moved
    assert fit.explained
    assert fit.linear
    assert fit.residual < 1e-4
    assert np.allclose(fit.a, a, atol=1e-6)
    assert np.allclose(fit.b, np.array(b), atol=1e-6)


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_every_row_has_factors_of_its_own(seed: int) -> None:
    """As samples of one batch at timesteps of their own."""
    latent, output = drawn(seed, 2)
    a, b = (
        torch.linspace(low, high, ROWS)[:, None] for low, high in ((1, 0.8), (-1, 2))
    )
    fit = fitted(a * latent + b * output, [latent], [[output]])
    assert fit.explained
    assert np.allclose(fit.a, a[:, 0].numpy(), atol=1e-5)
    assert np.allclose(fit.b[:, 0], b[:, 0].numpy(), atol=1e-5)


@given(SEEDS, FACTORS, WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_another_image_is_not_explained(seed: int, a: float, b: float) -> None:
    """Nor is one other row among rows that are."""
    latent, output, other = drawn(seed, 3)
    assert not fitted(other, [latent], [[output]]).explained
    mixed = step(a, [b], latent, [output])
    mixed[1] = other[1].double()
    assert not fitted(mixed, [latent], [[output]]).explained


@given(SEEDS, FACTORS, WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_fresh_noise_is_not_explained(seed: int, a: float, b: float) -> None:
    latent, output, noise = drawn(seed, 3)
    moved = step(a, [b], latent, [output])
    size = (moved - latent.double()).norm() / noise.double().norm()
    assert not fitted(moved + size * noise, [latent], [[output]]).explained


@given(SEEDS, FACTORS, WEIGHTS, WEIGHTS, WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_one_more_step_of_history_explains_a_multistep_solver(
    seed: int, a: float, b: float, before: float, move: float
) -> None:
    """Such a fit is not linear in the last step alone."""
    latent, output, earlier, older = drawn(seed, 4)
    now = step(a, [b, before], latent, [output, older])
    now += move * (latent.double() - earlier.double())
    fit = fitted(now, [latent, earlier], [[output], [older]])
    assert fit.explained
    alone = fitted(now, [latent], [[output]])
    assert fit.linear == alone.linear == alone.explained
    if not alone.explained:
        assert fit.residual < 1e-4


@given(SEEDS, FACTORS, WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_an_output_that_is_there_twice_counts_once(
    seed: int, a: float, b: float
) -> None:
    """Guidance with the same prompt: the first keeps the whole factor."""
    latent, output = drawn(seed, 2)
    now = step(a, [b], latent, [output])
    fit = fitted(now, [latent], [[output, output.clone()]])
    assert fit.explained
    assert np.allclose(fit.b, [b, 0.0], atol=1e-5)


@given(SEEDS, FACTORS, WEIGHTS)
@settings(max_examples=50, deadline=None)
def test_a_zero_output_is_no_obstacle(seed: int, a: float, b: float) -> None:
    latent, output = drawn(seed, 2)
    now = step(a, [b], latent, [output])
    fit = fitted(now, [latent], [[output, torch.zeros_like(output)]])
    assert fit.explained
    assert np.allclose(fit.b, [b, 0.0], atol=1e-5)


@given(SEEDS, st.floats(0.001, 1))
@settings(max_examples=50, deadline=None)
def test_rounding_to_bfloat16_is_no_other_image(seed: int, size: float) -> None:
    """Even where the step is smaller than what rounding does."""
    latent, output = (x.bfloat16() for x in drawn(seed, 2))
    now = (latent.double() + size * output.double()).bfloat16()
    rounding = rounding_of(latent)
    fit = fitted(now, [latent], [[output]], rounding)
    assert fit.explained
    assert np.allclose(fit.b[:, 0], size, atol=0.01)
    (other,) = drawn(seed + 1, 1)
    assert not fitted(other.bfloat16(), [latent], [[output]], rounding).explained


def test_a_latent_that_stands_still_has_not_moved() -> None:
    latent, output = drawn(0, 2)
    fit = fitted(latent.clone(), [latent], [[output]])
    assert not fit.moved
    assert fit.residual == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("rows", [1, ROWS])
def test_what_is_not_finite_explains_nothing(
    value: float, place: int, rows: int
) -> None:
    vectors = [vector[:rows] for vector in drawn(0, 3)]
    vectors[place][0, 7] = value
    now, latent, output = vectors
    fit = fitted(now, [latent], [[output]])
    assert not fit.explained
    assert not fit.linear
    assert np.isfinite([*fit.a, *fit.b[:, 0]]).all()
