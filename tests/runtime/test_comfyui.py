"""The node pack for ComfyUI, on a stand-in of what ComfyUI does to a model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from comfy_interface import (
    BaseModel,
    Network,
    Patcher,
    ksampler,
    sample_euler,
    sample_heun,
)
from torch import Tensor, nn

import rfc_compile

PACK = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"
STEPS = 16


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    """The pack, loaded from its folder as ComfyUI loads custom nodes."""
    spec = importlib.util.spec_from_file_location(
        "custom_nodes.rfc", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loaded() -> Patcher:
    """A MODEL with random weights that depend on nothing."""
    torch.manual_seed(0)
    model = BaseModel(Network()).eval().requires_grad_(False)
    for block in model.diffusion_model.blocks:
        block.out.weight.mul_(3)
    return Patcher(model)


@pytest.fixture
def compile_node(pack: ModuleType) -> Callable[..., Patcher]:
    def patch(model: Patcher, quality: str = "balanced", **asked: Any) -> Patcher:
        node = pack.NODE_CLASS_MAPPINGS["RFCCompile"]()
        (patched,) = getattr(node, node.FUNCTION)(
            model, quality=quality, inner="eager", **asked
        )
        return patched

    return patch


def test_the_nodes_are_what_comfyui_expects(pack: ModuleType) -> None:
    assert not any(name.split(".")[0] == "comfy" for name in sys.modules)
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in pack.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert inputs["required"]["model"] == ("MODEL",)
        assert callable(getattr(node(), node.FUNCTION))
        assert isinstance(node.CATEGORY, str)
        assert isinstance(node.RETURN_TYPES, tuple)


@pytest.mark.parametrize("separate", [False, True], ids=["one call", "two calls"])
def test_runs_are_cached_and_compile_nothing_anew(
    compile_node: Callable[..., Patcher], separate: bool
) -> None:
    model = loaded()
    expected = [ksampler(model, seed, STEPS, separate=separate) for seed in (0, 1)]
    patched = compile_node(model)
    first = ksampler(patched, 0, STEPS, separate=separate)
    statistics = rfc_compile.stats(patched.get_attachment("rfc_compile"))
    assert statistics.steps == STEPS
    assert 0 < statistics.nfc < STEPS * (1 + separate)
    assert statistics.cache_bytes == 0  # the run has said its end
    assert 0 < torch.dist(first, expected[0]) < 0.05 * expected[0].norm()
    with torch._dynamo.config.patch(error_on_recompile=True):
        exact = ksampler(compile_node(patched, "off"), 1, STEPS, separate=separate)
        few = compile_node(patched, full_steps=5)
        ksampler(few, 1, STEPS + 4, separate=separate)
    torch.testing.assert_close(exact, expected[1], rtol=0, atol=1e-5)
    statistics = rfc_compile.stats(few.get_attachment("rfc_compile"))
    assert (statistics.steps, statistics.nfc) == (STEPS + 4, 5 * (1 + separate))
    assert not rfc_compile.explain(
        patched.get_attachment("rfc_compile")
    ).uncached_reasons


def test_the_model_that_is_given_stays_as_it_is(
    compile_node: Callable[..., Patcher],
) -> None:
    model = loaded()
    network = model.model.diffusion_model
    patched = compile_node(model)
    ksampler(patched, 0, 4)
    rfc_compile.reset()
    ksampler(model, 0, 4)
    assert model.model.diffusion_model is network
    assert not rfc_compile.stats().decisions


def test_samplers_that_call_twice_a_step_are_cached(
    compile_node: Callable[..., Patcher],
) -> None:
    model = loaded()
    expected = ksampler(model, 0, STEPS, sampler=sample_heun)
    patched = compile_node(model)
    found = ksampler(patched, 0, STEPS, sampler=sample_heun)
    statistics = rfc_compile.stats(patched.get_attachment("rfc_compile"))
    assert (statistics.steps, statistics.nfc < 2 * STEPS - 1) == (2 * STEPS - 1, True)
    assert torch.dist(found, expected) < 0.05 * expected.norm()


def test_new_weights_between_runs_are_seen(
    compile_node: Callable[..., Patcher],
) -> None:
    """A LoRA is patched into the weights, which become other parameters."""
    model = loaded()
    patched = compile_node(model, "off")
    before = ksampler(patched, 0, 4)
    head = model.model.diffusion_model.head
    head.weight = nn.Parameter(head.weight * 1.5, requires_grad=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        after = ksampler(patched, 0, 4)
    expected = ksampler(model, 0, 4)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)
    assert torch.dist(before, after) > 0.01


def test_patches_of_other_nodes_are_obeyed(
    compile_node: Callable[..., Patcher],
) -> None:
    def patch(q: Tensor, k: Tensor, v: Tensor, extra_options: Any) -> Any:
        return q, k, v * 0.5

    model = loaded()
    model.model_options["transformer_options"]["patches"] = {"attn1_patch": [patch]}
    patched = compile_node(model, "off")
    assert patched.wrappers.keys() == {"outer_sample", "apply_model"}
    found = ksampler(patched, 0, 4, sampler=sample_euler)
    expected = ksampler(model, 0, 4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.dist(expected, ksampler(loaded(), 0, 4)) > 0.01


def test_statistics_say_what_was_cached(
    pack: ModuleType, compile_node: Callable[..., Patcher]
) -> None:
    node, model = pack.NODE_CLASS_MAPPINGS["RFCStatistics"](), loaded()
    with pytest.raises(ValueError, match="RFC compile"):
        node.tell(model, {"samples": None})
    patched = compile_node(model)
    latent = ksampler(patched, 0, STEPS)
    said = node.tell(patched, {"samples": latent})
    (text,) = said["result"]
    assert said["ui"]["text"] == [text]
    assert "predict 1 region" in text
    nfc = rfc_compile.stats(patched.get_attachment("rfc_compile")).nfc
    assert f"{nfc} " in text
    assert node.IS_CHANGED() != node.IS_CHANGED()
