"""Runs of a trained model with caching, that several benchmarks draw and compare."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rfc_compile.runtime.registry import reset
from rfc_compile.runtime.run_boundaries import trajectory
from rfc_compile.tools.measure.metrics import psnr
from rfc_compile.tools.measure.trained_model import TrainedModel
from rfc_compile.tools.measure.trial import compile_model, decide_by


def compiled(model: TrainedModel) -> Any:
    """The model with caching; who compiles the graphs changes images by rounding."""
    return compile_model(model.load(), "eager", {}, dynamic=False)


def draw(
    model: TrainedModel,
    network: Any,
    options: Mapping[str, Any],
    conditions: Sequence[Any],
    **sampling: Any,
) -> Tensor:
    """Images of a compiled network that follows the schedule of these options."""
    decide_by(network, {"inner": "eager", **options})
    reset(network)
    calls = model.count_calls(sampling["scheduler"], sampling["steps"])
    with trajectory("run", num_steps=calls):
        return model.sample(network, conditions, **sampling)


def similarity(drawn: Tensor, wanted: Tensor) -> Tensor:
    """PSNR of each image or clip, in dB, at most 120."""
    flat = (x.flatten(2, -2) if x.ndim == 5 else x for x in (drawn, wanted))
    finite = (x.nan_to_num(nan=2.0) for x in flat)
    return psnr(*finite).clamp(max=120.0)
