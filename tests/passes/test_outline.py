"""outline: every region a submodule, everything else where it was."""

# ruff: noqa: E501 (golden graphs)

from __future__ import annotations

import torch
from capture import count_ops, each_model, readable, same_bits, zoo_capture
from expecttest import assert_expected_inline
from torch import fx

from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.rewrites.outline import outline, outlined_calls


def outlined(name: str) -> fx.GraphModule:
    return zoo_capture(name).stages["outline"]


def check_moves_the_regions_and_nothing_else(name: str) -> None:
    captured, gm = zoo_capture(name), outlined(name)
    regions = captured.found.regions.found
    calls = gm.graph.find_nodes(op="call_module", target=regions[0].name)
    assert len(calls) == 1
    for region in regions:
        inner = gm.get_submodule(region.name)
        assert isinstance(inner, fx.GraphModule)
        inside = [n for n in inner.graph.nodes if n.op == "call_function"]
        assert sorted(n.name for n in inside) == sorted(n.name for n in region.nodes)
    left = sum(map(is_expensive, gm.graph.nodes))
    inside_count = sum(sum(map(is_expensive, region.nodes)) for region in regions)
    assert left + inside_count == captured.expensive("functionalize")
    assert count_ops(gm)[1] == count_ops(captured.functional)[1]


def check_values_are_kept(name: str) -> None:
    captured = zoo_capture(name)
    with torch.no_grad():
        inputs = captured.flat(*captured.call)
        assert same_bits(outlined(name)(*inputs), captured.functional(*inputs))


def check_calls_tell_inputs_and_outputs(name: str) -> None:
    captured, gm = zoo_capture(name), outlined(name)
    calls = outlined_calls(gm)
    regions = {region.name: region for region in captured.found.regions.found}
    assert [call.target for call, _ in calls] == [r.name for _, r in calls]
    assert {r.name for _, r in calls} == set(regions)
    for _, record in calls:
        region = regions[record.name]
        assert [n.name for n in record.inputs] == [n.name for n in region.inputs]
        assert record.input_of == region.input_of
        for ours, theirs in zip(record.outputs, region.outputs, strict=True):
            assert ours.meta["val"].shape == theirs.meta["val"].shape


@each_model
def test_every_model(name: str) -> None:
    """The submodules of every model: their nodes, their values, their calls."""
    check_moves_the_regions_and_nothing_else(name)
    check_values_are_kept(name)
    check_calls_tell_inputs_and_outputs(name)


def test_no_region_no_change() -> None:
    gm = zoo_capture("Small").functional
    assert outline(gm, ()) is gm


def test_golden() -> None:
    assert_expected_inline(
        readable(outlined("Small")),
        """\
class GraphModule(torch.nn.Module):
    def forward(self, arg0_1: "f32[2]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[4, 4]", arg3_1: "f32[4, 4]", arg4_1: "f32[4, 4]", arg5_1: "f32[4, 4]"):
        sin: "f32[2]" = torch.ops.aten.sin.default(arg0_1)
        unsqueeze: "f32[2, 1]" = torch.ops.aten.unsqueeze.default(sin, 1)
        unsqueeze_1: "f32[2, 1, 1]" = torch.ops.aten.unsqueeze.default(unsqueeze, 2)
        mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(arg1_1, unsqueeze_1)
        region_000_mlp = self.region_000_mlp(arg2_1, mul, arg3_1)
        getitem: "f32[2, 6, 4]" = region_000_mlp[0]
        mul_1: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, getitem)
        add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(arg1_1, mul_1)
        mul_2: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(add, unsqueeze_1)
        region_001_mlp = self.region_001_mlp(arg4_1, mul_2, arg5_1)
        getitem_1: "f32[2, 6, 4]" = region_001_mlp[0]
        mul_3: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, getitem_1)
        add_1: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(add, mul_3)
        return (add_1,)
    class region_000_mlp(torch.nn.Module):
        def forward(self, arg2_1: "f32[4, 4]", mul: "f32[2, 6, 4]", arg3_1: "f32[4, 4]"):
            t: "f32[4, 4]" = torch.ops.aten.t.default(arg2_1)
            view: "f32[12, 4]" = torch.ops.aten.view.default(mul, [12, 4])
            mm: "f32[12, 4]" = torch.ops.aten.mm.default(view, t)
            _unsafe_view: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm, [2, 6, 4])
            t_1: "f32[4, 4]" = torch.ops.aten.t.default(arg3_1)
            view_1: "f32[12, 4]" = torch.ops.aten.view.default(_unsafe_view, [12, 4])
            mm_1: "f32[12, 4]" = torch.ops.aten.mm.default(view_1, t_1)
            _unsafe_view_1: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_1, [2, 6, 4])
            return (_unsafe_view_1,)
    class region_001_mlp(torch.nn.Module):
        def forward(self, arg4_1: "f32[4, 4]", mul_2: "f32[2, 6, 4]", arg5_1: "f32[4, 4]"):
            t_2: "f32[4, 4]" = torch.ops.aten.t.default(arg4_1)
            view_2: "f32[12, 4]" = torch.ops.aten.view.default(mul_2, [12, 4])
            mm_2: "f32[12, 4]" = torch.ops.aten.mm.default(view_2, t_2)
            _unsafe_view_2: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_2, [2, 6, 4])
            t_3: "f32[4, 4]" = torch.ops.aten.t.default(arg5_1)
            view_3: "f32[12, 4]" = torch.ops.aten.view.default(_unsafe_view_2, [12, 4])
            mm_3: "f32[12, 4]" = torch.ops.aten.mm.default(view_3, t_3)
            _unsafe_view_3: "f32[2, 6, 4]" = torch.ops.aten._unsafe_view.default(mm_3, [2, 6, 4])
            return (_unsafe_view_3,)
""",
    )
