"""A server says which request each row of a batch belongs to: `rfc_compile.rows`."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from denoising import small_glyph
from models import Block, Stack, build
from serving import GlyphRequest, Request, TinyRequest, step
from torch import Tensor, nn

import rfc_compile
from rfc_compile import OptionError, Row, UncachedWarning
from rfc_compile.runtime import latent_search
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)

ROUNDING = 1e-4
"""Kernels of other batch sizes add up in another order."""

STEPS = 12


def tiny() -> nn.Module:
    return build(type("Tiny", (Stack,), {"block": Block}))


def compiled(model: nn.Module | None = None, **options: Any) -> Any:
    given = {"inner": "eager", "min_coverage": 0.0, "per_sample": True, **options}
    return torch.compile(model or tiny(), backend="rfc", options=given, dynamic=True)


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    """Nothing is said of requests that run as they asked to."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        yield


def call(model: Any, pairs: Sequence[tuple[Request, Row]]) -> None:
    """One call for these requests."""
    with rfc_compile.rows([row for _, row in pairs]):
        step(model, [request for request, _ in pairs])


def drawn_alone(model: Any, request: Request, row: Row) -> Tensor:
    while not request.finished:
        call(model, [(request, row)])
    return request.x


def counts() -> dict[str, int]:
    """Full steps of every sample by its name."""
    return {sample.name: sample.nfc for sample in rfc_compile.stats().samples}


def test_no_row_is_copied_to_search_for_its_latent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied: list[Any] = []
    monkeypatch.setattr(latent_search, "copies_of_tensors", copied.append)
    model = compiled(warmup=2)
    pairs = [(TinyRequest(seed, steps=9), Row(str(seed))) for seed in range(2)]
    for _ in range(6):
        call(model, pairs)
    assert len(counts()) == 2
    assert not copied


def test_requests_for_one_image_keep_their_own_quality() -> None:
    """By their latents alone they could change places with their rows.

    A call that names too few rows is refused, and nothing is lost.
    """
    model, plain = compiled(), tiny()
    expected = TinyRequest(0, STEPS)
    while not expected.finished:
        step(plain, [expected])
    pairs = [
        (TinyRequest(0, STEPS), Row(name, STEPS, **asked))
        for name, asked in (
            ("exact", {"off": True}),
            ("fast", {"target_nfc": 4}),
            ("exact too", {"off": True}),
        )
    ]
    pairs.append((TinyRequest(1, STEPS), Row("other", STEPS)))
    shuffled = random.Random(0)
    for at in range(STEPS):
        if at == 5:
            few = rfc_compile.rows([row for _, row in pairs[:2]])
            with pytest.raises(OptionError, match="2 rows for a batch of 4"), few:
                step(model, [request for request, _ in pairs])
        shuffled.shuffle(order := list(pairs))
        call(model, order)
    assert counts().items() >= {"exact": 12, "fast": 4, "exact too": 12}.items()
    distances = [torch.dist(request.x, expected.x) for request, _ in pairs[:3]]
    assert max(distances[0], distances[2]) < ROUNDING < distances[1]


class Guided(GlyphRequest):
    """A digit by guidance: its rows are one for the label and one for none."""

    scale = 2.0

    def row(self) -> dict[str, Tensor]:
        row = {
            name: value.repeat_interleave(2, 0) for name, value in super().row().items()
        }
        return {**row, "class_labels": torch.tensor([self.label, EMPTY_CLASS])}

    def take(self, prediction: Tensor) -> None:
        wanted, empty = prediction.split(1)
        super().take(empty + self.scale * (wanted - empty))


def guided_call(model: Any, pairs: Sequence[tuple[Guided, Row]], named: bool) -> None:
    rows = [request.row() for request, _ in pairs]
    given = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    names = [row for _, row in pairs for _ in range(2)] if named else []
    with rfc_compile.rows(names), torch.no_grad():
        predictions = model(**given).sample
    for (request, _), prediction in zip(pairs, predictions.split(2), strict=True):
        request.take(prediction)


@pytest.mark.parametrize("named", [True, False])
def test_guidance_is_the_same_in_every_batch(named: bool) -> None:
    """Its rows are full at different steps, and others come and go.

    Two requests that begin with the same noise are distinguished by their names.
    """

    def requests() -> list[tuple[Guided, Row]]:
        seeds = (0, 0, 1) if named else (0, 2, 1)
        asked = [{"tolerance": 0.08}, {"target_nfc": 4}, {}] if named else [{}] * 3
        return [
            (Guided(3 + i, seed, 9 + i), Row(f"{i}", 9 + i, **own))
            for i, (seed, own) in enumerate(zip(seeds, asked, strict=True))
        ]

    model, alone, beside = compiled(small_glyph()), requests(), requests()
    for request, row in alone:
        while not request.finished:
            guided_call(model, [(request, row)], named)
    decided = [sample.nfc for sample in rfc_compile.stats(model).samples]
    rfc_compile.reset(model)
    for at in range(16):
        joined = beside if named else beside[: 1 + at // 2]
        waiting = [pair for pair in joined if not pair[0].finished]
        if waiting:
            guided_call(model, waiting[:: -1 if at % 2 else 1], named)
    assert [sample.nfc for sample in rfc_compile.stats(model).samples] == decided
    assert len(set(decided)) > 1
    for (request, _), (expected, _) in zip(beside, alone, strict=True):
        torch.testing.assert_close(request.x, expected.x, rtol=0, atol=ROUNDING)


class NoisyRequest(TinyRequest):
    """A sampler that adds fresh noise at every step."""

    def take(self, prediction: Tensor) -> None:
        super().take(prediction)
        noise = torch.Generator().manual_seed(100 * self.seed + self.done)
        self.x = self.x + 0.3 * torch.randn(self.x.shape, generator=noise)


def test_guidance_rows_without_names_change_places() -> None:
    """All have one latent, which says nothing of which is which: the prompts do."""
    drawn = []
    for turns in (0, 1):
        torch._dynamo.reset()
        model = compiled(small_glyph(), target_nfc=7)
        sampler, x = make_scheduler("ddim", 20), initial_noise(1, 0)
        labels = torch.tensor([3, EMPTY_CLASS])
        for i, t in enumerate(sampler.timesteps):
            order = [0, 1] if i % 2 == 0 or not turns else [1, 0]
            given = {"timestep": t.expand(2), "class_labels": labels[order]}
            with torch.no_grad():
                cond, empty = model(torch.cat([x, x]), **given).sample[order]
            x = sampler.step((2 * cond - empty)[None], t, x).prev_sample
        drawn.append(x)
    torch.testing.assert_close(*drawn, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("named", [True, False])
def test_guidance_in_two_calls(named: bool) -> None:
    """Each call of a step has its own history, and both are decided alike."""
    torch._dynamo.reset()
    model = compiled(small_glyph(), target_nfc=7)
    sampler, x = make_scheduler("ddim", 20), initial_noise(2, 0)
    labels = torch.tensor([3, 8])
    rows = [Row(name, num_steps=20) for name in ("one", "two")]
    for t in sampler.timesteps:
        parts = []
        for given in (labels, torch.full_like(labels, EMPTY_CLASS)):
            name = rfc_compile.rows(rows) if named else contextlib.nullcontext()
            with torch.no_grad(), name:
                parts.append(model(x, timestep=t.expand(2), class_labels=given).sample)
        x = sampler.step(2 * parts[0] - parts[1], t, x).prev_sample
    samples = rfc_compile.stats(model).samples
    assert [(one.nfc, one.steps) for one in samples] == [(7, 20)] * 4
    full = [{made.step for made in one.decisions if made.full} for one in samples]
    assert full[0] == full[2]
    assert full[1] == full[3]


def test_requests_with_fresh_noise_are_cached_and_equal_those_alone() -> None:
    """No latent follows from the last one: the names alone say who is who."""
    asked = [Row(f"{i}", 9 + i, target_nfc=4 + i) for i in range(4)]
    model = compiled()
    call(model, [(TinyRequest(i, 3), Row(f"first {i}", 3)) for i in range(3)])
    alone = [
        drawn_alone(model, NoisyRequest(i, 9 + i), row) for i, row in enumerate(asked)
    ]
    rfc_compile.reset(model)
    pairs = [(NoisyRequest(i, 9 + i), row) for i, row in enumerate(asked)]
    for at in range(20):
        waiting = [x for i, x in enumerate(pairs) if i <= at and not x[0].finished]
        if waiting:
            call(model, waiting[:: -1 if at % 2 else 1])
    assert counts() == {"0": 4, "1": 5, "2": 6, "3": 7}
    for (request, _), expected in zip(pairs, alone, strict=True):
        torch.testing.assert_close(request.x, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("named", [True, False])
def test_a_request_that_begins_anew_keeps_what_it_asked_for(named: bool) -> None:
    """Weights change in its midst."""
    model = compiled()
    exact, cached = (TinyRequest(seed, STEPS) for seed in range(2))
    if named:
        for _ in range(6):
            call(model, [(exact, Row("exact", off=True)), (cached, Row("cached"))])
    else:
        for request, off in ((exact, True), (cached, False)):
            with rfc_compile.trajectory("server", off=off):
                step(model, [request])
        for _ in range(5):
            with rfc_compile.trajectory("server"):
                step(model, [cached, exact])
    model.head.weight.mul_(1.01)
    while not exact.finished:
        with rfc_compile.trajectory("server"):
            if named:
                call(model, [(exact, Row("exact")), (cached, Row("cached"))])
            else:
                step(model, [cached, exact])
    found = [(sample.steps, sample.nfc) for sample in rfc_compile.stats(model).samples]
    assert found[0] == (6, 6)
    assert (6, 6) in found[2:]
    assert all(nfc < steps for steps, nfc in (found[1], found[2:][found[2] == (6, 6)]))


def test_rows_of_a_batch_that_is_decided_about_as_a_whole_are_refused() -> None:
    model = compiled(per_sample=False)
    with pytest.raises(OptionError, match="'per_sample': True"):
        call(model, [(TinyRequest(0, STEPS), Row("a"))])


def test_what_a_row_asks_for_is_checked_at_once() -> None:
    with pytest.raises(OptionError, match="target_nfc=0"):
        Row("a", target_nfc=0)
    with pytest.raises(OptionError, match="exclude each other"):
        Row("a", 8, target_nfc=5, off=True)
    with pytest.raises(ValueError, match="num_steps=0"):
        Row("a", 0)
