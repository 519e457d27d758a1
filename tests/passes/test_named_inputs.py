"""Timesteps under any name, remedies that apply, and messages in the user's names."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from capture import capture
from models import WIDTH, Stack, build, timesteps, tokens
from torch import Tensor, nn

import rfc_compile
from rfc_compile import Options
from rfc_compile.errors import CannotCache, OptionError, UncachedWarning
from rfc_compile.graph_report import percent_below
from rfc_compile.tools.inspection.dry_run import dry_run


class Table(Stack):
    """The timestep is looked up in a table of sines."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(50.0)[:, None] * torch.arange(1, WIDTH // 2 + 1)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], 1))

    def look_up(self, index: Tensor) -> Tensor:
        return self.time.up(self.table[index])


class Stepped(Table):
    def forward(self, x: Tensor, diffusion_step: Tensor) -> Tensor:  # type: ignore[override]
        return self.run_blocks(self.embed(x), self.look_up(diffusion_step), x)


class Anything(Table):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return self.run_blocks(self.embed(x), self.look_up(k), x)


class Labelled(Table):
    """A label, and a timestep that looks the same in the graph."""

    def forward(self, x: Tensor, y: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return self.run_blocks(self.embed(x), self.look_up(y) + self.look_up(k), x)


class Unknown(Stack):
    """A gate of numbers that is neither embedded nor looked up."""

    def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        c = self.time.up(k[:, None].expand(-1, WIDTH))
        return self.run_blocks(self.embed(x), c, x)


class Shaped(Table):
    """Numbers of a shape that goes with the latent's."""

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * (1 - noise_labels / 10), noise_labels.flatten())


class ShapedGate(Unknown):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, sigma.flatten())


class ShapedAnything(Table):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, k.flatten())


class ShapedIndex(Table):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return self.run_blocks(self.embed(x), self.look_up(k.flatten()), x)


class Sized(Stack):
    """Two further numbers are embedded like the timestep."""

    def forward(self, x: Tensor, size: Tensor, ratio: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, k + 0.1 * (size + ratio).flatten())


class ShapedUnknown(Unknown):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, k.flatten())


INDEX = torch.tensor([9, 9])
SHAPED = timesteps(9)[:, None, None]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("model", "call", "name"),
    [
        (Shaped, (SHAPED,), "noise_labels"),
        (ShapedGate, (SHAPED,), "sigma"),
        (ShapedAnything, (SHAPED,), "k"),
        (ShapedIndex, (INDEX[:, None],), "k"),
        (Sized, (SHAPED, SHAPED + 1, timesteps(9)), "k"),
    ],
)
def test_a_timestep_has_any_shape_of_one_number_for_each_sample(
    model: type[Stack], call: tuple[Tensor, ...], name: str, dynamic: bool
) -> None:
    found = capture(build(model), tokens(), *call, dynamic=dynamic).found.inputs
    assert found.timestep_index is not None
    assert found.names[found.timestep_index] == name
    assert not {"noise_labels", "sigma"} & set(found.conditioning_names)


@pytest.mark.parametrize(
    ("model", "call", "name"),
    [
        (Stepped, (INDEX,), "diffusion_step"),
        (Anything, (INDEX,), "k"),
        (Labelled, (INDEX, INDEX + 1), "k"),
    ],
)
def test_a_timestep_that_is_looked_up_has_any_name(
    model: type[Stack], call: tuple[Tensor, ...], name: str
) -> None:
    inputs = capture(build(model), tokens(), *call).found.inputs
    assert inputs.timestep_index is not None
    assert inputs.names[inputs.timestep_index] == name
    assert inputs.maybe_timestep == ()


def explained(model: nn.Module, *call: Tensor, **options: Any) -> Any:
    settings = Options.from_mapping({"min_coverage": 0.0, **options})
    return dry_run(model, call, settings).explanation


def test_where_none_is_found_a_note_names_the_inputs() -> None:
    found = explained(build(Unknown), tokens(), timesteps(9))
    (note,) = found.notes
    assert note.endswith("options={'timestep': ...} if it is one of these: k")
    assert not explained(build(Unknown), tokens(), timesteps(9), timestep="k").notes
    assert explained(build(ShapedUnknown), tokens(), SHAPED).notes == (note,)


def test_per_sample_tells_a_remedy_that_applies() -> None:
    (reason,) = explained(
        build(Unknown), tokens(), timesteps(9), per_sample=True
    ).uncached_reasons
    assert reason.endswith("options={'timestep': ...} if it is one of these: k")


class Writes(Stack):
    def forward(self, x: Tensor, t: Tensor, memory: Tensor) -> Tensor:  # type: ignore[override]
        memory.copy_(x)
        return super().forward(x, t)


def test_an_input_is_named_as_the_user_names_it() -> None:
    with pytest.raises(CannotCache, match=r"writes to its input memory$"):
        capture(build(Writes), tokens(), timesteps(9), tokens(1))


class Held(Stack):
    """Holds its inputs in something; two of them look like a timestep."""

    def join(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return super().forward(x, a + 0.1 * b)


class Starred(Held):
    def forward(self, *args: Tensor) -> Tensor:  # type: ignore[override]
        return self.join(*args)


class Named(Held):
    def forward(self, x: Tensor, **rest: Tensor) -> Tensor:  # type: ignore[override]
        return self.join(x, rest["a"], rest["b"])


class Attributes(Held):
    def forward(self, x: Tensor, call: Any) -> Tensor:  # type: ignore[override]
        return self.join(x, call.a, call.b)


class Dictionaries(Held):
    def forward(self, one: Any, other: Any) -> Tensor:  # type: ignore[override]
        return self.join(one["x"], one["level"], other["level"])


class OwnDictionary(dict[str, Tensor]):
    """Of another type than Python's, as transformers and diffusers have them."""


A, B = timesteps(9), timesteps(1)
HELD: list[Any] = [
    (Starred, (tokens(), A, B), {}, "args[1]", "args"),
    (Named, (tokens(),), {"a": A, "b": B}, "a", None),
    (Attributes, (tokens(), SimpleNamespace(a=A, b=B)), {}, "call.a", None),
    (
        Dictionaries,
        ({"x": tokens(), "level": A}, {"level": B}),
        {},
        "one['level']",
        "level",
    ),
    (
        Dictionaries,
        (OwnDictionary(x=tokens(), level=A), OwnDictionary(level=B)),
        {},
        "one[1]",
        "one",
    ),
]


def compiled(model: type[nn.Module], **options: Any) -> Any:
    settings = {"inner": "eager", "min_coverage": 0.0, **options}
    return torch.compile(build(model), backend="rfc", options=settings)


@pytest.mark.parametrize(("model", "call", "named", "name", "short"), HELD)
def test_every_input_has_a_name_of_its_own(
    model: type[nn.Module], call: Any, named: Any, name: str, short: str | None
) -> None:
    with torch.no_grad(), pytest.warns(UncachedWarning) as warned:
        compiled(model)(*call, **named)
    (text,) = [str(warning.message) for warning in warned]
    listed = text.partition("timestep (")[2].partition("):")[0].split(", ")
    assert name in listed
    assert len(set(listed)) == 2
    rfc = compiled(model, timestep=name)
    with torch.no_grad():
        rfc(*call, **named)
    assert rfc_compile.explain(rfc).timestep == (name,)
    if short is not None:
        message = rf"timestep='{short}' fits several inputs.*{re.escape(name)}"
        with torch.no_grad(), pytest.raises(OptionError, match=message):
            compiled(model, timestep=short)(*call, **named)


def test_a_name_that_fits_one_element_is_that() -> None:
    class Lists(Stack):
        def forward(self, x: Tensor, times: list[Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(x, times[0])

    rfc = compiled(Lists, timestep="times")
    with torch.no_grad():
        rfc(tokens(), [A])
    assert rfc_compile.explain(rfc).timestep == ("times[0]",)


@pytest.mark.parametrize(
    ("share", "text"), [(0.2999, "29.9"), (0.3, "30"), (0.0, "0"), (0.123, "12.3")]
)
def test_less_than_a_limit_reads_as_less(share: float, text: str) -> None:
    assert percent_below(share) == text


class Tapped(Stack):
    """A value inside a block is returned beside the result."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Any:
        c = self.time(t)
        x = self.embed(x)
        x = self.blocks[0](x, c, x)
        return self.head(self.blocks[1](x, c, x)), x


def test_notes_name_modules_and_no_nodes() -> None:
    (note,) = explained(build(Tapped), tokens(), timesteps(9)).notes
    assert note.endswith("is read as a result of the forward")
    assert "getitem" not in note


def test_graph_of_blocks_alone_has_no_note() -> None:
    block = build(Stack).blocks[0]
    found = explained(block, tokens(), torch.randn(2, WIDTH), tokens())
    assert found.regions
    assert not found.notes
    assert not rfc_compile.explain(block).notes
