"""The corrector: a full step repays what the cached steps before it left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rfc_compile.estimators.step_weights import newton_coefficients
from rfc_compile.runtime.corrector import LARGEST, Debt
from rfc_compile.runtime.latent_pair import LatentPair
from rfc_compile.runtime.repayment import repay
from rfc_compile.runtime.sampler_fit import Array, Fit
from rfc_compile.schedules.base import Curvature

ROWS, VALUES = 2, 5


class Sampler:
    """Linear in the outputs: x' = A x + B y, with A and B of a step.

    A multistep one takes C of the latent's last move and D of the last output as well.
    """

    def __init__(
        self, times: Sequence[float], *, grows: bool, multistep: bool = False
    ) -> None:
        gaps = [b - a for a, b in pairwise(times)]
        self.c, self.d = (0.1, -0.02) if multistep else (0.0, 0.0)
        self.b = [*gaps, gaps[-1]]
        self.a = [1 + 0.3 * gap if grows else 1.0 for gap in self.b]
        # what the corrector takes for its own step is that of the step before
        self.a[-1], self.b[-1] = self.a[-2], self.b[-2]

    def fit(self, step: int) -> Fit:
        a, b = np.full(ROWS, self.a[step]), np.full((ROWS, 1), self.b[step])
        c, d = np.full(ROWS, self.c), np.full((ROWS, 1), self.d)
        return Fit(0.0, True, True, True, a, b, c, d)

    def latent(self, outputs: Sequence[Array]) -> Array:
        """After steps with these outputs; the last step's factors are used on."""
        before = now = np.ones((ROWS, VALUES))
        last = np.zeros((ROWS, VALUES))
        for step, output in enumerate(outputs):
            k = min(step, len(self.b) - 1)
            move = self.c * (now - before) + self.b[k] * output + self.d * last
            before, now, last = now, self.a[k] * now + move, output
        return now


def predicted(now: float, nodes: Sequence[float], outputs: Sequence[Array]) -> Array:
    """Newton's extrapolation through the full steps, newest first."""
    weights = newton_coefficients(now, nodes, len(nodes) - 1)
    assert weights is not None
    changes = [new - old for new, old in pairwise(outputs)]
    return outputs[0] + sum(w * c for w, c in zip(weights, changes, strict=True))


def latents_after(
    times: Sequence[float],
    order: int,
    outputs: Sequence[Array],
    sampler: Sampler,
    further: int = 0,
) -> tuple[Array, Array, Array]:
    """The latent after the last step: by true outputs, uncorrected, corrected.

    The first ``order + 1`` steps are full, the last is full, those between are cached.
    ``further`` steps, true as well, come after them.
    """
    nodes = tuple(reversed(times[: order + 1]))
    known = list(reversed(outputs[: order + 1]))
    debt, last = Debt(), len(times) - 1
    cached: list[Array] = []
    for step, time in enumerate(times):
        debt = debt.carried_on(sampler.fit(step - 1) if step else None)
        full = step <= order or step == last
        guess = outputs[step] if step <= order else predicted(time, nodes, known)
        if step == last:
            break
        cached.append(outputs[step] if full else guess)
        debt = debt.after(time, nodes[order - step :] if full else (), full=full)
    share = debt.share(times[-1])
    assert share is not None
    repaid = outputs[last] + share[:, None] * (outputs[last] - guess)
    end = [outputs[last]] * further
    return (
        sampler.latent([*outputs, *end]),
        sampler.latent([*cached, outputs[last], *end]),
        sampler.latent([*cached, repaid, *end]),
    )


@given(
    st.integers(1, 2),
    st.lists(st.floats(0.025, 0.06), min_size=5, max_size=8),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_a_curve_of_one_degree_more_than_predictions_is_repaid_in_full(
    order: int, gaps: list[float], grows: bool, seed: int
) -> None:
    """Lines that are fitted to a parabola, parabolas to a cubic."""
    times = [1 - sum(gaps[:i]) for i in range(len(gaps) + 1)]
    sampler = Sampler(times, grows=grows)
    curve = np.random.default_rng(seed).normal(size=(order + 2, ROWS, VALUES))
    outputs = [sum(c * t**i for i, c in enumerate(curve)) for t in times]
    debt = Debt(tuple(times[order::-1]))
    remainders = [_remainder(debt, t) for t in times[order + 1 :]]
    owed = sum(remainders[:-1]) / remainders[-1]
    assume(owed <= LARGEST / 4)  # more is never added
    exact, cached, corrected = latents_after(times, order, outputs, sampler)
    assert np.abs(corrected - exact).max() < 1e-9
    assert np.abs(cached - exact).max() > 1e-9


@given(st.integers(1, 2), st.integers(5, 8), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_a_multistep_sampler_owes_nothing_two_steps_later(
    order: int, count: int, seed: int
) -> None:
    times = [1 - 0.04 * i for i in range(count)]
    sampler = Sampler(times, grows=False, multistep=True)
    curve = np.random.default_rng(seed).normal(size=(order + 2, ROWS, VALUES))
    outputs = [sum(c * t**i for i, c in enumerate(curve)) for t in times]
    debt = Debt(tuple(times[order::-1]))
    remainders = [_remainder(debt, t) for t in times[order + 1 :]]
    assume(sum(remainders[:-1]) / remainders[-1] <= LARGEST / 4)
    exact, cached, corrected = latents_after(times, order, outputs, sampler, further=1)
    assert np.abs(corrected - exact).max() < 1e-9
    assert np.abs(cached - exact).max() > 1e-9


def _remainder(debt: Debt, time: float) -> float:
    newest, _ = debt.after(time, (), full=False).remainders
    return newest


TIMES = [1.0, 0.9, 0.8, 0.7]


def owing(fit: Fit) -> Debt:
    """Two full steps and a cached one, the sampler always alike."""
    debt = Debt().after(TIMES[0], TIMES[:1], full=True)
    debt = debt.carried_on(fit).after(TIMES[1], TIMES[1::-1], full=True)
    return debt.carried_on(fit).after(TIMES[2], (), full=False)


def fit(
    residual: float = 0.0, *, explained: bool = True, b: float = -0.1, c: float = 0.0
) -> Fit:
    factors = np.ones(1), np.full((1, 1), b), np.full(1, c), np.zeros((1, 1))
    return Fit(residual, True, explained, explained, *factors)


def test_nothing_is_owed_after_a_full_step() -> None:
    debt = Debt().after(TIMES[0], TIMES[:1], full=True)
    debt = debt.carried_on(fit()).after(TIMES[1], TIMES[1::-1], full=True)
    assert debt.carried_on(fit()).share(TIMES[2]) is None


@pytest.mark.parametrize("between", [None, fit(explained=False), fit(c=-0.6)])
def test_nothing_is_repaid_after_a_step_that_is_not_explained(
    between: Fit | None,
) -> None:
    assert owing(fit()).carried_on(between).share(TIMES[3]) is None


@pytest.mark.parametrize("weight", [0.01, 3.0, 40.0])
def test_a_debt_of_many_times_the_error_is_repaid_less(weight: float) -> None:
    """The model's answer to the latent's error is a part of what is measured."""
    debt = owing(fit(b=-weight)).carried_on(fit(b=-weight))
    share, latent = debt.share(TIMES[3]), torch.ones(1, 8)
    assert share is not None
    exact, predicted_ = torch.full((1, 8), 2.0), torch.full((1, 8), 1.9)
    pair = LatentPair(index=0, output=0, dim=1, size=8)
    given_ = debt, TIMES[3], (TIMES[3], *TIMES[1::-1])
    found = repay(pair, [latent], [exact], predicted_, *given_, corrects=True)
    added = found.outputs[0] - exact
    more = max(abs(share[0]) * weight - 1, 0)
    wanted = share[0] / (1 + 0.1 * more) * (exact - predicted_)
    torch.testing.assert_close(added, wanted)


def test_half_is_repaid_where_the_fit_is_rough() -> None:
    exact = owing(fit()).carried_on(fit()).share(TIMES[3])
    rough = owing(fit(0.1)).carried_on(fit(0.1)).share(TIMES[3])
    assert exact is not None
    assert rough is not None
    # Newton's remainders are 0.1 * 0.2 at the cached step and 0.2 * 0.3 at the full one
    assert exact == pytest.approx(1 / 3)
    assert rough == pytest.approx(1 / 6)


def test_a_longer_memory_is_still_measured() -> None:
    """The schedule needs the weight of an output, not what it does two steps later."""
    debt = owing(fit()).carried_on(fit(c=-0.6))
    sizes = np.ones(1), np.ones(1)
    assert debt.curvature(TIMES[3], np.ones(1), sizes, debt.nodes) is not None


@pytest.mark.parametrize("factor", [0.0, 0.2, 5.0, -5.0])
def test_nothing_is_repaid_by_the_factor_of_another_step(factor: float) -> None:
    other = fit(b=factor * fit().b[0, 0])
    assert owing(fit()).carried_on(fit()).carried_on(other).share(TIMES[3]) is None


def test_no_more_than_the_largest_is_added() -> None:
    debt = owing(fit())
    for step in range(1, 10):
        debt = debt.carried_on(fit(b=fit().b[0, 0] / 2**step))
    share = debt.share(TIMES[3])
    assert share is not None
    assert abs(share[0]) == LARGEST


@pytest.mark.parametrize(("left", "repays"), [(0.1, False), (-0.1, False), (0.5, True)])
def test_nothing_is_repaid_where_the_sampler_takes_it_back(
    left: float, repays: bool
) -> None:
    """``left`` of an output is in the latent two steps later."""
    debt = owing(fit()).carried_on(fit())
    assert debt.fit is not None
    taken = (left - 1) * debt.fit.b
    share = replace(debt, fit=debt.fit._replace(d=taken)).share(TIMES[3])
    assert (share is not None) == repays


def test_an_output_without_weight_repays_nothing_that_is_not_finite() -> None:
    share = owing(fit()).carried_on(fit()).carried_on(fit(b=0.0)).share(TIMES[3])
    assert share is None


@given(st.floats(0.01, 0.5), st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_curvature_foretells_the_error_it_was_measured_from(
    error: float, output: float, latent: float
) -> None:
    debt = owing(fit()).carried_on(fit())
    sizes = np.array([output]), np.array([latent])
    found = debt.curvature(TIMES[3], np.array([error]), sizes, debt.nodes)
    assert found is not None
    assert found.output_error(TIMES[3]) == pytest.approx(error / output)
    assert found.debt([TIMES[3]]) == pytest.approx(0.1 * error / latent)
    assert found.output_error(TIMES[0]) == 0


@pytest.mark.parametrize(
    ("a", "b", "counted"),
    [
        (0.9, 0.1, 2.0),  # towards the output: x' = s'/s x + (1 - s'/s) y
        (1.0, 0.1, 1.0),  # a flow whose timesteps rise
        (1.2, -0.3, 1.0),  # noise prediction
        (0.995, 0.1, 1.0),  # v-prediction of the other sign
    ],
)
def test_errors_of_image_prediction_count_more(
    a: float, b: float, counted: float
) -> None:
    ones = np.ones(ROWS)
    fit = Fit(
        *(0.0, True, True, True),
        *(a * ones, b * np.ones((ROWS, 1)), 0 * ones, np.zeros((ROWS, 1))),
    )
    debt = Debt(nodes=(0.0,), fit=fit)
    curvature = debt.curvature(0.5, ones, (ones, ones), (0.5, 0.0))
    assert curvature is not None
    assert curvature.output_weight == pytest.approx(counted / 0.5**2)
    assert curvature.weight == pytest.approx(counted * abs(b) / 0.5**2)


def test_nothing_is_owed_before_the_sampler_is_known() -> None:
    """The error of an output stands for those that follow, at any distance."""
    debt = Debt().after(TIMES[0], TIMES[:1], full=True)
    sizes = np.full(1, 4.0), np.ones(1)
    curvature = debt.curvature(TIMES[1], np.ones(1), sizes, TIMES[1::-1])
    assert curvature == Curvature(0.0, 0.25, ())
    assert curvature.debt(TIMES) == 0
    assert curvature.output_error(TIMES[0]) == curvature.output_error(TIMES[2]) == 0.25
    assert Debt().curvature(TIMES[1], np.ones(1), sizes, TIMES[1::-1]) is None


@pytest.mark.parametrize(
    ("residual", "c", "owes", "mixed"),
    [
        (0.004, -0.5, True, False),  # UniPC
        (0.0002, 1.3, False, False),  # PNDM
        (0.01, 0.9, False, True),  # a latent mixed by a mask
        (0.01, -1.2, False, False),
        (0.0, -0.9, False, False),  # the second stage of KDPM2: its factors are known
        (0.0, -0.2, True, False),  # DPM++ 2M
    ],
)
def test_factors_of_a_longer_memory_carry_no_debt(
    residual: float, c: float, owes: bool, mixed: bool
) -> None:
    one = np.ones((1, 1))
    fit = Fit(residual, True, True, False, one[0], -one, c * one[0], 0.1 * one)
    debt = Debt((1.0,), (np.ones(1), np.zeros(1)))
    debt = debt.carried_on(fit)
    assert (debt.owed is not None) == owes
    sizes = np.ones(1), np.ones(1)
    curvature = debt.curvature(0.5, np.ones(1), sizes, (0.5, 1.0))
    assert curvature is not None
    assert curvature.unpaid == mixed
