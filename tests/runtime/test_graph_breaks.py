"""Forwards that Dynamo breaks: one decision per call of the model, and the reason."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from options import MODULES
from torch import Tensor, nn

import rfc_compile
from rfc_compile.runtime.latent_dispatcher import CANNOT_LEAD

OPTIONS = {
    "inner": "eager",
    "min_coverage": 0.0,
    "schedule": "interval",
    "interval": 3,
    "warmup": 3,
}


def layers() -> nn.ModuleList:
    """What a residual stream adds up."""
    return nn.ModuleList(
        nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)
    )


class Interrupted(nn.Module):
    """Two halves of a residual stream with a print between them."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = layers()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        gate = timestep.sin()[:, None, None]
        for part in self.parts[:2]:
            x = x + gate * part(x * gate)
        torch._dynamo.graph_break()
        for part in self.parts[2:]:
            x = x + gate * part(x * gate)
        return x


def walk(model: Any, last: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, generator=generator)
    results = []
    for step in range(last):
        with torch.no_grad():
            results.append(model(x, torch.full((2,), 1.0 - 0.1 * step)))
        x = x - 0.05 * results[-1]
    return results


@pytest.mark.parametrize("regions", [MODULES, {}], ids=["modules", "stacks"])
def test_the_second_half_follows_the_first(regions: dict[str, Any]) -> None:
    """Both halves are cached at the same steps, and the break is explained."""
    torch.manual_seed(0)
    model = Interrupted()
    expected = walk(model)
    rfc = torch.compile(model, backend="rfc", options={**OPTIONS, **regions})
    found = walk(rfc)
    assert all(map(torch.equal, found, walk(rfc))), "a second run is like the first"
    explanation, statistics = rfc_compile.explain(rfc), rfc_compile.stats(rfc)
    assert explanation.graphs == 2
    kinds = [region.kind for region in explanation.regions]
    # the second half is not given the timestep, so its regions are not merged
    assert len(kinds) == 4 if regions else kinds == ["stack", "mlp", "mlp"]
    assert len(explanation.graph_breaks) == 1
    assert [d.full for d in statistics.decisions] == [True] * 3 + [False, False] + [
        True
    ] + [False, False]
    for step, (a, b) in enumerate(zip(found, expected, strict=True)):
        if statistics.decisions[step].full and step < 3:
            assert torch.equal(a, b)
        if regions:  # whole stacks are off by up to 0.1
            torch.testing.assert_close(a, b, rtol=0, atol=0.05)


class SizesInATensor(Interrupted):
    """Reads the number of tokens from a tensor, as some models' own code does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.tensor([4]))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        gate = timestep.sin()[:, None, None]
        for part in self.parts[:2]:
            x = x + gate * part(x * gate)
        (tokens,) = self.sizes.tolist()
        for part in self.parts[2:]:
            x = x + gate * part(x[:, :tokens] * gate)
        return x


def test_a_number_read_from_a_tensor_has_its_remedy() -> None:
    model = torch.compile(SizesInATensor(), backend="rfc", options=OPTIONS)
    walk(model, last=2)
    (reason, *_) = rfc_compile.explain(model).graph_breaks
    assert reason.endswith("pass it as a Python number, and the forward stays whole")


SHAPES = (2, 4, 8), (2, 4)


class Unrelated(Interrupted):
    """A block whose input is another one at every call."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = x * scale.sin()[..., None]
        for part in self.parts:
            x = x + part(x)
        return x


def test_a_block_that_no_call_goes_on_in_is_told() -> None:
    """Nobody has said where a run begins, and the blocks cannot tell."""
    model = Unrelated()
    model.compile(backend="rfc", options={**OPTIONS, **MODULES})

    def draw(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x, scale = (torch.randn(shape, generator=generator) for shape in SHAPES)
        with torch.no_grad():
            model(x, scale)

    draw(0)
    with pytest.warns(rfc_compile.UncachedWarning, match="4 runs in a row of a block"):
        [draw(seed) for seed in range(1, 8)]


class Part(nn.Module):
    """Layers on a stream that the timestep gates."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = layers()

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        for part in self.parts:
            x = x + gate * part(x * gate)
        return x


class WithContext(nn.Module):
    """The text's own layers, a graph break, and the stream of the latent."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.stream = Part(), Part()

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        context = self.text(text, torch.ones(()))
        torch._dynamo.graph_break()
        gate = timestep.sin()[:, None, None] + context.mean()
        return self.stream(x, gate)


def walk_with_text(model: Any, texts: list[Tensor], steps: int = 16) -> list[Tensor]:
    """The last latent of an image for each text; all is done in place."""
    images = []
    for text in texts:
        x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
        t = torch.ones(2)
        for step in range(steps):
            with torch.no_grad():
                x.sub_(model(x, t.fill_(1.0 - step / steps), text) / steps)
        images.append(x)
    return images


def test_a_part_that_is_given_nothing_new_leads_nobody() -> None:
    """What leads is the graph that is given the latent and the timestep."""
    torch.manual_seed(0)
    model, texts = WithContext(), [torch.randn(2, 3, 8) for _ in range(2)]
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(model, backend="rfc", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        found = walk_with_text(rfc, texts)
    decisions = rfc_compile.stats(rfc).decisions
    assert len(decisions) == 16
    assert sum(not d.full for d in decisions) >= 8
    for image, plain in zip(found, walk_with_text(model, texts), strict=True):
        assert (image - plain).norm() / plain.norm() < 0.05
    again = walk_with_text(rfc, texts)
    assert all(map(torch.equal, found, again))


class WithStem(nn.Module):
    """Layers before the timestep is used, a graph break, and the gated stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stream = Part(), Part()

    def embed(self, x: Tensor, text: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return self.stem(x + text.mean(1, keepdim=True), torch.ones(()))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        gate = timestep.sin()[:, None, None]
        return self.stream(self.embed(x, text), gate)


class GuidedInside(WithStem):
    """The stem runs once for each guidance branch, the stream for both."""

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        gate = timestep.sin()[:, None, None].repeat(2, 1, 1)
        both = torch.cat([self.embed(x, text), self.embed(x, 0 * text)])
        with_text, without = self.stream(both, gate).chunk(2)
        return without + 2 * (with_text - without)


@pytest.mark.parametrize("kind", [WithStem, GuidedInside])
def test_a_part_that_cannot_tell_its_steps_leaves_the_lead(
    kind: type[WithStem],
) -> None:
    """Nothing that it is given but the latent changes from step to step."""
    torch.manual_seed(0)
    model, texts = kind(), [torch.randn(2, 3, 8) for _ in range(2)]
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(model, backend="rfc", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        found = walk_with_text(rfc, texts, steps=24)
    decisions = rfc_compile.stats(rfc).decisions
    assert len(decisions) == 24
    assert sum(not d.full for d in decisions) >= 12
    assert CANNOT_LEAD in rfc_compile.explain(rfc).notes
    for image, plain in zip(found, walk_with_text(model, texts, 24), strict=True):
        assert (image - plain).norm() / plain.norm() < 0.05


@pytest.mark.parametrize("before", ["random calls", "broken off"])
def test_a_part_that_can_tell_its_steps_keeps_the_lead(before: str) -> None:
    """Whatever was called before: it is given the gate, which is new at every step."""
    torch.manual_seed(0)
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(Late(), backend="rfc", options=options)
    with torch.no_grad():
        for call in range(10):
            x = (
                torch.randn(2, 4, 8)
                if before == "random calls"
                else torch.ones(2, 4, 8)
            )
            rfc(x, torch.rand(2) if before == "random calls" else torch.full((2,), 0.9))
            if before == "broken off":
                rfc(x - 0.01 * call, torch.full((2,), 0.8))
    walk(rfc, last=24)
    decisions = rfc_compile.stats(rfc).decisions
    assert sum(not d.full for d in decisions) >= 12
    assert CANNOT_LEAD not in rfc_compile.explain(rfc).notes


class Projection(nn.Linear):
    """A layer in a graph of its own."""

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


class WithProjections(Part):
    """A small graph is called several times in a row, before the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ModuleList(Projection(8, 8) for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        features = [projection(text) for projection in self.projections]
        x = x + torch.stack(features).mean((0, 2))[:, None]
        return super().forward(x, timestep.sin()[:, None, None])


def test_a_graph_called_several_times_in_a_row_is_no_sign_of_no_regions() -> None:
    torch.manual_seed(0)
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(WithProjections(), backend="rfc", options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        walk_with_text(rfc, [torch.randn(2, 3, 8)], steps=24)
    assert not rfc_compile.explain(rfc).uncached_reasons
    assert sum(not d.full for d in rfc_compile.stats(rfc).decisions) >= 12


class Late(nn.Module):
    """The graph with the layers is not given the timestep, but what is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Part()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        gate = timestep.sin()[:, None, None]
        torch._dynamo.graph_break()
        return self.stream(x, gate)


@pytest.mark.parametrize(("noise", "least"), [(0.0, 16), (0.5, 0)])
def test_fresh_noise_in_a_part_without_the_timestep(noise: float, least: int) -> None:
    """What cannot be predicted is computed, though the run is named."""
    torch.manual_seed(0)
    model, steps = Late(), 30
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc = torch.compile(model, backend="rfc", options=options)

    def drawn(denoise: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 4, 8, generator=generator)
        for step in range(steps):
            fresh = torch.randn(x.shape, generator=generator)
            x = (1 - noise) ** 0.5 * x + noise**0.5 * fresh
            with torch.no_grad():
                x = x - denoise(x, torch.full((2,), 1 - step / steps)) / steps
        return x

    with rfc_compile.trajectory("noisy", num_steps=steps):
        found = drawn(rfc)
    expected = drawn(model)
    cached = sum(not d.full for d in rfc_compile.stats(rfc).decisions)
    assert least <= cached <= 2 * least
    assert (found - expected).norm() < 0.01 * expected.norm()


class Branching(Part):
    """A test of the timestep's value, which Dynamo cannot trace through."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        scale = 2.0 if timestep[0] > 0.5 else 1.0
        return scale * super().forward(x, timestep.sin()[:, None, None])


def test_a_branch_on_a_tensor_is_named() -> None:
    """The graphs before it hold nothing of the model, but the cut is told."""
    rfc = torch.compile(Branching(), backend="rfc", options=OPTIONS)
    walk(rfc)
    (reason,) = set(rfc_compile.explain(rfc).graph_breaks)
    assert "a branch on a tensor's value (test_graph_breaks.py:" in reason
    assert "pass what is tested as a Python number" in reason
