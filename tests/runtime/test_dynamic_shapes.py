"""Several resolutions, batch sizes and prompt lengths with one compiled model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from comparing import FLUX
from denoisers.base import Denoiser, flat
from models import WIDTH, Stack, build, text_tokens, timesteps, tokens
from options import MODULES
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import rfc_compile

STEPS = 7
OPTIONS = {
    **MODULES,
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
    "warmup": 2,
    "time": "step",  # blocks alone are given no timestep
}
SIZES = [(1, 16, 8), (2, 24, 8), (1, 24, 6)]
"""Batch, image tokens, text tokens of the runs; a batch of 1 has graphs of its own."""


def sized(batch: int, tokens: int, text: int) -> Denoiser:
    """The tiny Flux called with other sizes."""

    def inputs() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(100 * batch + tokens + text)
        noise = functools.partial(torch.randn, generator=generator)
        return {
            "hidden_states": noise(batch, tokens, 4),
            "encoder_hidden_states": noise(batch, text, 32),
            "pooled_projections": noise(batch, 32),
            "timestep": torch.ones(batch),
            "img_ids": noise(tokens, 3),
            "txt_ids": torch.zeros(text, 3),
        }

    return Denoiser(
        "sized", FLUX.build, inputs, regions=FLUX.regions, first=1.0, last=0.02
    )


def results(denoise: Any, size: tuple[int, int, int]) -> list[Tensor]:
    return [flat(result) for _, result in sized(*size).walk(denoise, steps=STEPS)]


@functools.cache
def expected(size: tuple[int, int, int]) -> list[Tensor]:
    """A run of a model compiled for this size alone."""
    torch._dynamo.reset()
    model = FLUX.model()
    found = results(torch.compile(model, backend="rfc", options=OPTIONS), size)
    assert rfc_compile.stats(model).nfc == 3
    torch._dynamo.reset()
    return found


@functools.cache
def compilations(dynamic: bool | None, regional: bool) -> int:
    """How often the inner backend alone compiles for all sizes."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    model = FLUX.model()
    compile_model(model, regional, backend=counter, dynamic=dynamic)
    for size in SIZES:
        results(model, size)
    torch._dynamo.reset()
    return counter.frame_count


def compile_model(model: Any, regional: bool, **settings: Any) -> None:
    """In place, whole or block by block."""
    (model.compile_repeated_blocks if regional else model.compile)(**settings)


@pytest.mark.parametrize(
    ("dynamic", "regional"),
    [
        pytest.param(None, False, id="found-whole"),
        pytest.param(None, True, id="found-blocks"),
        pytest.param(True, False, id="dynamic-whole", marks=pytest.mark.nightly),
        pytest.param(False, False, id="static-whole", marks=pytest.mark.nightly),
    ],
)
def test_every_size_is_right(dynamic: bool | None, regional: bool) -> None:
    """Each run is like that of a model compiled for it, and nothing compiles more."""
    references = {size: expected(size) for size in SIZES}
    allowed = compilations(dynamic, regional)
    model = FLUX.model()
    compile_model(model, regional, backend="rfc", options=OPTIONS, dynamic=dynamic)
    for size in (*SIZES, SIZES[0]):
        found = results(model, size)
        statistics = rfc_compile.stats(model)
        assert (len(statistics.decisions), statistics.nfc) == (STEPS, 3), size
        for a, b in zip(found, references[size], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert rfc_compile.explain(model).graphs <= allowed
    assert not rfc_compile.explain(model).uncached_reasons


class Padded(Stack):
    """Pads a prompt to the longest there is, as Wan does."""

    longest = 12

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor) -> Tensor:  # type: ignore[override]
        missing = self.longest - len(prompt)
        padded = torch.cat([prompt, prompt.new_zeros(missing, WIDTH)])[None]
        return super().forward(x + F.scaled_dot_product_attention(x, padded, padded), t)


def test_constants_of_a_size_do_not_part_two_graphs() -> None:
    """The first image, during which Dynamo compiles for any length, is the second."""
    torch._dynamo.reset()
    model = torch.compile(build(Padded), backend="rfc", options={"inner": "eager"})
    prompts = [tokens(5, batch=1)[0, :length] for length in (6, 4)]

    def image() -> Tensor:
        x = tokens(batch=1)
        for step in range(20):
            time = timesteps(10 - step / 2, batch=1)
            wanted, empty = (model(x, time, prompt) for prompt in prompts)
            x = x - (3 * wanted - 2 * empty) / 80
        return x

    with torch.no_grad():
        first, second = image(), image()
    assert 4 < rfc_compile.stats(model).nfc < 15
    assert torch.equal(first, second)


class Masked(Stack):
    """Extends the prompt's mask by as many image tokens, as HunyuanImage does."""

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        seen = F.pad(mask, (x.shape[1], 0), value=True)[:, : x.shape[1], None]
        return super().forward(x * seen, t)


def test_ops_whose_kernel_takes_numbers_for_sizes_are_traced() -> None:
    torch._dynamo.reset()
    model = torch.compile(build(Masked), backend="rfc", options={"inner": "eager"})
    # a kernel runs where no other test has left its result
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False), torch.no_grad():
        for length in (6, 5):
            mask = torch.ones(2, 6, dtype=torch.int64)
            model(tokens()[:, :length], timesteps(9), mask)
    assert rfc_compile.explain(model).graphs == 2
    assert not rfc_compile.explain(model).uncached_reasons


class Packed(Stack):
    """Returns the tokens at some places, as BAGEL does."""

    def forward(  # type: ignore[override]
        self, keys: Tensor, packed: Tensor, t: Tensor, places: Tensor
    ) -> Tensor:
        kept = self.embed(keys).flatten(1, 2)
        x = self.embed(packed)[None]
        x = x + F.scaled_dot_product_attention(x, kept, kept)
        return super().forward(x, t)[0, places]


def test_a_result_as_long_as_an_index_is_that_of_the_latent() -> None:
    """Where sizes are symbols, those of the two are equal only when it runs."""
    torch._dynamo.reset()
    model = torch.compile(build(Packed), backend="rfc", options={"inner": "eager"})
    for length in (6, 5):
        x, keys = tokens()[0, :length], text_tokens(batch=1)[:, None]
        places = torch.arange(length)
        with torch.no_grad():
            for step in range(12):
                x = x - model(keys, x, timesteps(10 - step, batch=1), places) / 40
        assert rfc_compile.stats(model).nfc < 10
        assert len(rfc_compile.stats(model).decisions) == 12


class Dropping(Stack):
    """Takes no prompt, or a scale of 0, by a flag."""

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, prompt: Tensor, dropped: str
    ) -> Tensor:
        if dropped == "prompt":
            prompt = torch.zeros_like(prompt)
        scale = torch.full((1,), 0.0 if dropped == "scale" else 1.0)
        keys = self.embed(prompt)
        x = x + scale * F.scaled_dot_product_attention(x, keys, keys)
        return super().forward(x, t)


@pytest.mark.parametrize("dropped", ["prompt", "scale"])
def test_a_flag_that_makes_another_constant_parts_two_graphs(dropped: str) -> None:
    """Two graphs with a run each, called in turn."""
    torch._dynamo.reset()
    model = torch.compile(build(Dropping), backend="rfc", options={"inner": "eager"})
    x, prompt = tokens(), text_tokens()
    with torch.no_grad():
        for step in range(20):
            wanted, empty = (
                model(x, timesteps(10 - step / 2), prompt, flag)
                for flag in ("", dropped)
            )
            x = x - (3 * wanted - 2 * empty) / 80
    assert rfc_compile.stats(model).nfc < 15
    assert not rfc_compile.explain(model).uncached_reasons
