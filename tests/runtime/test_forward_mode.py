"""Forward-mode derivatives: right ones, uncached, and it is said why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from models import MatmulAttention, Stack, build, timesteps, tokens
from torch import Tensor, nn
from torch.autograd import forward_ad

import rfc_compile
from rfc_compile import UncachedWarning


def by_dual_numbers(model: Any, x: Tensor, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        result = model(forward_ad.make_dual(x, tokens(1)), t)
        return forward_ad.unpack_dual(result).tangent.clone()


def by_jvp(model: Any, x: Tensor, t: Tensor) -> Tensor:
    return torch.func.jvp(lambda value: model(value, t), (x,), (tokens(1),))[1]


@pytest.mark.parametrize(
    ("tangent", "before"),
    [(by_dual_numbers, 0), (by_dual_numbers, 1), (by_jvp, 1)],
)  # first called in jvp, Dynamo gives a function up for good, whatever the backend
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_tangents_are_those_of_the_model(
    inner: str, before: int, tangent: Callable[[Any, Tensor, Tensor], Tensor]
) -> None:
    plain: nn.Module = build(Stack)
    for block in plain.blocks:  # of attention by matmuls, which has such derivatives
        block.attn.__class__ = MatmulAttention
    options = {"inner": inner, "min_coverage": 0.0, "schedule": "interval"}
    model = torch.compile(plain, backend="rfc", options=options)
    with torch.no_grad(), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UncachedWarning)
        for step in range(12):
            call = tokens() * (1 - 0.03 * step), timesteps(20 - step)
            if step // 4 == before:
                found, exact = tangent(model, *call), tangent(plain, *call)
                torch.testing.assert_close(found, exact)
            else:  # images are cached as ever
                model(*call)
        warned = [str(w.message) for w in seen if w.category is UncachedWarning]
    full = [d.full for d in rfc_compile.stats(model).decisions]
    assert {*full} == {True, False}
    if tangent is by_dual_numbers:  # Dynamo leaves jvp alone
        (text,) = warned
        assert "forward-mode derivatives are wanted" in text
