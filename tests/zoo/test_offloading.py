"""Weights that hooks bring and take away: diffusers' groups, accelerate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import (
    CADENCE,
    FLUX,
    FORMS,
    OPTIONS,
    compare,
    compiled,
    flux_and_wan,
)
from denoisers.base import Denoiser
from options import MODULES
from torch import nn

import rfc_compile
from rfc_compile.errors import UncachedWarning

CPU = torch.device("cpu")
NO_REGION = "no graph that runs has an attention or MLP"


def offload_groups(model: nn.Module, kind: str) -> nn.Module:
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        model,
        onload_device=CPU,
        offload_device=CPU,
        offload_type=kind,
        num_blocks_per_group=1 if kind == "block_level" else None,
    )
    return model


@pytest.mark.parametrize("form", FORMS)
@flux_and_wan
def test_groups_of_blocks(denoiser: Denoiser, form: str) -> None:
    """The hooks break the forward between the blocks, which are cached."""
    model = offload_groups(denoiser.model(), "block_level")
    rfc = compiled(model, form)
    compare(denoiser, rfc, denoiser.model()).check()
    compare(denoiser, rfc, denoiser.model(), seed=1).check()
    explanation = rfc_compile.explain(rfc)
    assert explanation.block_coverage > 0.9
    assert explanation.graph_breaks
    assert not explanation.uncached_reasons


def offload_leaves(model: nn.Module) -> nn.Module:
    return offload_groups(model, "leaf_level")


def offload_weights(model: nn.Module) -> nn.Module:
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=CPU)  # type: ignore[no-any-return]


def dispatch(model: nn.Module) -> nn.Module:
    from accelerate import dispatch_model

    parts = {name: "cpu" for name, _ in model.named_children()}
    return dispatch_model(  # type: ignore[no-any-return]
        model, device_map=parts, main_device="cpu", force_hooks=True
    )


@pytest.mark.parametrize(
    ("hook", "form"),
    [(offload_leaves, "whole"), (offload_weights, "blocks"), (dispatch, "whole")],
)
def test_hooks_around_every_layer(
    hook: Callable[[nn.Module], nn.Module], form: str
) -> None:
    """Dynamo leaves out such hooks, so no graph holds a branch: uncached, and said."""
    model = hook(FLUX.model())
    rfc = compiled(model, form)
    with pytest.warns(UncachedWarning, match=NO_REGION):
        compare(FLUX, rfc, FLUX.model(), steps=4).check("UUUU")
    assert NO_REGION in str(rfc_compile.explain())
    assert rfc_compile.explain(rfc).uncached_reasons


@pytest.mark.parametrize("in_place", [False, True])
def test_a_hook_around_the_model(in_place: bool) -> None:
    """A hook that only moves the arguments: everything is cached."""
    hooks = pytest.importorskip("accelerate.hooks")
    model: Any = FLUX.model()
    hook = hooks.AlignDevicesHook(execution_device=CPU, io_same_device=True)
    hooks.add_hook_to_module(model, hook)
    rfc = model if in_place else compiled(model, **MODULES)
    if in_place:
        model.compile(backend="rfc", options={**OPTIONS, **MODULES})
    compare(FLUX, rfc, FLUX.model()).check()
    assert len(rfc_compile.explain(rfc).regions) == FLUX.regions


def test_a_model_moved_away_between_runs() -> None:
    """``cpu_offload_with_hook`` moves a whole model: the tensors stay the same."""
    accelerate = pytest.importorskip("accelerate")
    model, hook = accelerate.cpu_offload_with_hook(FLUX.model(), CPU)
    rfc = compiled(model)
    for seed in range(2):
        compare(FLUX, rfc, FLUX.model(), seed=seed).check(CADENCE)
        hook.offload()
