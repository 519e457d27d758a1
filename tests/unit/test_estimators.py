"""Every estimator against numpy in float64, written here from the formulas alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from rfc_compile.estimators import ESTIMATORS
from rfc_compile.estimators.base import Estimator
from rfc_compile.estimators.step_weights import coefficients_tensor
from rfc_compile.estimators.subspace import solve

Array = NDArray[np.float64]
RIDGE = 0.2
KINDS = [
    (name, order) for name, kind in ESTIMATORS.items() for order in sorted(kind.orders)
]
GAPS = [(8, (7, 6, 5, 4)), (9, (6, 4, 1, 0)), (12, (9, 6, 3, 0)), (7, (5, 4, 1, 0))]


def make(name: str, order: int, ridge: float = RIDGE) -> Estimator:
    return ESTIMATORS[name](order, ridge)


def random_history(
    seed: int, shape: tuple[int, ...] = (3, 4, 5)
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """I now, then four values of I and of O, newest first."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator) for _ in range(9)]
    return values[0], values[1:5], values[5:]


def predict(
    estimator: Estimator,
    now: Tensor,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    step: int,
    full_steps: Sequence[int],
) -> Tensor:
    """Ours, with exactly the history that the estimator asks to keep."""
    width = max(estimator.order, 1)
    weights = torch.tensor(coefficients_tensor(step, full_steps, width))
    statistics = None
    if estimator.statistics:  # measured when the newest of the history was computed
        count = estimator.order + 1
        statistics = estimator.observe(inputs[:count], outputs[:count])
    kept_inputs = inputs[: estimator.inputs_kept]
    kept_outputs = outputs[: estimator.outputs_kept]
    return estimator.predict(now, kept_inputs, kept_outputs, statistics, weights)


def derivatives(outputs: Sequence[Array], full: Sequence[int]) -> tuple[Array, Array]:
    """First and second derivative at the newest step, by divided differences."""
    first = (outputs[0] - outputs[1]) / (full[0] - full[1])
    before = (outputs[1] - outputs[2]) / (full[1] - full[2])
    return first, 2 * (first - before) / (full[0] - full[2])


def expected(
    name: str,
    order: int,
    now: Array,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    step: int,
    full: Sequence[int],
) -> Array:
    """One sample's prediction in float64."""
    k = step - full[0]
    if name == "reuse":
        return outputs[0]
    if name == "subspace":
        basis = np.stack([(inputs[j] - inputs[j + 1]).ravel() for j in range(order)])
        gram = basis @ basis.T
        pull = np.diag(RIDGE * np.diag(gram))
        prior = np.zeros(order)
        prior[0] = k / (full[0] - full[1])
        if order >= 2:  # Taylor's weights on the last two changes
            curvature = k**2 / (full[0] - full[2])
            prior[0] += curvature / (full[0] - full[1])
            prior[1] = -curvature / (full[1] - full[2])
        wanted = basis @ (now - inputs[0]).ravel() + pull @ prior
        c = np.linalg.solve(gram + pull, wanted)
        moves = [outputs[j] - outputs[j + 1] for j in range(order)]
        return outputs[0] + sum(c[j] * moves[j] for j in range(order))
    first, second = derivatives(outputs, full)
    change = k * first + (k**2 / 2 * second if order == 2 else 0)
    if name == "taylor":
        return outputs[0] + change
    ratio = np.linalg.norm(outputs[0] - outputs[1]) / np.linalg.norm(
        inputs[0] - inputs[1]
    )
    length = ratio * np.linalg.norm(now - inputs[0])
    return outputs[0] + length * change / np.linalg.norm(change)


@pytest.mark.parametrize(("step", "full"), GAPS)
@pytest.mark.parametrize(("name", "order"), KINDS)
def test_equals_numpy(name: str, order: int, step: int, full: tuple[int, ...]) -> None:
    now, inputs, outputs = random_history(step)
    ours = predict(make(name, order), now, inputs, outputs, step, full)
    for b in range(len(now)):
        arrays = [[t[b].double().numpy() for t in ts] for ts in (inputs, outputs)]
        wanted = expected(name, order, now[b].double().numpy(), *arrays, step, full)
        np.testing.assert_allclose(ours[b].numpy(), wanted, rtol=2e-4, atol=2e-4)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_taylor_is_exact_on_lines_and_right_about_curvature(
    k: int, gap: int, before: int, scale: int
) -> None:
    full = (20, 20 - gap, 20 - gap - before)
    taylor, valid = coefficients_tensor(20 + k, full, 2)
    assert valid == [1.0, 1.0]

    def estimate(f: list[float]) -> float:
        return f[0] + taylor[0] * (f[0] - f[1]) + taylor[1] * (f[1] - f[2])

    line = [3.0 * scale * s - 7 for s in full]
    assert estimate(line) == pytest.approx(3.0 * scale * (20 + k) - 7)
    # k D_1 + k^2 / 2 D_2 with D_1 the backward difference: on a parabola s^2 it has
    # the true curvature and misses what D_1 lags behind the slope, k * gap
    parabola = [float(s * s) for s in full]
    assert estimate(parabola) == pytest.approx((20 + k) ** 2 - k * gap)


@pytest.mark.parametrize("gap", [1, 3, 5])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_taylor_is_taylorseers_for_equal_gaps(gap: int, k: int) -> None:
    values = np.random.default_rng(gap).normal(size=3)
    first = (values[0] - values[1]) / gap
    second = (first - (values[1] - values[2]) / gap) / gap  # every order by one gap
    wanted = values[0] + k * first + k**2 / 2 * second
    weights, _ = coefficients_tensor(4 * gap + k, (4 * gap, 3 * gap, 2 * gap), 2)
    got = values[0] - weights[0] * np.diff(values)[0] - weights[1] * np.diff(values)[1]
    assert got == pytest.approx(wanted)


def test_weights_without_history_are_zero() -> None:
    assert coefficients_tensor(3, [2], 2) == [[0.0, 0.0]] * 2
    assert coefficients_tensor(3, [], 1) == [[0.0]] * 2
    taylor, valid = coefficients_tensor(5, [3, 1], 3)
    assert taylor == [1.0, 0.0, 0.0]
    assert valid == [1.0, 0.0, 0.0]


def affine_history(spread: Sequence[Sequence[float]]) -> tuple[Tensor, ...]:
    """(I, O) with O affine in I; I moves by the given multiples of two directions."""
    generator = torch.Generator().manual_seed(3)
    start, d1, d2 = torch.randn(3, 2, 6, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    inputs = torch.stack([start + a * d1 + b * d2 for a, b in spread])
    return inputs.float(), (inputs @ weight + 0.5).float()


@pytest.mark.parametrize("order", [1, 2])
def test_rfe_is_exact_when_affine_and_straight(order: int) -> None:
    """Proposition 1: the ratio of the norms is constant."""
    inputs, outputs = affine_history([(9, 0), (4.5, 0), (3, 0), (1, 0)])
    got = predict(make("rfe", order), inputs[0], inputs[1:], outputs[1:], 9, (6, 4, 1))
    torch.testing.assert_close(got, outputs[0], rtol=1e-4, atol=1e-4)


def test_rfe_is_wrong_when_the_direction_turns() -> None:
    inputs, outputs = affine_history([(9, 4), (4.5, 0), (3, 0), (1, 0)])
    got = predict(make("rfe", 1), inputs[0], inputs[1:], outputs[1:], 9, (6, 4, 1))
    assert (got - outputs[0]).abs().max() > 0.1


def test_subspace_is_exact_in_the_span_of_the_history() -> None:
    inputs, outputs = affine_history([(9, -2), (4.5, 0), (3, 1), (1, -1)])
    estimator = make("subspace", 2, ridge=0.0)
    got = predict(estimator, inputs[0], inputs[1:], outputs[1:], 9, (6, 4, 1))
    torch.testing.assert_close(got, outputs[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_subspace_with_a_huge_ridge_is_taylor(order: int) -> None:
    now, inputs, outputs = random_history(5)
    estimator = make("subspace", order, ridge=1e6)
    got = predict(estimator, now, inputs, outputs, 9, (6, 4, 1, 0))
    taylor = make("taylor", min(order, 2))
    wanted = predict(taylor, now, inputs, outputs, 9, (6, 4, 1, 0))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "order"), KINDS)
def test_samples_do_not_see_their_batch_mates(name: str, order: int) -> None:
    now, inputs, outputs = random_history(1, (4, 6, 8))
    estimator, where = make(name, order), (9, (6, 4, 1, 0))

    def run(rows: list[int]) -> Tensor:
        kept = [[t[rows] for t in ts] for ts in (inputs, outputs)]
        return predict(estimator, now[rows], *kept, *where)

    whole = run([0, 1, 2, 3])
    assert torch.equal(run([2, 0, 3, 1]), whole[[2, 0, 3, 1]])
    assert torch.equal(torch.cat([run([0]), run([1, 2, 3])]), whole)


@pytest.mark.parametrize(("name", "order"), KINDS)
def test_no_change_is_finite_and_reuses(name: str, order: int) -> None:
    _, inputs, outputs = random_history(2)
    still = [inputs[0]] * 4
    same = [outputs[0]] * 4
    estimator = make(name, order)
    got = predict(estimator, still[0], still, same, 9, (6, 4, 1, 0))
    assert torch.equal(got, same[0])
    moved = predict(estimator, still[0] + 1, still, outputs, 9, (6, 4, 1, 0))
    assert moved.isfinite().all()


@pytest.mark.parametrize(("name", "order"), KINDS)
def test_one_full_step_is_reuse_whatever_the_slots_hold(name: str, order: int) -> None:
    now, inputs, outputs = random_history(4)
    got = predict(make(name, order), now, inputs, outputs, 3, [1])
    assert torch.equal(got, outputs[0])


@pytest.mark.parametrize("name", ["taylor", "rfe", "subspace"])
def test_two_full_steps_are_order_one(name: str) -> None:
    now, inputs, outputs = random_history(6)
    first = predict(make(name, 1), now, inputs, outputs, 9, (6, 4))
    second = predict(make(name, 2), now, inputs, outputs, 9, (6, 4))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "order"), KINDS)
def test_half_precision_is_computed_in_float32(
    name: str, order: int, dtype: torch.dtype
) -> None:
    now, inputs, outputs = random_history(7)
    lists = [[t.to(dtype) for t in ts] for ts in (inputs, outputs)]
    half = predict(make(name, order), now.to(dtype), *lists, 9, (6, 4, 1, 0))
    wide = [[t.float() for t in ts] for ts in lists]
    single = predict(make(name, order), now.to(dtype).float(), *wide, 9, (6, 4, 1, 0))
    assert half.dtype is dtype
    assert torch.equal(half, single.to(dtype))


@given(st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_solve_equals_numpy(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(5, size, 8))
    matrix = basis @ basis.transpose(0, 2, 1) + 0.1 * np.eye(size)
    right = rng.normal(size=(5, size))
    ours = solve(
        [[torch.tensor(matrix[:, i, j]) for j in range(size)] for i in range(size)],
        [torch.tensor(right[:, i]) for i in range(size)],
    )
    wanted = np.linalg.solve(matrix, right[..., None])[..., 0]
    np.testing.assert_allclose(torch.stack(ours, 1).numpy(), wanted, rtol=1e-8)


def test_solve_drops_a_dependent_direction() -> None:
    """Two equal directions: one of them alone carries the solution."""
    two, one = torch.tensor([2.0]), torch.tensor([1.0])
    first, second = solve([[two, two], [two, two]], [one, one])
    assert (float(first), float(second)) == (0.5, 0.0)
