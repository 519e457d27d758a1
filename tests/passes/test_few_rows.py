"""few_rows: matmuls of few rows by a weight, as sums; everything else stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rfc_compile.passes.rewrites.small_matmuls import MOST_ROWS, small_matmuls

aten = torch.ops.aten
MATMULS = (aten.mm.default, aten.addmm.default)


def traced(
    function: Callable[..., Tensor], *arguments: Tensor
) -> tuple[fx.GraphModule, FakeTensorMode]:
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(value) for value in arguments]
    with mode:
        return make_fx(function)(*fakes), mode


def matmuls(gm: fx.GraphModule) -> int:
    return sum(node.target in MATMULS for node in gm.graph.nodes)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return aten.addmm(bias, x, weight.t())


def without_bias(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return aten.mm(x, weight.t()) + bias


def by_columns(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return aten.addmm(bias, x, weight)


def by_itself(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return aten.mm(x, x)


def arguments(rows: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = (rows, 24), (24, 24), (24,)
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("function", [linear, without_bias])
@pytest.mark.parametrize("rows", [1, 2, MOST_ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_become_sums(
    function: Callable[..., Tensor], rows: int, dtype: torch.dtype
) -> None:
    values = arguments(rows, dtype)
    gm, mode = traced(function, *values)
    small_matmuls(gm, mode)
    gm.recompile()
    assert matmuls(gm) == 0
    code = gm.code
    small_matmuls(gm, mode)
    gm.recompile()
    assert gm.code == code
    expected = function(*values)
    found = gm(*values)
    assert found.dtype == dtype
    assert found.stride() == expected.stride()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("function", "rows", "dtype"),
    [
        (linear, MOST_ROWS + 1, torch.float32),
        (linear, 2, torch.float64),
        (by_columns, 2, torch.float32),
    ],
)
def test_other_matmuls_stay(
    function: Callable[..., Tensor], rows: int, dtype: torch.dtype
) -> None:
    gm, mode = traced(function, *arguments(rows, dtype))
    small_matmuls(gm, mode)
    assert matmuls(gm) == 1


def test_a_matrix_by_itself_stays() -> None:
    square = torch.randn(3, 3)
    gm, mode = traced(by_itself, square, square.clone(), square[0].clone())
    small_matmuls(gm, mode)
    assert matmuls(gm) == 1
