"""A full step of a whole model: its prediction's error, measured and repaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfc_compile.runtime.corrector import Debt, row_norms
from rfc_compile.runtime.latent_pair import LatentPair
from rfc_compile.runtime.readback import read_all
from rfc_compile.runtime.sampler_fit import Array
from rfc_compile.schedules.base import Curvature

ANSWER = 0.1
"""Share of the latent's error that a model is taken to answer to. That answer is in the
measured error as well, so that a debt of more than the error is repaid less: at high
noise of a model that predicts noise."""

DECIMALS = 6
"""The repaid share is rounded to these, so that the order of a sum does not matter."""


@dataclass(frozen=True)
class Repayment:
    """What a full step measured of the cached steps before it.

    Attributes:
        true_error: relative error of its own prediction, of the worst row.
        debt: relative error of the latent that the cached steps have left, of the worst
            row; None where it is not known.
        repaid: the share of it that the outputs repay, of the row with the least.
        curvature: what the error says of the steps to come.
        guided_error: about the relative error of what guidance makes of the output.
    """

    outputs: Sequence[Any]
    true_error: float
    debt: float | None
    repaid: float | None
    curvature: Curvature | None
    guided_error: float


@dataclass(frozen=True)
class Done:
    """The results of a step.

    Attributes:
        history: the kept full steps before a full step; None for a cached one.
        repayment: what a full step showed and repaid, where it was predicted.
    """

    outputs: Sequence[Any]
    history: Sequence[int] | None = None
    repayment: Repayment | None = None


def repay(
    pair: LatentPair,
    latents: Sequence[Any],
    outputs: Sequence[Any],
    predicted: Tensor,
    debt: Debt,
    time: float,
    nodes: Sequence[float],
    *,
    corrects: bool,
) -> Repayment:
    """Compare a full step with its prediction; one copy of 3 R numbers to the host.

    ``latents`` are those of the call, ``predicted`` (R, N) is what a cached step would
    have returned for its latent, ``nodes`` the times of the full steps that are kept
    from now on.
    """
    exact = pair.returned(outputs)
    delta = exact.float() - predicted.float()
    norms = [row_norms(delta), row_norms(exact), row_norms(pair.latent(latents))]
    error, size, latent = (np.asarray(values) for values in read_all(norms))
    curvature = debt.curvature(time, error, (size, latent), nodes)
    own = _ratio(error, size)
    true_error, guided = float(own.max()), float((own * debt.guidance).max())
    share = debt.share(time) if corrects else None
    if share is None:
        return Repayment(outputs, true_error, None, None, curvature, guided)
    assert debt.weight is not None, "a share needs it"
    times = np.abs(share) * debt.weight
    owed = times * _ratio(error, latent)
    damping = pair.damping(own) / (1 + ANSWER * np.maximum(times - 1, 0))
    rounded = np.round(share * damping, DECIMALS)
    amount = torch.tensor(rounded, dtype=torch.float32, device=exact.device)
    return Repayment(
        pair.with_returned(outputs, exact.float() + amount[:, None] * delta),
        true_error,
        float(owed.max()),
        float(damping.min()),
        curvature,
        guided,
    )


def _ratio(value: Array, whole: Array) -> Array:
    return np.where(whole > 0, value / np.where(whole > 0, whole, 1.0), 0.0)
