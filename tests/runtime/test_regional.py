"""Blocks compiled one by one: the first layer of a call decides for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from denoisers import ALL
from denoisers.base import STEPS, Denoiser, flat
from denoising import LABELS, compute_all_steps, guided_steps, run, small_glyph
from models import WIDTH, Stack, build, timesteps, tokens
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import rfc_compile
from rfc_compile.runtime.session import MAX_LONE_RUNS

OPTIONS = {
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
    "warmup": 3,
    "corrector": "off",  # blocks compiled alone have none
}
REPEATED = [
    "FluxTransformer2DModel",
    "WanTransformer3DModel",
    "QwenImageTransformer2DModel",
    "LTXVideoTransformer3DModel",
]


def compile_blocks(model: nn.Module, **options: Any) -> nn.Module:
    """Every layer of a model's stacks of blocks by itself, in place."""
    given = {"backend": "rfc", "options": {**OPTIONS, **options}}
    stacks = [part for part in model.children() if isinstance(part, nn.ModuleList)]
    for block in (block for stack in stacks for block in stack):
        block.compile(**given)
    return model


def results(denoiser: Denoiser, denoise: Any, seed: int = 0) -> list[Tensor]:
    """The numbers that a model gives at every step of a run."""
    return [flat(result) for _, result in denoiser.walk(denoise, seed)]


def largest_error(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", REPEATED)
def test_like_the_whole_model(name: str) -> None:
    """Same full steps and nearly the same results; full steps are exact.

    When no step is cached, all are bit-identical to the model itself.
    """
    denoiser = ALL[name]
    model = denoiser.model()
    uncached = results(denoiser, model)
    whole = torch.compile(model, backend="rfc", options=OPTIONS)
    expected = results(denoiser, whole)
    nfc = rfc_compile.stats(whole).nfc
    torch._dynamo.reset()
    rfc_compile.reset()
    regional = denoiser.model()
    regional.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    found = results(denoiser, regional)
    statistics = rfc_compile.stats(regional)
    assert (statistics.nfc, statistics.steps) == (nfc, STEPS)
    assert len(statistics.decisions) == STEPS, "one decision per call of the model"
    for step in range(3):
        assert torch.equal(found[step], uncached[step])
    assert largest_error(found, uncached) <= 1.5 * largest_error(expected, uncached)
    assert not rfc_compile.explain(regional).uncached_reasons
    compute_all_steps(regional)
    found = results(denoiser, regional)
    assert rfc_compile.stats(regional).nfc == STEPS
    assert all(torch.equal(a, b) for a, b in zip(found, uncached, strict=True))


@pytest.mark.parametrize("name", REPEATED[:2])
def test_compiles_no_more_than_the_inner_backend(name: str) -> None:
    """One block's graph serves every layer."""
    denoiser = ALL[name]
    counter = CompileCounterWithBackend("eager")
    alone = denoiser.model()
    alone.compile_repeated_blocks(backend=counter)
    results(denoiser, alone)
    torch._dynamo.reset()
    regional = denoiser.model()
    regional.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    results(denoiser, regional)
    assert rfc_compile.explain(regional).graphs == counter.frame_count


@pytest.mark.parametrize(
    "options", [{}, {"schedule": "rcs", "threshold": 1.0, "max_cached_run": 4}]
)
def test_blocks_that_are_given_the_timestep(options: dict[str, Any]) -> None:
    """Layers of one graph follow its first layer, with or without a probe."""
    whole = torch.compile(small_glyph(), backend="rfc", options={**OPTIONS, **options})
    expected = run(whole)
    decisions = [d.full for d in rfc_compile.stats(whole).decisions]
    regional = compile_blocks(small_glyph(), **options)
    found = run(regional)
    assert [d.full for d in rfc_compile.stats(regional).decisions] == decisions
    assert {True, False} == set(decisions)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_every_run_is_like_the_first() -> None:
    """Another image after one leaves nothing behind, whatever changes."""
    denoiser = ALL["FluxTransformer2DModel"]
    model = denoiser.model()
    model.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    first = {seed: results(denoiser, model, seed)[-1] for seed in range(3)}
    for seed in (1, 1, 0, 2):
        assert torch.equal(results(denoiser, model, seed)[-1], first[seed])
        assert len(rfc_compile.stats(model).decisions) == STEPS
    fresh = denoiser.model()
    fresh.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    assert torch.equal(results(denoiser, fresh, 2)[-1], first[2])


def test_a_run_that_is_broken_off() -> None:
    """The next image starts anew although the last run did not end."""
    denoiser = ALL["WanTransformer3DModel"]
    model = denoiser.model()
    model.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    expected = results(denoiser, model, 1)
    for _ in zip(range(5), denoiser.walk(model, 0), strict=False):
        pass
    found = results(denoiser, model, 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def guided(
    denoiser: Denoiser,
    denoise: Any,
    seed: int,
    order: Callable[[int], tuple[str, ...]],
) -> Iterator[Tensor]:
    """A run with guidance by calls with other text, in the order given."""
    cond = denoiser.first_call(seed)
    empty = {**cond}
    for key, value in denoiser.first_call(seed + 100).items():
        if key.startswith(("encoder", "pooled")) and isinstance(value, Tensor):
            empty[key] = value
    for step in range(STEPS):
        parts = {}
        for name in order(step):
            call = cond if name == "cond" else empty
            with torch.no_grad():
                parts[name] = denoiser.velocity(denoise(**call))
        v = parts["cond"]
        v = v + (v - parts.get("empty", v))
        yield v
        cond = denoiser.advance(cond, (v,), step)
        empty = {**denoiser.at(empty, step + 1), denoiser.latent: cond[denoiser.latent]}


ORDERS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "cond first": lambda step: ("cond", "empty"),
    "empty first": lambda step: ("empty", "cond"),
    "dropped late": lambda step: ("empty", "cond")[step > 8 :],
    "dropped between": lambda step: ("cond", "empty")[: 1 + (step not in (5, 6))],
}


@pytest.mark.parametrize("name", REPEATED[:3])
def test_guidance_by_two_calls(name: str) -> None:
    """Each CFG branch has its own history, as in the whole model, in any order."""
    denoiser = ALL[name]
    plain, model = denoiser.model(), denoiser.model()
    model.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    for order in ORDERS.values():
        uncached = list(guided(denoiser, plain, 0, order))
        runs = [list(guided(denoiser, model, 0, order))]
        statistics = rfc_compile.stats(model)
        calls = sum(len(order(step)) for step in range(STEPS))
        assert len(statistics.decisions) == calls
        assert {decision.branch for decision in statistics.decisions} == {0, 1}
        assert statistics.nfc < calls
        list(guided(denoiser, model, 1, order))
        runs.append(list(guided(denoiser, model, 0, order)))
        for found in runs:
            assert largest_error(found, uncached) < 0.3
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        rfc_compile.reset(model)


def test_class_guidance_hidden_in_the_embedding() -> None:
    """Blocks of a class-conditional model: two calls a step, distinguished."""
    uncached = list(guided_steps(small_glyph()))
    model = compile_blocks(small_glyph())
    found = list(guided_steps(model))
    assert {d.branch for d in rfc_compile.stats(model).decisions} == {0, 1}
    assert largest_error(found, uncached) < 0.2


def test_two_models_in_turn() -> None:
    """Layers of another model never follow: their runs are their own."""
    denoiser = ALL["FluxTransformer2DModel"]
    first, second = denoiser.model(0), denoiser.model(1)
    for model in (first, second):
        model.compile_repeated_blocks(backend="rfc", options=OPTIONS)
    expected = [results(denoiser, first, 0), results(denoiser, second, 3)]
    results(denoiser, second, 4)
    turns = zip(denoiser.walk(first, 0), denoiser.walk(second, 3), strict=True)
    found = [(flat(a), flat(b)) for (_, a), (_, b) in turns]
    for mine, theirs in zip(zip(*found, strict=True), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    for model in (first, second):
        assert len(rfc_compile.stats(model).decisions) == STEPS


def test_the_same_call_again_keeps_no_more_state() -> None:
    """Calls in a loop for timing do not pile up branches."""
    model = small_glyph()
    rfc = torch.compile(model, backend="rfc", options=OPTIONS)
    sizes = []
    for _ in range(4 * MAX_LONE_RUNS):
        with torch.no_grad():
            rfc(torch.ones(2, 3, 32, 32), timestep=LABELS * 0 + 5, class_labels=LABELS)
        sizes.append(rfc_compile.stats(rfc).cache_bytes)
    assert max(sizes) <= (2 * MAX_LONE_RUNS + 2) * sizes[0]


@pytest.mark.parametrize("whole", [True, False])
def test_two_models_that_share_their_inputs(whole: bool) -> None:
    """The same latent, prompt and timestep make two models no single one."""
    denoiser = ALL["WanTransformer3DModel"]
    models = [denoiser.model(0), denoiser.model(1)]
    expected = []
    for model in models:
        if whole:
            model.compile(backend="rfc", options=OPTIONS)
        else:
            model.compile_repeated_blocks(backend="rfc", options=OPTIONS)
        expected.append(results(denoiser, model))
    calls = [denoiser.first_call()] * 2
    for step in range(STEPS):
        timestep = calls[0]["timestep"]
        for i, model in enumerate(models):
            call = {**calls[i], "timestep": timestep}
            with torch.no_grad():
                result = model(**call)
            assert torch.equal(flat(result), expected[i][step])
            calls[i] = denoiser.advance(call, result, step)
    for model in models:
        assert len(rfc_compile.stats(model).decisions) == STEPS


def faint(denoiser: Denoiser) -> nn.Module:
    """A model whose blocks see little of the latents."""
    model = denoiser.model()
    embedder = model.x_embedder
    embedder.weight.data *= 0.2
    embedder.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    return model


def test_guided_images_in_turn_are_those_drawn_alone() -> None:
    """Also where blocks see little of the latents: each step is far from the last."""
    denoiser = ALL["FluxTransformer2DModel"]
    plain, model = faint(denoiser), faint(denoiser)
    order = ORDERS["cond first"]
    alone = [list(guided(denoiser, plain, seed, order)) for seed in (0, 1)]
    model.compile_repeated_blocks(backend="rfc", options={"inner": "eager"})
    turns = zip(*(guided(denoiser, model, i, order) for i in (0, 1)), strict=True)
    for found, expected in zip(zip(*turns, strict=True), alone, strict=True):
        assert largest_error(list(found), expected) == 0


class Labelled(Stack):
    """One input of a block holds both the timestep and the label."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.norm(self.run_blocks(x, self.time(t) + label, x)))


def test_a_guided_image_drawn_again_continues_no_branch_of_the_first() -> None:
    """What its first call is given, one branch has had, and the other has not."""
    model = compile_blocks(build(Labelled), schedule="even", target_nfc=4, warmup=1)
    labels = [value * torch.ones(2, WIDTH) for value in (0.5, -0.5)]
    drawn = []
    for _ in range(2):
        x = tokens()
        for step in range(20):
            t = timesteps(1000 - 50 * step)
            cond, empty = (model(x, t, label) for label in labels)
            x = x - 0.005 * (2 * cond - empty)
        drawn.append(x)
        assert rfc_compile.stats(model).steps == 20
    assert torch.equal(*drawn)


def test_a_target_where_neither_timestep_nor_steps_are_known() -> None:
    """As over a run of 50 steps, which is told; the second step is full besides."""
    denoiser = ALL["FluxTransformer2DModel"]
    model = denoiser.model()
    options = {"inner": "eager", "target_nfc": 20}
    model.compile_repeated_blocks(backend="rfc", options=options)
    with pytest.warns(rfc_compile.BudgetWarning, match="a run of 50 steps"):
        results(denoiser, model)
    made = rfc_compile.stats(model).decisions
    assert [one.step for one in made if one.full] == [0, 1, 3, 5, 8, 10]
