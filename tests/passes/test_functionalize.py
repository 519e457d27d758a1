"""functionalize: writes become values, numbers and metadata stay."""

from __future__ import annotations

import pytest
import torch
from capture import Capture, capture, copy_graph, each_model, same_bits, zoo_capture
from models import Stack, build, timesteps, tokens
from torch import Tensor, fx, nn

from rfc_compile.errors import CannotCache
from rfc_compile.passes.fx_utils import aten
from rfc_compile.passes.rewrites.functionalize import functionalize
from rfc_compile.torch_internals import functorch_levels, leave_functorch_levels


def writes(captured: Capture) -> list[str]:
    return [
        str(node.target)
        for node in captured.functional.graph.nodes
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False)
    ]


def targets(gm: fx.GraphModule) -> list[str]:
    """The ops of a graph in order; names of nodes do not count."""
    return [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]


@each_model
def test_values_are_those_of_the_model_and_nothing_writes(name: str) -> None:
    captured = zoo_capture(name)
    latent, t, *text = captured.call
    moved = (latent * 0.5 + 0.1, t - 3, *text)
    with torch.no_grad():
        (ours,) = captured.functional(*captured.flat(*moved))
        assert same_bits(ours, captured.model(*moved))
    assert writes(captured) == []


def test_rotary_setitem_becomes_values() -> None:
    captured = zoo_capture("RotatedBlock")
    before = [str(node.target) for node in captured.stages["dynamo"].graph.nodes]
    assert sum("setitem" in target for target in before) == 8
    shapes = [n.target for n in captured.functional.graph.nodes]
    assert aten.slice_scatter.default in shapes or aten.stack.default in shapes


def test_metadata_is_kept() -> None:
    captured = zoo_capture("Block")
    places = captured.functional.graph.find_nodes(op="placeholder")
    assert all("grapharg" in node.meta and "val" in node.meta for node in places)
    assert all("example_value" not in node.meta for node in places)
    calls = [n for n in captured.functional.graph.nodes if n.op == "call_function"]
    assert all("val" in node.meta for node in calls)
    named = [node for node in calls if node.meta.get("nn_module_stack")]
    assert len(named) > 0.8 * len(calls)
    inside = [n for n in calls if "blocks" in str(n.meta.get("nn_module_stack"))]
    assert len(inside) > 0.5 * len(calls)


@pytest.mark.parametrize("name", ["Block", "RotatedBlock", "PostNormBlock"])
def test_a_second_run_changes_nothing(name: str) -> None:
    captured = zoo_capture(name)
    once = copy_graph(captured.functional)
    fakes = [node.meta["val"] for node in once.graph.find_nodes(op="placeholder")]
    again = functionalize(once, fakes, captured.fake_mode)
    assert targets(again) == targets(captured.functional)


class Changed(Stack):
    """Something unusual before the blocks."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(self.change(x, c), c, text)

    def change(self, x: Tensor, c: Tensor) -> Tensor:
        raise NotImplementedError


class Noisy(Changed):
    def change(self, x: Tensor, c: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Dropped(Changed):
    def change(self, x: Tensor, c: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class Idle(Changed):
    def change(self, x: Tensor, c: Tensor) -> Tensor:
        unused = self.head(x).sum()
        assert unused.ndim == 0
        return nn.functional.dropout(x, 0.0, training=True)


class Writing(Stack):
    """Scales its input in place."""

    def forward(self, x: Tensor, t: Tensor, text: Tensor | None = None) -> Tensor:
        return super().forward(x.mul_(2.0), t, text)


@pytest.mark.parametrize("model", [Noisy, Dropped])
def test_random_numbers_are_refused(model: type[nn.Module]) -> None:
    with pytest.raises(CannotCache, match=r"random numbers.*model\.eval"):
        capture(build(model), tokens(), timesteps(9))


def test_writing_to_the_input_is_refused() -> None:
    with pytest.raises(CannotCache, match="writes to its input"):
        capture(build(Writing), tokens(), timesteps(9))


def test_idle_dropout_and_unused_values_are_dropped() -> None:
    plain, idle = (capture(build(m), tokens(), timesteps(9)) for m in (Stack, Idle))
    assert targets(idle.functional) == targets(plain.functional)


def test_a_failing_retrace_is_a_refusal() -> None:
    captured = zoo_capture("Small")
    gm = copy_graph(captured.functional)
    with pytest.raises(CannotCache, match="cannot be retraced"):
        functionalize(gm, [None] * 6, captured.fake_mode)


class Mapped(Changed):
    """A vmap with a write inside: its level is written into Dynamo's graph."""

    def change(self, x: Tensor, c: Tensor) -> Tensor:
        def fill(row: Tensor) -> Tensor:
            out = row.new_zeros(row.shape)
            out[..., ::2] = row[..., 1::2]
            return out

        return x + torch.vmap(fill)(x)


def test_vmap_is_worked_out() -> None:
    captured = capture(build(Mapped), tokens(), timesteps(9))
    assert any(
        "vmap" in str(node.target) for node in captured.stages["dynamo"].graph.nodes
    )
    assert writes(captured) == []
    with torch.no_grad():
        (ours,) = captured.functional(*captured.inputs)
        assert same_bits(ours, captured.model(*captured.call))


def test_a_failing_retrace_leaves_no_transform_running() -> None:
    captured = zoo_capture("Small")
    gm = copy_graph(captured.functional)
    mul = gm.graph.find_nodes(op="call_function", target=aten.mul.Tensor)[0]
    mul.args = (mul.args[0], torch.ones(5))
    fakes = [node.meta["val"] for node in gm.graph.find_nodes(op="placeholder")]
    before = functorch_levels()
    with pytest.raises(CannotCache, match="cannot be retraced"):
        functionalize(gm, fakes, captured.fake_mode)
    assert functorch_levels() == before


def test_levels_that_an_error_left_are_ended() -> None:
    before = functorch_levels()
    torch._C._functorch._grad_increment_nesting()
    assert functorch_levels() == before + 1
    leave_functorch_levels(before)
    assert functorch_levels() == before
