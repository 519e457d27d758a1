"""``per_sample=True``: what becomes of a sample does not depend on its batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from denoising import small_glyph
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Block, Stack, attend, build, timesteps, tokens
from serving import (
    Alone,
    GlyphRequest,
    Request,
    TinyRequest,
    alone,
    kinds,
    serve,
    step,
)
from torch import Tensor, fx, nn
from torch._dynamo import register_backend

import rfc_compile
from rfc_compile import UncachedWarning

ROUNDING = 1e-4
"""Kernels of other batch sizes add up in another order."""


def compiled(model: nn.Module, per_sample: bool = True, **options: Any) -> Any:
    given = {"inner": "eager", "min_coverage": 0.0, "per_sample": per_sample, **options}
    return torch.compile(model, backend="rfc", options=given, dynamic=True)


def check(model: Any, served: Sequence[Request], expected: Sequence[Alone]) -> None:
    """Every request became what it is alone."""
    samples = rfc_compile.stats(model).samples
    decided = sorted(kinds(sample.decisions) for sample in samples)
    assert decided == sorted(x for one in expected for x in one.trajectories)
    for request, reference in zip(served, expected, strict=True):
        torch.testing.assert_close(request.x, reference.image, rtol=0, atol=ROUNDING)
    assert not rfc_compile.explain(model).uncached_reasons


ARRIVALS: list[tuple[int, Callable[[], Request]]] = [
    (0, lambda: GlyphRequest(3, seed=0, steps=20)),
    (0, lambda: GlyphRequest(8, seed=1, steps=20)),
    (1, lambda: GlyphRequest(10, seed=0, steps=20)),
    (3, lambda: GlyphRequest(3, seed=2, steps=12)),
    (5, lambda: GlyphRequest(3, seed=0, steps=20)),  # the first one again, later
    (9, lambda: GlyphRequest(5, seed=4, steps=24, name="dpmpp_2m")),
]
"""The call before which each request joins. The last is a batch of one in the end; a
first batch of three would be as large as the number of channels."""


@pytest.mark.parametrize(
    "options",
    [{}, {"granularity": "module", "threshold": 0.35}],
    ids=["stack", "module"],
)
def test_requests_become_what_they_are_alone(options: dict[str, Any]) -> None:
    """They join, leave and swap rows as a server batches them."""
    model = compiled(small_glyph(), per_sample=False, **options)
    requests = [make() for _, make in ARRIVALS]
    expected = [alone(model, request) for request in requests]
    torch._dynamo.reset()
    model = compiled(small_glyph(), **options)
    served = serve(model, [(call, make()) for call, make in ARRIVALS])
    check(model, served, expected)
    statistics = rfc_compile.stats(model)
    assert len(statistics.decisions) - statistics.nfc > 40
    assert statistics.nfc == sum(sample.nfc for sample in statistics.samples)


def tiny(block: type[Block] = Block) -> nn.Module:
    """A tiny model with blocks of this type."""
    return build(type("Tiny", (Stack,), {"block": block}))


TINY = {"threshold": 0.3, "warmup": 2}
STEPS = {0: 6, 1: 9, 2: 14, 3: 9}
"""The steps of a request, by the seed of its noise."""
ARRIVING = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from(sorted(STEPS))), min_size=1, max_size=5
)


def test_any_schedule_gives_what_requests_are_alone() -> None:
    """Whatever joins when, in whichever rows and however it is split into calls."""
    reference = compiled(tiny(), per_sample=False, **TINY)
    expected = {
        seed: alone(reference, TinyRequest(seed, steps))
        for seed, steps in STEPS.items()
    }
    ended = [kind for one in expected.values() for kind in one.trajectories[-1][2:]]
    assert {full for _, _, full, _ in ended} == {True, False}
    torch._dynamo.reset()
    model = compiled(tiny(), **TINY)

    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(ARRIVING, st.randoms(use_true_random=False), st.booleans())
    def run(arriving: Any, random: Any, split: bool) -> None:
        rfc_compile.reset(model)

        def batches(batch: list[Request]) -> list[list[Request]]:
            random.shuffle(batch)
            cut = random.randint(0, len(batch)) if split else 0
            return [batch[:cut], batch[cut:]]

        arrivals = [(at, TinyRequest(seed, STEPS[seed])) for at, seed in arriving]
        served = serve(model, arrivals, batches)
        check(model, served, [expected[seed] for _, seed in arriving])

    run()


def attention_graphs(gm: fx.GraphModule) -> bool:
    return any("scaled_dot_product" in str(node.target) for node in gm.graph.nodes)


def test_the_full_graph_runs_on_the_rows_that_need_it_alone() -> None:
    rows: list[int] = []

    @register_backend(name="counts_rows")
    def counting(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        if not attention_graphs(gm):
            return gm.forward

        def run(*arguments: Any) -> Any:
            results = gm.forward(*arguments)
            rows.append(len(results[0]))
            return results

        return run

    model = compiled(small_glyph(), inner="counts_rows", threshold=0.3)
    serve(model, [(0, GlyphRequest(3, seed=0, steps=12)) for _ in range(2)])
    assert sum(rows) > rfc_compile.stats(model).nfc  # it was tried out first
    rfc_compile.reset(model)
    del rows[:]
    serve(model, [(call, make()) for call, make in ARRIVALS])
    statistics = rfc_compile.stats(model)
    assert sum(rows) == statistics.nfc
    assert max(rows) > 1


def test_another_prompt_in_one_row_restarts_that_row_alone() -> None:
    model = compiled(small_glyph())
    requests = [GlyphRequest(label, seed=label, steps=20) for label in (3, 8)]
    for done in range(20):
        if done == 8:
            requests[0].label = 4
        step(model, requests)
    first, second, again = rfc_compile.stats(model).samples
    assert [len(x.decisions) for x in (first, second, again)] == [8, 20, 12]
    assert again.decisions[0].reason == "conditioning"


def test_broken_rows_break_no_others() -> None:
    reference = compiled(tiny(), per_sample=False, **TINY)
    expected = alone(reference, TinyRequest(1, steps=9))
    torch._dynamo.reset()
    model = compiled(tiny(), **TINY)
    requests = [TinyRequest(seed, steps=9) for seed in range(2)]

    def run() -> None:
        for done in range(9):
            if done == 4:
                requests[0].x = requests[0].x * float("nan")
            step(model, requests)

    with pytest.warns(UncachedWarning, match="NaN or Inf"):
        run()
    second = rfc_compile.stats(model).samples[1]
    assert [kinds(second.decisions)] == expected.trajectories
    torch.testing.assert_close(requests[1].x, expected.image, rtol=0, atol=ROUNDING)


def test_weights_written_to_restart_every_row_without_alarm() -> None:
    model = compiled(tiny(), **TINY)
    requests = [TinyRequest(seed, steps=12) for seed in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        for done in range(12):
            if done == 6:
                model.head.weight.mul_(1.01)
            step(model, requests)
    statistics = rfc_compile.stats(model)
    assert [len(sample.decisions) for sample in statistics.samples] == [6] * 8
    assert {s.decisions[0].reason for s in statistics.samples[4:]} == {"weights"}


def test_state_is_freed_when_a_sample_has_left() -> None:
    model = compiled(tiny(), **TINY)
    leaves, stays = TinyRequest(0, steps=30), TinyRequest(1, steps=30)
    for _ in range(3):
        step(model, [leaves, stays])
    held = rfc_compile.stats(model).samples[0].cache_bytes
    assert held > 0
    for _ in range(12):
        step(model, [stays])
    samples = rfc_compile.stats(model).samples
    assert [sample.cache_bytes for sample in samples] == [0, held]
    assert len(samples[0].decisions) == 3


def test_a_number_of_steps_that_is_told_ends_every_sample() -> None:
    model = compiled(tiny(), final_full=2, **TINY)
    requests = [TinyRequest(seed, steps=9) for seed in range(2)]
    for _ in range(9):
        with rfc_compile.trajectory("request", num_steps=9):
            step(model, requests)
    statistics = rfc_compile.stats(model)
    assert statistics.cache_bytes == 0
    for sample in statistics.samples:
        assert [d.reason for d in sample.decisions[-2:]] == ["final"] * 2


class AcrossTheBatch(Block):
    """Attention over the batch, as a gate that is still zero hides it."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        others = x.transpose(0, 1)
        return super().forward(x, c, text) + 0.0 * attend(
            others, others, others
        ).transpose(0, 1)


class BatchStatistics(Block):
    """A scale of the largest value in the batch, as dynamic quantization has."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().forward(x / x.abs().amax(), c, text)


class OverlappingSums(Block):
    """Rows add up from the first to the last."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().forward(x, c, text) + 0.1 * x.cumsum(0)


@pytest.mark.parametrize("block", [AcrossTheBatch, BatchStatistics, OverlappingSums])
def test_samples_that_depend_on_each_other_run_uncached(block: type[Block]) -> None:
    model = compiled(tiny(block), **TINY)
    with pytest.warns(UncachedWarning, match="depends on the others of its batch"):
        found = serve(model, [(0, TinyRequest(seed, steps=9)) for seed in range(3)])
    expected = serve(tiny(block), [(0, TinyRequest(seed, 9)) for seed in range(3)])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=0, atol=ROUNDING)
    assert not rfc_compile.stats(model).decisions
    assert "depends on the others" in str(rfc_compile.explain(model))


class Pooled(Stack):
    """Returns one value for the batch beside its result."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Any:
        result = super().forward(x, t, text)
        return result, result.mean()


class Folded(Block):
    """Works on two halves of every sample as samples of their own."""

    def forward(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        halves = x.unflatten(1, (2, -1)).flatten(0, 1)
        doubled = super().forward(halves, c.repeat_interleave(2, 0), halves)
        return doubled.unflatten(0, (-1, 2)).flatten(1, 2)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: build(Pooled), "is one for all samples"),
        (lambda: tiny(Folded), "rows for a batch of"),
    ],
    ids=["pooled", "folded"],
)
def test_what_no_sample_owns_is_refused(
    model: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.warns(UncachedWarning, match=reason), torch.no_grad():
        compiled(model(), granularity="module")(tokens(batch=3), timesteps(1, batch=3))


def test_a_fixed_batch_is_refused_but_for_one_sample() -> None:
    options = {"inner": "eager", "min_coverage": 0.0, "per_sample": True, **TINY}
    model = torch.compile(tiny(), backend="rfc", options=options, dynamic=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        serve(model, [(0, TinyRequest(0, steps=9))])
    (sample,) = rfc_compile.stats(model).samples
    assert 0 < sample.nfc < 9
    with pytest.warns(UncachedWarning, match="a batch of 2 alone: compile"):
        step(model, [TinyRequest(seed, steps=9) for seed in range(2)])


def test_a_batch_as_large_as_another_size_says_what_to_do() -> None:
    """Dynamo takes equal sizes of the first call for one size."""
    model, t = compiled(tiny()), timesteps(1, batch=6)
    x = tokens(batch=6)  # six tokens, too
    with pytest.warns(UncachedWarning, match="mark_dynamic"), torch.no_grad():
        model(x, t)
    torch._dynamo.reset()
    for value in (x, t):
        torch._dynamo.mark_dynamic(value, 0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", UncachedWarning)
        torch.compile(tiny(), backend="rfc", options=dict(OPTIONS))(x, t)


OPTIONS = {"inner": "eager", "min_coverage": 0.0, "per_sample": True}


def test_a_block_by_itself_is_refused() -> None:
    model = tiny()
    for block in model.blocks:
        block.compile(backend="rfc", options=OPTIONS, dynamic=True)
    with pytest.warns(UncachedWarning, match="compile the whole model"):
        step(model, [TinyRequest(seed, steps=9) for seed in range(2)])


@pytest.mark.parametrize(
    "options",
    [
        {**TINY, "inner": "inductor"},
        {"schedule": "interval", "interval": 3, "estimator": "rfe"},
    ],
    ids=["inductor", "static"],
)
def test_other_graphs(options: dict[str, Any]) -> None:
    arrivals = [(0, 0, 9), (0, 1, 14), (3, 2, 11)]
    reference = compiled(tiny(), per_sample=False, **{**options, "inner": "eager"})
    expected = [alone(reference, TinyRequest(*request)) for _, *request in arrivals]
    torch._dynamo.reset()
    model = compiled(tiny(), **options)
    served = serve(model, [(at, TinyRequest(*request)) for at, *request in arrivals])
    check(model, served, expected)
