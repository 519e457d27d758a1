"""What Dynamo has met elsewhere in the process is no fact about this model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from denoising import LABELS, small_glyph
from models import WIDTH, Stack, build, timesteps, tokens
from torch import Tensor, fx, nn

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.dynamo_frames import graph_break_reason, is_fragment
from rfc_compile.tools.measure.glyph_dit import initial_noise

CALL = tokens(), timesteps(9)
EAGER = {"inner": "eager"}


class Halves(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x).sin())


class Cut(Halves):
    """A graph break between them."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x).sin()
        torch._dynamo.graph_break()
        return self.layers[1](x).cos()


class Layer(nn.Linear):
    """A layer of the user's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin()


class GivenUp(nn.Module):
    """A graph break in a loop, for which Dynamo gives the forward up."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            torch._dynamo.graph_break()
        return x


Found = list[tuple[bool, str | None]]


def facts(model: nn.Module, wrap: Callable[[nn.Module, Any], Any]) -> Found:
    """Of every graph of a forward: whether it is a fragment, and why."""
    found: Found = []

    def backend(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        found.append((is_fragment(gm), graph_break_reason(gm)))
        return gm.forward

    with torch.no_grad():
        wrap(model, backend)(tokens())
    return found


def in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.compile(backend=backend)
    return model


def hooked(model: nn.Module, backend: Any) -> Any:
    model.register_forward_hook(lambda *_: None)
    return torch.compile(model, backend=backend)


WRAPS = {
    "module": lambda model, backend: torch.compile(model, backend=backend),
    "in place": in_place,
    "function": lambda m, backend: torch.compile(lambda x: m(x), backend=backend),
    "hooked": hooked,
}


def unrelated(x: Tensor) -> Tensor:
    x = x.sin()
    torch._dynamo.graph_break()
    return x.cos()


@pytest.fixture
def broken_elsewhere() -> None:
    """Another function of the process is cut, and another forward given up."""
    torch.compile(unrelated, backend="eager")(torch.ones(3))
    torch.compile(GivenUp(), backend="eager")(tokens())


@pytest.mark.usefixtures("broken_elsewhere")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_whole_forward_is_no_fragment(wrap: Callable[..., Any]) -> None:
    assert facts(Halves(), wrap) == [(False, None)]


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_both_halves_are_fragments_and_know_of_the_break(
    wrap: Callable[..., Any],
) -> None:
    (first, why), (second, again) = facts(Cut(), wrap)
    assert first
    assert second
    assert "graph_break" in str(why)
    assert "(test_dynamo_frames.py:" in str(why)
    assert again == why


@pytest.mark.usefixtures("broken_elsewhere")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_parts_of_a_forward_that_was_given_up_are_fragments(
    wrap: Callable[..., Any],
) -> None:
    found = facts(GivenUp(), wrap)
    assert found
    for fragment, why in found:
        assert fragment
        assert "graph_break" in str(why)
        assert "(test_dynamo_frames.py:" in str(why)


class Keyed(Stack):
    """Compiled anew whenever its key changes."""

    key = "a"

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        return super().forward(x, t) * (1 + 0.01 * len(self.key))


@torch._dynamo.config.patch(recompile_limit=3)
def test_the_recompile_limit_is_told_once() -> None:
    net = build(Keyed)
    model = torch.compile(net, backend="rfc", options={"inner": "eager"})
    warned = []
    with warnings.catch_warnings(record=True) as seen, torch.no_grad():
        warnings.simplefilter("always", UncachedWarning)
        for count in range(1, 6):
            net.key = "a" * count
            model(tokens(), timesteps(9))
            warned.append(len([w for w in seen if w.category is UncachedWarning]))
    assert warned == [0, 0, 1, 1, 1]
    (reason,) = rfc_compile.explain(model).uncached_reasons
    assert "compiled 3 times, Dynamo's limit" in reason


@torch.compiler.disable
def attend_eagerly(x: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(x, x, x)


class KeptOut(Stack):
    """Its author keeps Dynamo out of an attention."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(x + attend_eagerly(x), c, text)


class Selects(Stack):
    """Takes the text's tokens by a mask."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(x + x[x > 0].mean(), c, text)


class SetsGradients(Stack):
    """Keeps its input out of the gradients."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        x.requires_grad = False
        return super().run_blocks(x, c, text)


class FillsATable(Stack):
    """Makes positions by numpy at its first call of a size."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        if "positions" not in self.__dict__:
            table = np.linspace(0, 1, x.shape[1], endpoint=False, dtype=np.float32)
            self.__dict__["positions"] = torch.from_numpy(table)[:, None]
        return super().run_blocks(x + self.__dict__["positions"], c, text)


class Keeps(Stack):
    """Makes an object at its first call that Dynamo cannot."""

    def __init__(self, make: Callable[[], object]) -> None:
        super().__init__()
        self.make = make

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        if "kept" not in self.__dict__:
            self.__dict__["kept"] = self.make()
        return super().run_blocks(x, c, text)


MADE = (threading.local, threading.Lock, threading.RLock, torch.Generator)


@pytest.mark.parametrize("called", [False, True], ids=["compiled first", "called"])
@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_an_object_made_at_the_first_call(
    make: Callable[[], object], called: bool
) -> None:
    """The break tells a remedy, and the remedy leaves one graph."""
    model = build(lambda: Keeps(make))
    rfc = torch.compile(model, backend="rfc", options={"inner": "eager"})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if called:
            model(*CALL)
        rfc(*CALL)
    explanation = rfc_compile.explain(rfc)
    if called:
        assert explanation.graphs == 1
        assert not explanation.graph_breaks
    else:
        (text,) = explanation.graph_breaks
        assert "make the object in __init__" in text


def cast_by_layer() -> nn.Module:
    """Layers that make parameters of another dtype at every call."""
    model = small_glyph()
    types = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    model.enable_layerwise_casting(**types)
    return model


@pytest.mark.parametrize(
    ("make", "inputs", "remedy"),
    [
        (KeptOut, CALL, "torch.compiler.disable = lambda"),
        (Selects, CALL, "before the model is called"),
        (SetsGradients, CALL, "outside of the forward"),
        (FillsATable, CALL, "call the model once"),
        (cast_by_layer, (initial_noise(1, 0), LABELS[:1], LABELS[:1]), "by torchao"),
    ],
)
def test_a_break_is_told_once_with_what_to_do(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], remedy: str
) -> None:
    rfc = torch.compile(build(make), backend="rfc", options={"inner": "eager"})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UncachedWarning)
        rfc(*inputs)
    breaks = rfc_compile.explain(rfc).graph_breaks
    assert breaks
    assert all(remedy in text for text in breaks)
    assert len({text.partition(" (")[0] for text in breaks}) == len(breaks)


class WithoutWeights(Stack):
    """Dynamo gives the forward up; what is left of it are functions of activations."""

    def forward(self, x: Tensor, t: Tensor, p: Tensor) -> Tensor:  # type: ignore[override]
        for block, size in zip(self.blocks, p, strict=False):
            x = block.attn.out(mixed(x[:, :size], x))
        return x


def mixed(x: Tensor, y: Tensor) -> Tensor:
    return x.mean(1, keepdim=True) + y


def test_graphs_without_weights_are_those_of_the_model_that_is_called() -> None:
    """The warning of no region says: see explain."""
    rfc = torch.compile(build(WithoutWeights), backend="rfc", options=EAGER)
    sizes = torch.tensor([2, 3])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UncachedWarning)
        rfc(*CALL, sizes)
    (reason,) = rfc_compile.explain(rfc).graph_breaks
    assert "pass it as a Python number" in reason


def test_what_is_compiled_ahead_of_time_is_the_inner_backends() -> None:
    model = build(Stack)
    compiled = torch.compile(model.forward, backend="rfc", fullgraph=True)
    with torch.no_grad(), pytest.warns(UncachedWarning, match="ahead of time"):
        saved = compiled.aot_compile(((tokens(), timesteps(9)), {}))
    with torch.no_grad():
        found = saved(model, tokens(), timesteps(9))
        torch.testing.assert_close(found, model(tokens(), timesteps(9)))
