"""Modules used twice, weights replaced or written to, modes, copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparing import (
    CADENCE,
    DEEP_FLUX,
    FLUX,
    FORMS,
    WAN,
    compare,
    compiled,
    distance,
    twin,
)
from denoisers.base import STEPS, Denoiser, flat
from options import MODULES
from torch import Tensor, nn
from torch.func import functional_call

import rfc_compile
from rfc_compile.errors import UncachedWarning

each_form = pytest.mark.parametrize("form", FORMS)


def first_twice(model: Any) -> None:
    blocks = model.transformer_blocks
    model.transformer_blocks = nn.ModuleList([blocks[0], blocks[0], blocks[1]])


def always_the_same(model: Any) -> None:
    model.transformer_blocks = nn.ModuleList([model.transformer_blocks[0]] * 3)


def first_and_last(model: Any) -> None:
    model.blocks = nn.ModuleList([model.blocks[0], model.blocks[1], model.blocks[0]])


def last_twice(model: Any) -> None:
    model.blocks = nn.ModuleList([model.blocks[0], model.blocks[1], model.blocks[1]])


def one_mlp(model: Any) -> None:
    model.blocks[1].ffn = model.blocks[0].ffn


def tied_weight(model: Any) -> None:
    first, second = model.transformer_blocks
    second.attn.to_q.weight = first.attn.to_q.weight


@each_form
@pytest.mark.parametrize(
    ("denoiser", "share"),
    [
        (DEEP_FLUX, first_twice),
        (DEEP_FLUX, always_the_same),
        (DEEP_FLUX, tied_weight),
        (WAN, first_and_last),
        (WAN, last_twice),
        (WAN, one_mlp),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_shared_modules(
    denoiser: Denoiser, share: Callable[[Any], None], form: str
) -> None:
    """Each use has state of its own, in the whole model and block by block."""
    model = denoiser.model()
    share(model)
    eager = twin(model)
    rfc = compiled(model, form)
    compare(denoiser, rfc, eager).check()
    compare(denoiser, rfc, eager, seed=1, steps=5).check(CADENCE[:5])
    assert len(rfc_compile.stats(rfc).decisions) == 5, "one decision a call"
    assert not rfc_compile.explain(rfc).uncached_reasons


def test_a_block_in_a_loop_keeps_little_state() -> None:
    """Its result given to it again and again is no deeper and deeper model."""
    block = FLUX.model().transformer_blocks[0]  # type: ignore[union-attr, index]
    rfc = compiled(block)  # type: ignore[arg-type]
    x, text, temb = torch.randn(1, 16, 32), torch.randn(1, 8, 32), torch.randn(1, 32)
    sizes = []
    for _ in range(150):
        with torch.no_grad():
            text, x = rfc(x, text, temb)
        sizes.append(rfc_compile.stats(rfc).cache_bytes)
    assert max(sizes[75:]) <= max(sizes[:75])


@each_form
def test_modes_change_within_a_run(form: str) -> None:
    """``inference_mode`` and ``no_grad`` in turn: two graphs, both right."""
    model = FLUX.model()
    eager = twin(model)
    rfc = compiled(model, form)
    call, kinds = FLUX.first_call(), []
    for step in range(STEPS):
        with torch.inference_mode() if step % 4 > 1 else torch.no_grad():
            result, expected = rfc(**call), eager(**call)
            call = FLUX.advance(call, result, step)
        full = rfc_compile.stats(rfc).decisions[-1].full
        error = distance(flat(result), flat(expected))
        assert error == 0 if full else 0 < error < 0.2
        kinds.append(full)
    assert False in kinds


def test_weights_loaded_into_a_model_within_a_run() -> None:
    """``load_state_dict`` keeps the tensors: their new values begin a new run."""
    model, other = FLUX.model(), FLUX.model(3).state_dict()
    rfc = compiled(model)

    def load(step: int) -> object:
        return step == 6 and model.load_state_dict(other)

    run = compare(FLUX, rfc, model, before=load)
    run.check("FFFCCF" + CADENCE[:6])
    assert run.reasons[6] == "weights"
    compare(FLUX, rfc, model).check()


def test_one_follower_written_to_within_a_run() -> None:
    """Block by block, only the layer whose weights change is computed anew."""
    model = WAN.model()
    eager = twin(model)
    rfc = compiled(model, "blocks")

    def write(step: int) -> None:
        for blocks in (model.blocks, eager.blocks) if step == 6 else ():
            with torch.no_grad():
                blocks[1].ffn.net[2].weight.mul_(1.5)  # type: ignore[union-attr, index]

    run = compare(WAN, rfc, eager, before=write)
    run.check()
    quiet = compare(WAN, compiled(WAN.model(), "blocks"), WAN.model())
    assert run.errors[6] <= 2 * max(quiet.errors)


def test_weights_that_change_at_every_step() -> None:
    model = FLUX.model()
    rfc = compiled(model)

    def write(step: int) -> None:
        with torch.no_grad():
            model.proj_out.weight.mul_(1.01)  # type: ignore[union-attr, operator]

    with pytest.warns(UncachedWarning, match="change from step to step"):
        compare(FLUX, rfc, model, before=write).check("F" * STEPS)
    assert "change from step to step" in str(rfc_compile.explain(rfc))


def given_weights(rfc: Any, weights: dict[str, Tensor]) -> Callable[..., Any]:
    inside = {f"_orig_mod.{name}": value for name, value in weights.items()}
    return lambda **call: functional_call(rfc, inside, (), call)


def test_functional_call_with_other_weights() -> None:
    """Other parameters are another layer; two sets in turn do not mix."""
    model = FLUX.model()
    rfc = compiled(model)
    sets = [
        dict(model.named_parameters()),
        dict(FLUX.model(7).named_parameters()),
        {k: v.detach().clone() for k, v in FLUX.model(8).named_parameters()},
    ]
    alone = []
    for weights in sets:
        walk = FLUX.walk(given_weights(rfc, weights))
        alone.append([flat(result) for _, result in walk])
    walks = [FLUX.walk(given_weights(rfc, weights)) for weights in sets]
    for step in range(STEPS):
        for weights, walk, before in zip(sets, walks, alone, strict=True):
            call, result = next(walk)
            assert torch.equal(flat(result), before[step])
            with torch.no_grad():
                expected = flat(functional_call(model, weights, (), call))
            error = distance(flat(result), expected)
            assert error == 0 if CADENCE[step] == "F" else 0 < error < 0.2


def test_functional_call_with_new_weights_every_time() -> None:
    """No call can belong to another: all are full, and it is said why."""
    model = FLUX.model()
    rfc = compiled(model)

    def call_with_copies(**call: Any) -> Any:
        copies = {k: v.detach().clone() for k, v in model.named_parameters()}
        return given_weights(rfc, copies)(**call)

    with pytest.warns(UncachedWarning, match="other tensors at every call"):
        run = compare(FLUX, call_with_copies, model, of=rfc)
    assert set(run.errors) == {0}
    assert "other tensors at every call" in str(rfc_compile.explain())


def test_a_copy_of_a_compiled_model() -> None:
    """The copy is compiled too; neither uses the state of the other."""
    model = FLUX.model()
    rfc = compiled(model, **MODULES)
    compare(FLUX, rfc, model, steps=4).check("FFFC")
    other = copy.deepcopy(rfc)
    compare(FLUX, other, other._orig_mod).check()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    compare(FLUX, other, other._orig_mod).check()
    compare(FLUX, rfc, model).check()
    assert len(rfc_compile.explain(other).regions) == FLUX.regions


@each_form
def test_a_copy_of_a_model_compiled_in_place(form: str) -> None:
    """torch leaves what ``compile()`` set out of the copy: that one runs as it is."""
    model = FLUX.model()
    eager = twin(model)
    if form == "whole":
        model.compile(backend="rfc", options={"inner": "eager", "min_coverage": 0.0})
    else:
        compiled(model, form)
    compare(FLUX, model, eager, steps=4)
    other = copy.deepcopy(model)
    compare(FLUX, other, eager).check("U" * STEPS)
