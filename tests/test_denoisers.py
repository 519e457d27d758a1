"""Every denoiser of diffusers: regions, exactness, recompiles, a cached run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import flat
from options import MODULES
from torch import Tensor, nn

import rfc_compile

OPTIONS = {
    **MODULES,
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
    "warmup": 3,
}


@pytest.mark.parametrize("name", ALL)
def test_denoiser(name: str) -> None:
    """One run: full steps are exact, cached ones close, nothing compiles twice."""
    denoiser = ALL[name]
    model = denoiser.model()
    rfc = torch.compile(model, backend="rfc", options=OPTIONS)
    run = denoiser.walk(rfc)
    results = [_checked(next(run), model, rfc)]
    with torch.compiler.set_stance("fail_on_recompile"):
        results += [_checked(call, model, rfc) for call in run]
    explanation = rfc_compile.explain(rfc)
    assert len(explanation.regions) == denoiser.regions, str(explanation)
    assert explanation.graphs == denoiser.graphs, str(explanation)
    assert explanation.block_coverage >= denoiser.share, str(explanation)
    kinds = {decision.full for decision in rfc_compile.stats(rfc).decisions}
    assert kinds == ({True, False} if denoiser.regions else set())
    if denoiser.regions:
        uncached = [flat(result) for _, result in denoiser.walk(model)]
        error = (results[-1] - uncached[-1]).norm() / uncached[-1].norm()
        assert 0 < error < 0.2


def _checked(step: tuple[dict[str, Any], Any], model: nn.Module, rfc: Any) -> Tensor:
    """The numbers of a result; a full step's are the model's own, bit for bit."""
    call, result = step
    found = flat(result)
    assert found.isfinite().all()
    decisions = rfc_compile.stats(rfc).decisions
    if not decisions or decisions[-1].full:
        with torch.no_grad():
            assert torch.equal(found, flat(model(**call)))
    return found
