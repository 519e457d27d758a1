"""retrace: op by op it gives the graph that a trace of the whole gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from capture import Capture, capture, each_model, same_bits, zoo_capture
from models import Stack, build, timesteps, tokens
from torch import Tensor, fx, nn

import rfc_compile
from rfc_compile.passes.fx_utils import remove_dead_code
from rfc_compile.passes.rewrites.retrace import _MANY, trace_by_op, trace_whole

EVERY_STEP = {"schedule": "interval", "interval": 1, "inner": "eager"}
WHOLE = {"RotatedBlock", "PermutedBlock", "FromLinear", "OpaqueBlock"}
"""Models of the zoo with writes to slices, tensors of a constant, ops of their own."""


def both(captured: Capture) -> tuple[fx.GraphModule | None, fx.GraphModule]:
    """The Dynamo graph of a model, traced op by op and as a whole."""
    dynamo = captured.stages["dynamo"]
    fakes = [
        node.meta["val"]
        for node in captured.functional.graph.find_nodes(op="placeholder")
    ]
    with captured.fake_mode, torch.no_grad(), fx.traceback.preserve_node_meta():
        traced = (trace_by_op(dynamo, fakes), trace_whole(dynamo, fakes))
    for gm in traced:
        if gm is not None:
            remove_dead_code(gm)
            gm.graph.lint()
    return traced


def lines(gm: fx.GraphModule) -> list[tuple[Any, ...]]:
    """Nodes as the passes see them: names, ops, operands, values, modules."""
    return [
        (
            node.name,
            node.op if node.op == "placeholder" else str(node.target),
            str(node.args),
            str(node.kwargs),
            str(node.meta.get("nn_module_stack")),
            str(kinds(node.meta.get("val"))),
        )
        for node in gm.graph.nodes
    ]


def kinds(value: Any) -> Any:
    if isinstance(value, Tensor):
        layout = value.shape, value.stride(), value.storage_offset()
        return layout, value.dtype, value.device
    return [kinds(item) for item in value] if isinstance(value, tuple | list) else value


@each_model
def test_op_by_op_gives_the_graph_of_the_whole(name: str) -> None:
    by_op, whole = both(zoo_capture(name))
    if name in WHOLE:
        assert by_op is None
    else:
        assert by_op is not None
        assert lines(by_op) == lines(whole)


class Changed(Stack):
    """Something unusual before the blocks."""

    def run_blocks(self, x: Tensor, c: Tensor, text: Tensor) -> Tensor:
        return super().run_blocks(self.change(x), c, text)

    def change(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Constants(Changed):
    """The same ops with constants that are equal to Python, but not to torch."""

    def change(self, x: Tensor) -> Tensor:
        ones = torch.full_like(x, 1) * torch.full_like(x, 1.0)
        ones = ones * torch.full_like(x, True)
        zeros = x.clamp(min=0.0) / -0.0 - x.clamp(min=0.0) / 0.0
        return x * ones + zeros.nan_to_num(0.0, 1.0, -1.0)


class Operands(Changed):
    """The same op of operands of one kind, in another order, or of one twice."""

    def change(self, x: Tensor) -> Tensor:
        a, b, c = x.sin(), x.cos(), x.exp()
        attention = nn.functional.scaled_dot_product_attention
        return a - b + (b - a) * (c - c) + attention(a, b, c) - attention(c, c, a)


class Layouts(Changed):
    """The same op of operands of other strides, dtypes and sizes."""

    def change(self, x: Tensor) -> Tensor:
        turned = x.transpose(0, 1)
        first, second = x.chunk(2, -1)
        double = (x.double() + 1).float() + x.bfloat16().add(1).float()
        whole = torch.cat([first + 1, second + 1], -1).contiguous()
        return (turned + 1).transpose(0, 1) + whole + double + x[:, :1] + (x[0] + 1)


class Sequences(Changed):
    """Ops that return several tensors, one of them, or an operand."""

    def change(self, x: Tensor) -> Tensor:
        largest = x.max(-1, keepdim=True)
        parts = torch.stack(x.unbind(1)[::-1], 1)
        return x.contiguous().float() + parts + largest[0] + x.sort(-1)[0]


class Made(Changed):
    """Ops of no tensor, and constants of the graph."""

    def change(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device) + torch.ones(x.shape[1])
        return x + places[:, None].to(x.dtype) * torch.zeros(1) + torch.arange(1)


@pytest.mark.parametrize("model", [Constants, Operands, Layouts, Sequences, Made])
def test_equal_are_only_ops_of_equal_constants_and_kinds(model: type[Stack]) -> None:
    captured = capture(build(model), tokens(), timesteps(9))
    by_op, whole = both(captured)
    assert by_op is not None
    assert lines(by_op) == lines(whole)
    with torch.no_grad():
        (ours,) = by_op(*captured.inputs)
        assert same_bits(ours, captured.model(*captured.call))


class Written(Changed):
    def change(self, x: Tensor) -> Tensor:
        sines = x.sin()
        sines[:, 0] = 0.0
        return sines


class InPlace(Changed):
    def change(self, x: Tensor) -> Tensor:
        return x.sin().mul_(2.0)


class ViewWritten(Changed):
    def change(self, x: Tensor) -> Tensor:
        sines = x.sin()
        sines.transpose(0, 1).add_(1.0)
        return sines


class Cast(Changed):
    def change(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (x @ x.transpose(1, 2) @ x).float()


class Switched(Changed):
    def change(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return x.sin()


@pytest.mark.parametrize("model", [Written, InPlace, ViewWritten, Cast, Switched])
def test_effects_are_traced_as_a_whole(model: type[Stack]) -> None:
    captured = capture(build(model), tokens(), timesteps(9))
    by_op, _ = both(captured)
    assert by_op is None
    with torch.no_grad():
        (ours,) = captured.functional(*captured.inputs)
        assert same_bits(ours, captured.model(*captured.call))


def test_symbolic_sizes_are_traced_as_a_whole() -> None:
    captured = capture(build(Stack), tokens(), timesteps(9), dynamic=True)
    by_op, _ = both(captured)
    assert by_op is None


class Deep(Stack):
    depth = 24


@pytest.mark.slow
def test_a_deep_model_is_traced_op_by_op() -> None:
    captured = capture(build(Deep), tokens(), timesteps(9))
    assert len(captured.stages["dynamo"].graph.nodes) > _MANY
    by_op, whole = both(captured)
    assert by_op is not None
    assert lines(by_op) == lines(whole)
    values = [node.meta.get("val") for node in captured.functional.graph.nodes]
    assert len(set(map(id, values))) < len(values) / 2, "nothing was copied"


@pytest.mark.slow
def test_a_deep_model_gives_the_bits_of_the_inner_backend() -> None:
    model = build(Deep)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="rfc", options=EVERY_STEP)
    with torch.no_grad():
        for step in (9, 8, 7):
            call = tokens(), timesteps(step)
            assert same_bits(compiled(*call), model(*call))
    assert rfc_compile.explain(model).regions


class Scaled(nn.Module):
    """Many layers with a number that the caller passes (the scale of a LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            for _ in range(_MANY // 5)
        )

    def forward(self, x: Tensor, timestep: Tensor, scale: float) -> Tensor:
        gate = timestep.sin()[:, None, None]
        for block in self.blocks:
            x = x + gate * block(x) * scale
        return x


def test_a_number_that_changes_in_a_large_graph() -> None:
    """Dynamo makes it an input that the graph reads: that op cannot be traced alone."""
    model = Scaled()
    options = {"inner": "eager", "min_coverage": 0.0}
    rfc: Any = torch.compile(model, backend="rfc", options=options)
    x, timestep = torch.randn(1, 4, 8), torch.ones(1)
    with torch.no_grad():
        for scale in (0.01, 0.02, 0.03):
            torch.testing.assert_close(
                rfc(x, timestep, scale), model(x, timestep, scale)
            )
    assert not rfc_compile.stats(rfc).uncached_reasons
    assert rfc_compile.explain(rfc).regions
