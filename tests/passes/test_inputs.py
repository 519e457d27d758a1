"""classify_inputs: timestep, latent, text and the rest, found in the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from capture import Capture, Walk, capture, zoo_capture
from models import Stack, attend, build, text_tokens, timesteps, tokens
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


def test_the_name_that_goes_with_a_latent_wins() -> None:
    def two(self: nn.Module, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.stack(x, a + 0.1 * b)

    model = build(renamed("bb, local_time, bb_time", two))
    captured = capture(model, tokens(), timesteps(9), timesteps(1))
    assert roles(captured)[0] == "bb_time"


def test_further_times_are_no_conditioning() -> None:
    """They change with the timestep at every step: they tell no prompt from another."""
    model = build(renamed("x, timestep, r_timestep", both))
    captured = capture(model, tokens(), timesteps(9), timesteps(1))
    assert roles(captured) == ("timestep", ["x"], [])


def test_a_timestep_for_each_token() -> None:
    class PerToken(Stack):
        def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            per_token = super().forward(text, timestep[:, 0])
            waves = (timestep[..., None] * torch.arange(16)).sin()
            return super().forward(x + waves, per_token.mean((1, 2)))

    step = torch.full((2, 6), 9.0)
    captured = capture(build(PerToken), tokens(), step, text_tokens())
    assert roles(captured) == ("timestep", ["x"], ["text"])


@pytest.mark.parametrize("step", [9.0, 9, torch.tensor(9.0), torch.tensor(9)])
def test_a_timestep_that_is_one_number(step: object) -> None:
    class Single(Stack):
        def forward(self, x: Tensor, timestep: Tensor | float) -> Tensor:
            return super().forward(x, torch.as_tensor(timestep).expand(2))

    captured = capture(build(Single), tokens(), step, dynamic=True)
    assert roles(captured)[0] == "timestep"


def test_the_size_of_a_timestep_is_not_the_timestep() -> None:
    class Frames(Stack):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(x, timestep.mean().expand(2))

    step = torch.full((5,), 9.0)  # Dynamo passes its size, too, and before it
    for wanted in (None, "timestep"):
        captured = capture(build(Frames), tokens(), step, dynamic=True, timestep=wanted)
        found = captured.found.inputs.timestep
        assert found is not None
        assert isinstance(found.meta["val"], Tensor)


def test_a_timestep_that_is_looked_up() -> None:
    class Learnt(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Embedding(1000, 16)

    assert roles(capture(build(Learnt), tokens(), torch.tensor([9, 9])))[0] == "t"


def test_a_latent_of_vectors() -> None:
    class Vectors(Stack):
        def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
            return super().forward(torch.cat([text, x[:, None]], 1), t)[:, -1]

    captured = capture(build(Vectors), tokens()[:, 0], timesteps(9), text_tokens())
    assert roles(captured) == ("t", ["x"], ["text"])


def test_a_second_latent_may_have_channels_of_its_own() -> None:
    class Two(Stack):
        def forward(self, x: Tensor, t: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
            x, sound = x[..., :16], self.embed(audio)
            both = super().forward(torch.cat([x, sound], 1), t)
            return both[:, : x.shape[1]], both[:, x.shape[1] :]

    wide, audio = torch.randn(2, 6, 20), torch.randn(2, 3, 16)
    wide[..., 16:] = 0
    captured = capture(build(Two), wide, timesteps(9), audio)
    assert set(roles(captured)[1]) == {"x", "audio"}


def test_a_modulation_is_no_latent_of_a_fragment() -> None:
    class Fragment(Stack):
        def forward(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
            return self.run_blocks(x + c * y, self.embed(c)[:, 0], x)

    captured = capture(build(Fragment), tokens(), tokens(1), torch.randn(2, 1, 16))
    assert len(captured.found.inputs.latents) == 2
    assert captured.found.inputs.conditioning_names == ("c",)


def test_entries_of_a_list_are_sources() -> None:
    class Lists(Stack):
        def forward(self, x: Tensor, t: Tensor, cap_feats: list[Tensor]) -> Tensor:
            text = super().run_blocks(torch.stack(cap_feats), self.time(t), x)
            return super().forward(torch.cat([x, text], 1), t)[:, : x.shape[1]]

    captured = capture(build(Lists), tokens(), timesteps(9), list(text_tokens()))
    assert len(captured.found.regions.found) == 8
    assert roles(captured)[1] == ["x"]


def test_tables_of_positions_are_no_latents() -> None:
    class Rotated(Stack):
        def forward(self, x: Tensor, t: Tensor, tables: list[Tensor]) -> Tensor:
            def rotate(h: Tensor) -> Tensor:
                return h * tables[0] + h.flip(-1) * tables[1]

            h = self.embed(x)
            q, k, v = self.blocks[0].attn.qkv(h).chunk(3, dim=-1)
            h = h + self.blocks[0].attn.out(attend(rotate(q), rotate(k), v))
            return self.head(self.run_blocks(h, self.time(t), h))[:, 1:]

    tables = [torch.ones(6, 16), torch.zeros(6, 16)]
    captured = capture(build(Rotated), tokens(), timesteps(9), tables)
    assert roles(captured) == ("t", ["x"], ["tables[0]", "tables[1]"])


def test_text_and_masks_are_no_latents() -> None:
    class Fragment(Stack):
        def forward(
            self, image: Tensor, t: Tensor, encoder_states: Tensor, mask: Tensor
        ) -> Tensor:
            text = self.embed(encoder_states) * mask
            x = image.flatten(2).mT
            return super().forward(torch.cat([x, text], 1), t)[:, : text.shape[1]]

    image, mask = torch.randn(2, 16, 2, 3), torch.ones(2, 4, 16)
    captured = capture(build(Fragment), image, timesteps(9), text_tokens(), mask)
    assert roles(captured) == ("t", ["image"], ["encoder_states", "mask"])


def test_without_a_timestep_the_streams_are_the_latents() -> None:
    class Fragment(Stack):
        def forward(self, x: Tensor, other: Tensor, c: Tensor) -> Tensor:
            return self.norm(self.run_blocks(x, c + other.mean(1), x))[:, 1:]

    other = torch.randn(2, 5, 16)
    captured = capture(build(Fragment), tokens(), other, torch.randn(2, 16))
    names = captured.found.inputs
    assert names.timestep is None
    assert [node.name for node in names.latents] == ["arg0_1"] or len(
        names.latents
    ) == 1
    assert set(names.conditioning_names) == {"other", "c"}


def test_regions_before_the_latent_is_read_are_kept() -> None:
    """The decision then watches a value that is no region's input."""

    class TextFirst(Stack):
        def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
            c = self.time(t)
            text = self.run_blocks(text, c, text)
            x = self.norm(self.embed(x)) * (1 + text.mean(1, keepdim=True))
            return self.head(self.run_blocks(x, c, text))

    captured = capture(build(TextFirst), tokens(), timesteps(9), text_tokens())
    regions = captured.found.regions
    assert len(regions.found) == 8
    assert not regions.refused
    assert [len(region.inputs) for region in regions.found] == [2] + [1] * 7
    watched = regions.found[0].inputs[1]
    assert watched.meta["val"].shape == (2, 6, 16)
    walk = Walk(captured, "split")
    for step in range(4):
        call = (tokens(step), timesteps(9 - step), text_tokens())
        walk(*call, full=step < 3)
    assert all(signal.isfinite().all() for signal in walk.signals[1:])


def test_no_timestep() -> None:
    class Timeless(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x.mean((1, 2)))

    captured = capture(build(Timeless), tokens())
    assert captured.found.inputs.timestep is None


def test_no_latent() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return (x + t.sin()[:, None] * self.linear(x)).mean(1)

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
