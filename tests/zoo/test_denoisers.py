"""Every denoiser of diffusers: regions, exactness, recompiles, a cached run."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import STEPS, Denoiser, flat
from marks import ARCHITECTURES, cases
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

PARTLY_UNCACHED = {
    "HiDreamImageTransformer2DModel",
    "MochiTransformer3DModel",
    "QwenImage21Transformer2DModel",
    "WanAnimate2Transformer3DModel",
}
"""Their forward has graph breaks, and one of the graphs holds no region: a note."""

ONE_SIZE = {
    "AnyFlowFARTransformer3DModel",
    "Cosmos3OmniTransformer",
    "Kandinsky6SRTransformer3DModel",
    "SanaWMLTX2RefinerTransformer3DModel",
    "T5FilmDecoder",
    "WanAnimate2Transformer3DModel",
}
"""Their inputs are of one sample, or not all by sample; Kandinsky 6 SR cannot be
retraced where the number of samples is a symbol, and says so."""

FEW_STEPS = 4
"""Three full ones, and one cached."""

DOUBLED = {"SD3Transformer2DModel", "WanTransformer3DModel"}
"""Run with twice as many samples at every push: two streams, and one."""


@pytest.mark.parametrize("name", cases(ALL, ARCHITECTURES, pytest.mark.nightly))
def test_denoiser(name: str) -> None:
    """One run: full steps are exact, cached ones close, nothing compiles twice.

    The graphs of a forward that breaks share one decision, and the break is explained.
    Of those that run at night alone, a run of twice as many samples is as good.
    """
    denoiser = ALL[name]
    model = denoiser.model()
    rfc = torch.compile(model, backend="rfc", options=OPTIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", rfc_compile.UncachedWarning)
        results = _checked_run(denoiser, model, rfc)
    warned = any(issubclass(w.category, rfc_compile.UncachedWarning) for w in caught)
    assert warned == (name in PARTLY_UNCACHED or not denoiser.regions)
    explanation = rfc_compile.explain(rfc)
    assert len(explanation.regions) == denoiser.regions, str(explanation)
    assert explanation.graphs == denoiser.graphs, str(explanation)
    assert explanation.block_coverage >= denoiser.share, str(explanation)
    assert explanation.graph_breaks or denoiser.graphs == 1
    assert all(reason in str(explanation) for reason in explanation.graph_breaks)
    decisions = rfc_compile.stats(rfc).decisions
    plan = [step < 3 or step % 3 == 2 for step in range(STEPS)]
    assert [d.full for d in decisions] == (plan if denoiser.regions else [])
    if denoiser.regions:
        uncached = [flat(result) for _, result in denoiser.walk(model)]
        error = (results[-1] - uncached[-1]).norm() / uncached[-1].norm()
        assert 0 < error < 0.2
    if name not in ARCHITECTURES and has_more_sizes(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rfc_compile.UncachedWarning)
            _check_twice_as_many(denoiser, model, rfc)


def has_more_sizes(name: str) -> bool:
    """Whether it is run with twice as many samples: once for every class."""
    return name not in ONE_SIZE and "-" not in name


@pytest.mark.parametrize(
    "name", cases(filter(has_more_sizes, ARCHITECTURES), DOUBLED, pytest.mark.nightly)
)
def test_twice_as_many_samples(name: str) -> None:
    """After a run of the usual size."""
    denoiser = ALL[name]
    model = denoiser.model()
    rfc = torch.compile(model, backend="rfc", options=OPTIONS)
    for step in denoiser.walk(rfc, steps=FEW_STEPS):
        _checked(step, model, rfc)
    _check_twice_as_many(denoiser, model, rfc)


def _check_twice_as_many(denoiser: Denoiser, model: nn.Module, rfc: Any) -> None:
    """A run of more samples, which Dynamo compiles anew, takes nothing from others."""
    runs = []
    for _ in range(2):
        run = denoiser.walk(rfc, steps=FEW_STEPS, twice=True)
        runs.append([_checked(step, model, rfc) for step in run])
        decisions = rfc_compile.stats(rfc).decisions
        plan = [True, True, True, False] if denoiser.regions else []
        assert [d.full for d in decisions] == plan, [d.reason for d in decisions]
        rfc_compile.reset(rfc)
    assert all(map(torch.equal, *runs))


def _checked_run(denoiser: Denoiser, model: nn.Module, rfc: Any) -> list[Tensor]:
    """The numbers of every step; only the first may compile."""
    run = denoiser.walk(rfc)
    results = [_checked(next(run), model, rfc)]
    with torch.compiler.set_stance("fail_on_recompile"):
        return results + [_checked(step, model, rfc) for step in run]


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
