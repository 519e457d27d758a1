"""merge_regions: one region per block, for the run of blocks, or for the model."""

# ruff: noqa: E501 (golden graphs)

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from capture import (
    FORMS,
    Capture,
    Walk,
    capture,
    each_model,
    readable,
    same_bits,
    walk_inputs,
    zoo_capture,
)
from expecttest import assert_expected_inline
from joined_stacks import Halved, Hints, Joined, Returned, Skips, check_full_steps
from models import Stack, build, timesteps, tokens
from torch import Tensor, fx

from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.analysis.granularity import merge_regions
from rfc_compile.passes.analysis.records import Regions
from rfc_compile.passes.analysis.watched_value import watched_value
from rfc_compile.passes.fx_utils import Ancestry

GRANULARITIES = ("block", "stack", "model")
BLOCKS = {  # inputs and outputs of every region, where they are not 1 and 1 each
    "TwoWayBlock": [(2, 2), (1, 1)],  # nobody reads the last block's text
    "Joint": [(2, 2), (1, 1)],
    "TextFirst": [(2, 2), (1, 1)],
    "Refined": [(1, 1), (2, 2), (1, 1)],
    "BareText": [(1, 2), (1, 1)],
    "Chained": [(1, 2), (1, 1)],
    "Packed": [(2, 2), (2, 2)],
    "Crossed": [(1, 2)],
    "FromLinear": [(1, 1)] * 3,
    "Decoupled": [(1, 1)] * 4,
    "Guided": [(1, 1)] * 4,
    "GatedSkips": [(1, 1)] * 5,
}
STACKS = {
    "Packed": [(2, 2)],
    "Crossed": [(1, 2)],
    "FromLinear": [(1, 1)] * 2,  # its first branch is on a stream of another shape
    "Guided": [(2, 2)],  # the same blocks twice
}
PARTS = {("Crossed", "block"): 1, ("Crossed", "stack"): 1, ("GatedSkips", "block"): 4}
"""Regions that are parts of a block: parts of a sample are rows of the layers."""


def in_functional_graph(captured: Capture) -> tuple[Regions, fx.Node, Ancestry]:
    """Regions and what is watched, before the later passes changed their graph."""
    nodes = {node.name: node for node in captured.functional.graph.nodes}

    def renewed(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return nodes[value.name]
        if isinstance(value, tuple):
            return tuple(map(renewed, value))
        if not dataclasses.is_dataclass(value) or isinstance(value, type):
            return value
        names = [item.name for item in dataclasses.fields(value)]
        return type(value)(**{name: renewed(getattr(value, name)) for name in names})

    ancestry = Ancestry(captured.functional.graph)
    regions = renewed(captured.found.regions)
    return (
        regions,
        watched_value(regions, renewed(captured.found.inputs), ancestry),
        ancestry,
    )


def kinds_of(captured: Capture) -> list[str]:
    return [region.kind for region in captured.found.regions.found]


def check_regions(name: str) -> None:
    for granularity, wanted, usual in (
        ("block", BLOCKS, [(1, 1)] * 2),
        ("stack", STACKS, [(1, 1)]),
        ("model", {"Packed": STACKS["Packed"]}, [(1, 1)]),  # its results are no batch
    ):
        found = zoo_capture(name, granularity=granularity).found.regions.found
        sizes = [(len(region.inputs), len(region.outputs)) for region in found]
        assert sizes == wanted.get(name, usual), granularity
        merged = [region for region in found if region.kind in GRANULARITIES]
        assert len(merged) == len(found) - PARTS.get((name, granularity), 0)
        for region in merged:
            joined = name in ("GatedSkips", "Decoupled") and region.kind == "stack"
            kept_whole = region.kind == "model" or joined
            assert len(region.bases) == (0 if kept_whole else len(region.outputs))
            assert {n.name for n in region.nodes}.isdisjoint(
                n.name for n in (*region.inputs, *region.bases)
            )


def check_steps(name: str, granularity: str) -> None:
    """Full steps are the model's, and all forms agree."""
    captured = zoo_capture(name, granularity=granularity)
    walks = [Walk(captured, form) for form in FORMS]
    for step, full in enumerate([True, True, True, False, False, True]):
        call = walk_inputs(name, step)
        outputs = [walk(*call, full=full) for walk in walks]
        with torch.no_grad():
            expected = captured.model(*call)
        assert not full or same_bits(outputs[0][0], expected)
        assert outputs[0][0].isfinite().all()
        assert all(same_bits(ours, outputs[0]) for ours in outputs)


@each_model
def test_every_model(name: str) -> None:
    check_regions(name)
    for granularity in GRANULARITIES:
        check_steps(name, granularity)


@pytest.mark.parametrize("name", ["Block", "Joint", "CrossBlock", "ParallelBlock"])
def test_a_merged_region_holds_all_that_its_blocks_alone_need(name: str) -> None:
    """At a cached step not even the modulation of the blocks is computed."""
    captured = zoo_capture(name, granularity="stack")
    (region,) = captured.found.regions.found
    modulations = [n for n in region.nodes if is_expensive(n)]
    assert captured.whole is not None
    left = {
        str(node.args[0] if node.op == "placeholder" else node.target)
        for node in captured.whole.cached.gm.graph.nodes
        if is_expensive(node)
    }
    modules = zoo_capture(name).found.regions.found
    assert len(modulations) > sum(sum(map(is_expensive, r.nodes)) for r in modules)
    assert not any("attention" in target for target in left)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["Block", "Joint", "Packed", "Crossed", "FromLinear"])
def test_a_second_run_changes_nothing(name: str, granularity: str) -> None:
    regions, watched, ancestry = in_functional_graph(zoo_capture(name))
    once = merge_regions(regions, granularity, watched, ancestry)
    twice = merge_regions(once, granularity, watched, ancestry)
    assert twice.found == once.found
    assert merge_regions(once, "module", watched, ancestry) is once


@pytest.mark.parametrize(
    ("model", "blocks", "stacks", "reason"),
    [
        (
            Returned,
            4,
            2,
            "blocks.1.mlp: the stream after it is read as a result of the forward",
        ),
        (Skips, 3, 1, None),
        (Hints, 2, 1, None),
        (Joined, 2, 1, None),
        (Halved, 2, 2, "no stream before it has the shape"),
    ],
)
def test_where_a_merge_ends(
    model: type[Stack], blocks: int, stacks: int, reason: str | None
) -> None:
    for granularity, wanted in (("block", blocks), ("stack", stacks)):
        call = (tokens(), timesteps(9), tokens(5))
        captured = capture(build(model), *call, granularity=granularity)
        regions = captured.found.regions
        assert len(regions.found) == wanted
        assert all(region.bases for region in regions.found)
        expected = reason if granularity == "stack" else None
        assert bool(regions.merge_refusals) == bool(expected)
        assert not expected or any(expected in text for text in regions.merge_refusals)
        check_full_steps(captured)


class Leaking(Stack):
    """A value inside the first MLP is returned, so its block cannot be one region."""

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, c = self.embed(x), self.time(t)
        shift, scale, gate, *_ = self.blocks[0].modulate(c)
        x = x + gate * self.blocks[0].attn(self.norm(x) * (1 + scale) + shift)
        x = x + self.blocks[0].mlp(kept := self.norm(x))
        return self.head(self.blocks[1](x, c, x)), kept


def test_a_block_that_is_read_inside_stays_in_parts() -> None:
    captured = capture(build(Leaking), tokens(), timesteps(9), granularity="block")
    regions = captured.found.regions
    assert kinds_of(captured) == ["attention", "mlp", "block"]
    assert [text.split(":")[0] for text in regions.merge_refusals] == ["blocks.0.attn"]


def test_golden() -> None:
    captured = zoo_capture("Small", granularity="stack", estimator="reuse")
    assert_expected_inline(
        readable(captured.stages["conditional"]),
        """\
class GraphModule(torch.nn.Module):
    def forward(self, arg0_1: "f32[2]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[4, 4]", arg3_1: "f32[4, 4]", arg4_1: "f32[4, 4]", arg5_1: "f32[4, 4]", latent_arg1_1_0: "f32[2, 6, 4]", input_mul_0: "f32[2, 6, 4]", input_mul_1: "f32[2, 6, 4]", region_000_stack_output_0_0: "f32[2, 6, 4]", weights: "f32[2, 1]", limit: "f32[]"):
        sin: "f32[2]" = torch.ops.aten.sin.default(arg0_1)
        unsqueeze: "f32[2, 1]" = torch.ops.aten.unsqueeze.default(sin, 1)
        unsqueeze_1: "f32[2, 1, 1]" = torch.ops.aten.unsqueeze.default(unsqueeze, 2)
        mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(arg1_1, unsqueeze_1)
        signal_1 = self.signal_0(mul, input_mul_0, input_mul_1, arg1_1, latent_arg1_1_0, weights)
        getitem_1: "f32[3]" = signal_1[0]
        decide = rfc_compile_passes_rewrites_conditional_decide(getitem_1, 0, limit)
        region_000_stack_1 = self.region_000_stack
        observe_1 = self.observe_1
        estimate_2 = self.estimate_2
        conditional = rfc_compile_passes_rewrites_conditional_conditional(decide, region_000_stack_1, observe_1, estimate_2, (arg2_1, mul, arg3_1, unsqueeze_1, arg1_1, arg4_1, arg5_1), (mul, arg1_1), (input_mul_0, input_mul_1, region_000_stack_output_0_0), (1, 2), weights)
        getitem: "f32[2, 6, 4]" = conditional[0]
        return (getitem,)
    class signal_0(torch.nn.Module):
        def forward(self, arg0_1: "f32[2, 6, 4]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[2, 6, 4]", arg3_1: "f32[2, 6, 4]", arg4_1: "f32[2, 6, 4]", arg5_1: "f32[2, 1]"):
            sub: "f32[2, 6, 4]" = torch.ops.aten.sub.Tensor(arg1_1, arg2_1)
            select: "f32[1]" = torch.ops.aten.select.int(arg5_1, 0, 0)
            select_1: "f32[]" = torch.ops.aten.select.int(select, 0, 0)
            mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(select_1, sub)
            add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(arg1_1, mul)
            sub_1: "f32[2, 6, 4]" = torch.ops.aten.sub.Tensor(arg0_1, add)
            abs_1: "f32[2, 6, 4]" = torch.ops.aten.abs.default(sub_1)
            view: "f32[2, 24]" = torch.ops.aten.view.default(abs_1, [2, 24])
            sum_1: "f32[2]" = torch.ops.aten.sum.dim_IntList(view, [1])
            abs_2: "f32[2, 6, 4]" = torch.ops.aten.abs.default(arg0_1)
            view_1: "f32[2, 24]" = torch.ops.aten.view.default(abs_2, [2, 24])
            sum_2: "f32[2]" = torch.ops.aten.sum.dim_IntList(view_1, [1])
            eq: "b8[2]" = torch.ops.aten.eq.Scalar(sum_2, 0)
            where: "f32[2]" = torch.ops.aten.where.self(eq, sum_1, sum_2)
            eq_1: "b8[2]" = torch.ops.aten.eq.Scalar(where, 0)
            scalar_tensor: "f32[]" = torch.ops.aten.scalar_tensor.default(1, dtype = torch.float32, layout = torch.strided, device = device(type='cpu'))
            where_1: "f32[2]" = torch.ops.aten.where.self(eq_1, scalar_tensor, where)
            div: "f32[2]" = torch.ops.aten.div.Tensor(sum_1, where_1)
            sub_2: "f32[2, 6, 4]" = torch.ops.aten.sub.Tensor(arg3_1, arg4_1)
            abs_3: "f32[2, 6, 4]" = torch.ops.aten.abs.default(sub_2)
            view_2: "f32[2, 24]" = torch.ops.aten.view.default(abs_3, [2, 24])
            sum_3: "f32[2]" = torch.ops.aten.sum.dim_IntList(view_2, [1])
            abs_4: "f32[2, 6, 4]" = torch.ops.aten.abs.default(arg3_1)
            view_3: "f32[2, 24]" = torch.ops.aten.view.default(abs_4, [2, 24])
            sum_4: "f32[2]" = torch.ops.aten.sum.dim_IntList(view_3, [1])
            div_1: "f32[2]" = torch.ops.aten.div.Tensor(sum_3, sum_4)
            amax: "f32[]" = torch.ops.aten.amax.default(div_1)
            stack: "f32[1]" = torch.ops.aten.stack.default([amax])
            amax_1: "f32[]" = torch.ops.aten.amax.default(stack)
            view_4: "f32[1]" = torch.ops.aten.view.default(amax_1, [1])
            cat: "f32[3]" = torch.ops.aten.cat.default([div, view_4])
            return (cat,)
    class region_000_stack(torch.nn.Module):
        def forward(self, arg2_1: "f32[4, 4]", mul: "f32[2, 6, 4]", arg3_1: "f32[4, 4]", unsqueeze_1: "f32[2, 1, 1]", arg1_1: "f32[2, 6, 4]", arg4_1: "f32[4, 4]", arg5_1: "f32[4, 4]"):
            t: "f32[4, 4]" = torch.ops.aten.t.default(arg2_1)
            view: "f32[12, 4]" = torch.ops.aten.view.default(mul, [12, 4])
            mm: "f32[12, 4]" = torch.ops.aten.mm.default(view, t)
            _unsafe_view: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm, [2, 6, 4])
            t_1: "f32[4, 4]" = torch.ops.aten.t.default(arg3_1)
            view_1: "f32[12, 4]" = torch.ops.aten.view.default(_unsafe_view, [12, 4])
            mm_1: "f32[12, 4]" = torch.ops.aten.mm.default(view_1, t_1)
            _unsafe_view_1: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_1, [2, 6, 4])
            mul_1: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, _unsafe_view_1)
            add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(arg1_1, mul_1)
            mul_2: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(add, unsqueeze_1)
            t_2: "f32[4, 4]" = torch.ops.aten.t.default(arg4_1)
            view_2: "f32[12, 4]" = torch.ops.aten.view.default(mul_2, [12, 4])
            mm_2: "f32[12, 4]" = torch.ops.aten.mm.default(view_2, t_2)
            _unsafe_view_2: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_2, [2, 6, 4])
            t_3: "f32[4, 4]" = torch.ops.aten.t.default(arg5_1)
            view_3: "f32[12, 4]" = torch.ops.aten.view.default(_unsafe_view_2, [12, 4])
            mm_3: "f32[12, 4]" = torch.ops.aten.mm.default(view_3, t_3)
            _unsafe_view_3: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_3, [2, 6, 4])
            mul_3: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, _unsafe_view_3)
            add_1: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(add, mul_3)
            return (add_1,)
    class observe_1(torch.nn.Module):
        def forward(self, arg0_1: "f32[2, 6, 4]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[2, 6, 4]", arg3_1: "f32[2, 6, 4]", arg4_1: "f32[2, 6, 4]", arg5_1: "f32[2, 6, 4]"):
            sub: "f32[2, 6, 4]" = torch.ops.aten.sub.Tensor(arg2_1, arg1_1)
            return (arg0_1, sub)
    class estimate_2(torch.nn.Module):
        def forward(self, arg0_1: "f32[2, 6, 4]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[2, 6, 4]", arg3_1: "f32[2, 6, 4]", arg4_1: "f32[2, 6, 4]", arg5_1: "f32[2, 1]"):
            clone: "f32[2, 6, 4]" = torch.ops.aten.clone.default(arg4_1)
            add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(clone, arg1_1)
            return (add,)
""",
    )
