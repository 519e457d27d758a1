"""classify_inputs: timestep, latent, text and the rest, without being told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Capture, capture, zoo_capture
from models import Stack, build, text_tokens, timesteps, tokens
from torch import Tensor, nn

from rfc_compile.errors import CannotCache


def roles(captured: Capture) -> tuple[str, list[str], list[str]]:
    """Names of the timestep, the latents and the conditioning inputs."""
    inputs = captured.found.inputs
    places = captured.functional.graph.find_nodes(op="placeholder")
    names = {p.name: name for p, name in zip(places, inputs.names, strict=True)}
    return (
        names[inputs.timestep.name],
        [names[node.name] for node in inputs.latents],
        [names[node.name] for node in inputs.conditioning],
    )


def test_plain() -> None:
    assert roles(zoo_capture("Block")) == ("t", ["x"], [])


def test_text_of_another_length_is_conditioning() -> None:
    captured = zoo_capture("Small")
    assert roles(captured) == ("t", ["x"], [])
    assert roles(zoo_capture("Images")) == ("timestep", ["x"], [])


def test_parameters_and_buffers_are_static() -> None:
    class Buffered(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("offset", torch.ones(6, 16))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x + self.offset, t)

    captured = capture(build(Buffered), tokens(), timesteps(9))
    inputs = captured.found.inputs
    dynamic = set(range(len(inputs.names))) - set(inputs.static_indices)
    assert {inputs.names[i] for i in dynamic} == {"x", "t"}
    assert inputs.names[inputs.timestep_index] == "t"
    assert roles(captured) == ("t", ["x"], [])


class Guided(nn.Module):
    """A model with further inputs, given by name."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = Stack()

    def forward(
        self,
        x: Tensor,
        a: Tensor,
        b: Tensor | None = None,
        y: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        total = a if b is None else a + 0.1 * b
        if y is not None:
            x = x + y[:, None, None] * 0.1
        if mask is not None:
            x = x * mask[..., None]
        return self.stack(x, total)


def test_conditioning_is_everything_else() -> None:
    y, mask = torch.arange(2), torch.ones(2, 6, dtype=torch.bool)
    model = build(Guided)
    captured = capture(
        model, tokens(), timesteps(9), timesteps(1), y, mask, timestep="a"
    )
    timestep, latents, conditioning = roles(captured)
    assert (timestep, latents) == ("a", ["x"])
    assert set(conditioning) == {"b", "y", "mask"}
    assert set(captured.found.inputs.conditioning_names) == {"b", "y", "mask"}


def test_two_candidates_need_a_name() -> None:
    model, call = build(Guided), (tokens(), timesteps(9), timesteps(1))
    with pytest.raises(CannotCache, match=r"several inputs.*\((a, b|b, a)\).*options="):
        capture(model, *call)
    assert roles(capture(model, *call, timestep="b"))[0] == "b"


def test_a_wrong_name_lists_the_inputs() -> None:
    with pytest.raises(CannotCache, match=r"timestep='time'; inputs are: t, x"):
        capture(build(Stack), tokens(), timesteps(9), timestep="time")


def renamed(names: str, body: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]):
    """A model whose forward has these argument names."""
    code = f"def forward(self, {names}):\n    return body(self, {names})\n"
    scope = {"body": body}
    exec(code, scope)
    return type("Renamed", (Guided,), {"forward": scope["forward"]})


def both(self: nn.Module, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return self.stack(x, a + 0.1 * b)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("x, timestep, guidance", "timestep"),
        ("x, guidance, time_step", "time_step"),
        ("x, t, guidance", "t"),
        ("x, sigma, guidance", "sigma"),
        ("x, vision_timesteps, size", "vision_timesteps"),
    ],
)
def test_names_decide_between_candidates(names: str, wanted: str) -> None:
    model = build(renamed(names, both))
    captured = capture(model, tokens(), timesteps(9), timesteps(1))
    assert roles(captured)[0] == wanted


def test_no_timestep() -> None:
    class Timeless(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x.mean((1, 2)))

    with pytest.raises(CannotCache, match="no timestep"):
        capture(build(Timeless), tokens())


def test_no_latent() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x + t.sin()[:, None] * self.linear(x)

    with pytest.raises(CannotCache, match="no latent input"):
        capture(build(Flat), tokens()[:, 0].clone(), timesteps(9))


def test_text_is_a_source_but_no_latent() -> None:
    class Wide(Stack):
        """Text of another width, so that it does not look like the output."""

        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(7, 16)

        def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
            return super().forward(x + self.project(text).mean(1, keepdim=True), t)

    text = text_tokens()[..., :7].clone()
    captured = capture(build(Wide), tokens(), timesteps(9), text)
    assert roles(captured) == ("t", ["x"], ["text"])
    assert len(captured.found.inputs.sources) == 2
