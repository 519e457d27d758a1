"""End to end through inductor, on the bundled model cut to two blocks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from denoising import compiled, run, small_glyph
from options import MODULES
from torch import Tensor

import rfc_compile
from rfc_compile.runtime.registry import dispatchers_of

pytestmark = pytest.mark.slow


class Recorder:
    """Casts the latent, keeps every output and checks that inputs stay untouched."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.outputs: list[Tensor] = []

    def __call__(self, x: Tensor, **inputs: Tensor) -> Any:
        """One forward."""
        given = [x.to(self.dtype), *inputs.values()]
        kept = [value.clone() for value in given]
        result = self.model(given[0], **inputs)
        for value, before in zip(given, kept, strict=True):
            assert torch.equal(value, before)
        self.outputs.append(result.sample.clone())
        return result


def outputs_of(
    model: Any, dtype: torch.dtype = torch.float32, **run_settings: Any
) -> Any:
    recorder = Recorder(model, dtype)
    run(recorder, **run_settings)
    return recorder.outputs


@functools.cache
def alone(inner: str, dtype: torch.dtype) -> list[Tensor]:
    """What the inner backend gives by itself; compiled once for all tests."""
    torch._dynamo.reset()
    found: list[Tensor] = outputs_of(
        torch.compile(small_glyph(dtype=dtype), backend=inner), dtype
    )
    torch._dynamo.reset()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner", ["inductor", "eager"])
def test_all_full_is_bit_identical_to_the_inner_backend(
    inner: str, dtype: torch.dtype
) -> None:
    """A static schedule that makes every step full, state kept at every step.

    In half precision inductor keeps more digits inside a kernel, and the end of a stack
    is stored: it is within rounding there, like what stands behind a probe (below).
    """
    granularity = "stack" if dtype == torch.float32 else "module"
    expected = alone(inner, dtype)
    rfc = compiled(
        small_glyph(dtype=dtype),
        inner=inner,
        schedule="interval",
        interval=1,
        granularity=granularity,
    )
    found = outputs_of(rfc, dtype)
    assert rfc_compile.stats(rfc).nfc == len(expected) == 20
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
    ids=["float32", "bfloat16"],
)
def test_all_full_behind_the_probe_is_within_rounding(
    dtype: torch.dtype, tolerance: float
) -> None:
    """With rcs the probe may be fused and summed up otherwise, not more."""
    expected = alone("inductor", dtype)
    rfc = compiled(small_glyph(dtype=dtype), inner="inductor", threshold=0.0)
    found = outputs_of(rfc, dtype)
    assert rfc_compile.stats(rfc).nfc == 20
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    (dispatcher,) = dispatchers_of(rfc)
    matmuls = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
    names = {
        name: {node.target for node in graph.gm.graph.nodes} & matmuls
        for name, graph in dispatcher.graphs.items()
    }
    assert names["full"]
    assert not names["probe"], "matmuls of a few rows are sums there"


@pytest.mark.parametrize(
    "options",
    [
        {**MODULES, "threshold": 0.6},
        {"threshold": 0.6},
        {**MODULES, "schedule": "interval", "estimator": "rfe", "order": 1},
    ],
    ids=["subspace-rcs", "stack-rcs", "rfe-interval"],
)
def test_cached_steps_equal_the_eager_inner_backend(options: dict[str, Any]) -> None:
    """Same graphs, other compiler: the same run within float32 rounding."""
    eager = compiled(inner="eager", **options)
    expected = run(eager, seed=2)
    plan = [d.full for d in rfc_compile.stats(eager).decisions]
    torch._dynamo.reset()
    fast = compiled(inner="inductor", **options)
    result = run(fast, seed=2)
    assert [d.full for d in rfc_compile.stats(fast).decisions] == plan
    assert 0 < sum(plan) < len(plan)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


def test_mode_reaches_inductor() -> None:
    """torch.compile checks nothing for other backends: a wrong mode must not pass."""
    model = torch.compile(small_glyph(), backend="rfc", mode="no-such-mode")
    with pytest.raises(Exception, match="no-such-mode"):
        run(model, steps=2)
