"""Less of a change between full steps is taken where the last did not go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime import timestep_dispatcher
from rfc_compile.runtime.registry import reset
from rfc_compile.tools.measure.bundled_models import MODELS
from rfc_compile.tools.measure.metrics import psnr

FLOW = MODELS["emoji-flux"]
STEPS = 28


def drawn(net: Any, *, guidance: float, separate: bool) -> Tensor:
    images: Tensor = FLOW.sample(
        net,
        FLOW.conditions(2),
        seed=7400,
        scheduler="euler_shift3",
        steps=STEPS,
        guidance=guidance,
        separate=separate,
    )
    return images


@pytest.fixture(scope="module")
def compiled() -> nn.Module:
    options = {"inner": "eager", "target_nfc": 8}
    return torch.compile(  # type: ignore[return-value]
        FLOW.load(), backend="rfc", dynamic=False, options=options
    )


@pytest.mark.parametrize(
    ("guidance", "separate", "gain"),
    [(1.0, False, 0.0), (4.0, False, 3.0), (4.0, True, 2.0)],
)
def test_strong_guidance_is_nearer_to_the_full_run(
    compiled: nn.Module,
    guidance: float,
    separate: bool,
    gain: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guidance multiplies what a prediction errs by: it went too far."""
    given: dict[str, Any] = {"guidance": guidance, "separate": separate}
    plain = drawn(FLOW.load(), **given)
    close = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(timestep_dispatcher, "trend_after", lambda error: 1.0)
        reset(compiled)
        with rfc_compile.trajectory("run", num_steps=STEPS):
            close.append(psnr(drawn(compiled, **given), plain).mean())
    if gain:
        assert close[0] > close[1] + gain
    else:
        assert close[0] == close[1], "errors are small: the whole change is taken"
