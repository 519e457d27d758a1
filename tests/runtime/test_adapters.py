"""LoRA adapters of peft: loaded, fused, swapped, scaled, switched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import CADENCE, FLUX, FORMS, QWEN, WAN, compare, compiled, flux_and_wan
from denoisers.base import Denoiser
from options import MODULES
from torch import Tensor, nn

import rfc_compile
from rfc_compile.errors import UncachedWarning

peft = pytest.importorskip("peft")
peft_utils = pytest.importorskip("peft.utils")

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")

TARGETS = ["to_q", "to_out.0"]
SWITCHED = "FFFCCF" + CADENCE[:6]
"""A run in which everything changes before the 7th step."""


def add_adapter(model: Any, name: str, seed: int, rank: int = 4) -> None:
    config = peft.LoraConfig(r=rank, lora_alpha=8, target_modules=TARGETS)
    model.add_adapter(config, adapter_name=name)
    torch.manual_seed(seed)
    for path, parameter in model.named_parameters():
        if "lora_" in path and f".{name}." in path:
            nn.init.normal_(parameter, 0, 0.15)
    model.requires_grad_(False).eval()


def with_adapters(denoiser: Denoiser = FLUX, *names: str) -> Any:
    model: Any = denoiser.model()
    for seed, name in enumerate(names or ("a", "b")):
        add_adapter(model, name, seed)
    model.set_adapters("a")
    return model


def weights_of(seed: int, rank: int = 4) -> dict[str, Tensor]:
    """The state dict of an adapter, as a file of a hub holds it."""
    model: Any = FLUX.model()
    add_adapter(model, "only", seed, rank)
    found = peft_utils.get_peft_model_state_dict(model, adapter_name="only")
    return {f"transformer.{name}": value.clone() for name, value in found.items()}


def at_step_6(change: Callable[[], object]) -> Callable[[int], object]:
    return lambda step: step == 6 and change()


@pytest.mark.parametrize(
    ("denoiser", "form"),
    [
        pytest.param(FLUX, "whole", id="flux"),
        pytest.param(FLUX, "blocks", id="flux-blocks"),
        pytest.param(WAN, "whole", id="wan", marks=pytest.mark.nightly),
        pytest.param(QWEN, "blocks", id="qwen-blocks", marks=pytest.mark.nightly),
    ],
)
def test_regions_hold_the_adapter(denoiser: Denoiser, form: str) -> None:
    """As many regions as without it; the branch of the adapter lies inside."""
    eager, model = with_adapters(denoiser, "a"), with_adapters(denoiser, "a")
    rfc = compiled(model, form, **MODULES)
    compare(denoiser, rfc, eager).check()
    explanation = rfc_compile.explain(rfc)
    assert explanation.block_coverage >= denoiser.share
    if form == "whole":
        assert len(explanation.regions) == denoiser.regions


CHANGES: dict[str, Callable[[Any], object]] = {
    "another": lambda model: model.set_adapters("b"),
    "both": lambda model: model.set_adapters(["a", "b"], [0.5, 0.5]),
    "scale": lambda model: model.set_adapters("a", 0.3),
    "disable": lambda model: model.disable_adapters(),
    "fuse": lambda model: model.fuse_lora(),
    "delete": lambda model: model.delete_adapters("a"),
}


@pytest.mark.parametrize(
    ("change", "form"),
    [
        *((change, "whole") for change in CHANGES),
        ("scale", "blocks"),
        ("fuse", "blocks"),
    ],
)
def test_a_change_within_a_run(change: str, form: str) -> None:
    """The steps after it start anew, and so does the next run."""
    eager, model = with_adapters(), with_adapters()
    rfc = compiled(model, form)

    def apply() -> None:
        for each in (eager, model):
            CHANGES[change](each)

    compare(FLUX, rfc, eager, before=at_step_6(apply)).check(SWITCHED)
    compare(FLUX, rfc, eager, seed=1, steps=5).check(CADENCE[:5])


@pytest.mark.parametrize("form", FORMS)
def test_scales_one_after_another(form: str) -> None:
    """From the second scale on, one graph takes the scale as an input."""
    model = with_adapters()
    eager = with_adapters()
    rfc = compiled(model, form)
    graphs = []
    for scale in (1.0, 0.3, 0.7):
        for each in (eager, model):
            each.set_adapters("a", scale)
        compare(FLUX, rfc, eager, steps=5).check(CADENCE[:5])
        graphs.append(rfc_compile.explain(rfc).graphs)

    def rescale() -> None:
        for each in (eager, model):
            each.set_adapters("a", 0.9)

    run = compare(FLUX, rfc, eager, before=at_step_6(rescale))
    run.check(SWITCHED)
    assert run.reasons[6] == "weights"
    assert rfc_compile.explain(rfc).graphs == graphs[1]


def test_a_scale_for_each_cfg_branch() -> None:
    """Scales in turn at every step are branches, not changes."""
    model = with_adapters()
    rfc = compiled(model)
    for scale in (0.3, 0.5):  # the scale becomes an input
        model.set_adapters("a", scale)
        compare(FLUX, rfc, model, steps=1)
    call, full = FLUX.first_call(), []
    for step in range(9):
        for scale in (0.4, 0.8):
            model.set_adapters("a", scale)
            with torch.no_grad():
                result = rfc(**call)
            full.append(rfc_compile.stats(rfc).decisions[-1].full)
        call = FLUX.advance(call, result, step)
    assert full[::2] == full[1::2] == [letter == "F" for letter in CADENCE[:9]]


def test_a_scale_that_changes_at_every_step() -> None:
    model = with_adapters()
    rfc = compiled(model)
    with pytest.warns(UncachedWarning, match="an adapter's scale, change"):
        compare(
            FLUX,
            rfc,
            model,
            before=lambda step: model.set_adapters("a", 1 - 0.05 * step),
        ).check("F" * 12)


@flux_and_wan
def test_the_scale_as_an_argument(denoiser: Denoiser) -> None:
    """``joint_attention_kwargs`` or ``attention_kwargs``, also changed in a run."""
    name = "joint_attention_kwargs" if denoiser is FLUX else "attention_kwargs"
    model = with_adapters(denoiser)
    rfc = compiled(model)
    scale = 1.0

    def scaled(model: Any) -> Callable[..., Any]:
        return lambda **call: model(**call, **{name: {"scale": scale}})

    for scale in (0.5, 0.25, 0.8):  # noqa: B007
        run = compare(denoiser, scaled(rfc), scaled(model), of=rfc, steps=5)
        run.check(CADENCE[:5])

    def change(step: int) -> None:
        nonlocal scale
        scale = 0.8 if step < 6 else 0.3

    run = compare(denoiser, scaled(rfc), scaled(model), before=change, of=rfc)
    run.check(SWITCHED)


def test_fused_with_another_adapter_within_a_run() -> None:
    """The same code with the same tensors: only peft knows that they change."""
    model = with_adapters()
    model.fuse_lora()
    rfc = compiled(model)

    def fuse_another() -> None:
        model.unfuse_lora()
        model.set_adapters("b")
        model.fuse_lora()

    compare(FLUX, rfc, model, before=at_step_6(fuse_another)).check(SWITCHED)
    model.unfuse_lora()
    compare(FLUX, rfc, model).check()


@pytest.mark.parametrize("form", FORMS)
def test_hotswap(form: str) -> None:
    """Other weights in the same tensors, of another rank too; nothing recompiles."""
    eager: Any = FLUX.model()
    model: Any = FLUX.model()
    model.enable_lora_hotswap(target_rank=8)
    for each in (eager, model):
        each.load_lora_adapter(weights_of(1), adapter_name="default")
        each.requires_grad_(False)
    rfc = compiled(model, form)
    compare(FLUX, rfc, eager).check()
    graphs = rfc_compile.explain(rfc).graphs
    for seed, rank in ((2, 4), (3, 8)):

        def swap(seed: int = seed, rank: int = rank) -> None:
            for each in (eager, model):  # peft may swap the tensors it is given
                weights = weights_of(seed, rank)
                each.load_lora_adapter(weights, adapter_name="default", hotswap=True)

        compare(FLUX, rfc, eager, before=at_step_6(swap)).check(SWITCHED)
        compare(FLUX, rfc, eager, seed=1, steps=5).check(CADENCE[:5])
    assert rfc_compile.explain(rfc).graphs == graphs


def test_merged_by_peft_itself() -> None:
    """A model that peft wraps: ``merge_adapter`` within a run."""
    model: Any = FLUX.model()
    config = peft.LoraConfig(target_modules=TARGETS, init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config).eval().requires_grad_(False)
    rfc = compiled(wrapped)
    run = compare(FLUX, rfc, wrapped, before=at_step_6(wrapped.merge_adapter))
    run.check(SWITCHED)
