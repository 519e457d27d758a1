"""conditional: each region call gets a cached branch and its state."""

# ruff: noqa: E501 (golden graphs)

from __future__ import annotations

import math

import pytest
import torch
from capture import (
    CACHED,
    FULL,
    Walk,
    copy_graph,
    each_model,
    readable,
    walk_inputs,
    zoo_capture,
)
from expecttest import assert_expected_inline
from options import MODULES
from torch import fx

from rfc_compile.config.options import Options
from rfc_compile.estimators import ESTIMATORS
from rfc_compile.passes.rewrites.conditional import (
    conditional,
    decide,
    make_conditional,
)


def conditional_graph(name: str, **options: object) -> fx.GraphModule:
    return zoo_capture(name, **options).stages["conditional"]


@each_model
def test_one_conditional_and_one_predicate_a_region(name: str) -> None:
    gm = conditional_graph(name)
    regions = zoo_capture(name).found.regions.found
    for target in (conditional, decide):
        nodes = gm.graph.find_nodes(op="call_function", target=target)
        assert len(nodes) == len(regions)
    for region in regions:
        assert not gm.graph.find_nodes(op="call_module", target=region.name)


def test_no_region_no_change() -> None:
    gm = zoo_capture("Small").functional
    keeping = Options(inner="eager", **MODULES).make_state_options()
    assert make_conditional(gm, keeping, "mul", ["arg1_1"], [], None) is gm


def test_a_second_run_changes_nothing() -> None:
    gm = copy_graph(conditional_graph("Small"))
    keeping = Options(inner="eager", **MODULES).make_state_options()
    before = gm.graph.python_code("self").src
    assert make_conditional(gm, keeping, "mul", ["arg1_1"], [], None) is gm
    assert gm.graph.python_code("self").src == before


@pytest.mark.parametrize(
    ("limit", "full"),
    [(FULL, True), (CACHED, False), (0.5, False), (0.1, True), (math.nan, True)],
)
def test_decide(limit: float, full: bool) -> None:
    signal = torch.tensor([0.1, 0.3, 9.0, 9.0])  # two groups, change, one conditioning
    assert decide(signal, 1, torch.tensor(limit)) is full


def test_a_nan_error_is_full() -> None:
    signal = torch.tensor([0.1, math.nan, 0.0])
    assert decide(signal, 0, torch.tensor(CACHED)) is True


RINGS = {  # latent, inputs and outputs and statistics of two regions
    ("reuse", 0): [1, 2, 1, 1],  # the watched input serves the decision
    ("taylor", 1): [1, 2, 2, 2],
    ("taylor", 2): [1, 3, 3, 3],
    ("rfe", 1): [1, 2, 2, 1, 1, 2, 1],
    ("rfe", 2): [1, 3, 3, 1, 1, 3, 1],
    ("subspace", 1): [1, 2, 2, 1, 2, 2, 1],
    ("subspace", 2): [1, 3, 3, 1, 3, 3, 1],
    ("subspace", 3): [1, 4, 4, 1, 4, 4, 1],
}


@pytest.mark.parametrize(
    ("estimator", "order"),
    [(name, order) for name, kind in ESTIMATORS.items() for order in kind.orders],
)
def test_state_is_no_larger_than_the_estimator_needs(
    estimator: str, order: int
) -> None:
    layout = zoo_capture("Small", estimator=estimator, order=order).layout
    assert [r.length for r in layout.rings] == RINGS[estimator, order]
    assert layout.slots == sum(RINGS[estimator, order])
    for ring in layout.rings:
        wanted = (2, ring.example.shape[1]) if "statistics" in ring.name else (2, 6, 4)
        assert tuple(ring.example.shape) == wanted
        assert ring.example.dtype is torch.float32


def test_state_has_the_dtype_of_the_values() -> None:
    layout = zoo_capture("Half").layout
    dtypes = {r.name.split(".")[-1]: r.example.dtype for r in layout.rings}
    assert dtypes["output_0"] is torch.bfloat16


def test_a_full_step_writes_the_oldest_slot_and_a_cached_step_nothing() -> None:
    walk = Walk(zoo_capture("Small"), "conditional")
    walk(*walk_inputs("Small", 0), full=True)
    before = [slot.clone() for slot in walk.state.slots]
    walk(*walk_inputs("Small", 1), full=False)
    after = walk.state.slots
    assert not torch.equal(before[0], after[0])  # the latent, by the runtime
    assert all(map(torch.equal, before[1:], after[1:]))
    walk(*walk_inputs("Small", 2), full=True)
    ring = zoo_capture("Small").layout.rings[1].length
    assert torch.equal(walk.state.slots[2], before[1])  # one place on
    assert not torch.equal(walk.state.slots[1], before[1])
    assert ring == 3


def test_golden() -> None:
    gm = conditional_graph("Small", estimator="reuse", order=0)
    text = readable(gm).split("    class signal_0")[0]
    assert_expected_inline(
        text,
        """\
class GraphModule(torch.nn.Module):
    def forward(self, arg0_1: "f32[2]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[4, 4]", arg3_1: "f32[4, 4]", arg4_1: "f32[4, 4]", arg5_1: "f32[4, 4]", latent_arg1_1_0: "f32[2, 6, 4]", input_mul_0: "f32[2, 6, 4]", input_mul_1: "f32[2, 6, 4]", region_000_mlp_output_0_0: "f32[2, 6, 4]", region_001_mlp_output_0_0: "f32[2, 6, 4]", weights: "f32[2, 1]", limit: "f32[]"):
        sin: "f32[2]" = torch.ops.aten.sin.default(arg0_1)
        unsqueeze: "f32[2, 1]" = torch.ops.aten.unsqueeze.default(sin, 1)
        unsqueeze_1: "f32[2, 1, 1]" = torch.ops.aten.unsqueeze.default(unsqueeze, 2)
        mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(arg1_1, unsqueeze_1)
        signal_1 = self.signal_0(mul, input_mul_0, input_mul_1, arg1_1, latent_arg1_1_0, weights)
        getitem_2: "f32[3]" = signal_1[0]
        decide = rfc_compile_passes_rewrites_conditional_decide(getitem_2, 0, limit)
        signal_3 = self.signal_0(mul, input_mul_0, input_mul_1, arg1_1, latent_arg1_1_0, weights)
        getitem_3: "f32[3]" = signal_3[0]
        decide_1 = rfc_compile_passes_rewrites_conditional_decide(getitem_3, 0, limit)
        region_000_mlp_1 = self.region_000_mlp
        observe_1 = self.observe_1
        estimate_2 = self.estimate_2
        conditional = rfc_compile_passes_rewrites_conditional_conditional(decide, region_000_mlp_1, observe_1, estimate_2, (arg2_1, mul, arg3_1), (mul,), (input_mul_0, input_mul_1, region_000_mlp_output_0_0), (1, 2), weights)
        getitem: "f32[2, 6, 4]" = conditional[0]
        mul_1: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, getitem)
        add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(arg1_1, mul_1)
        mul_2: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(add, unsqueeze_1)
        region_001_mlp_1 = self.region_001_mlp
        observe_3 = self.observe_3
        estimate_4 = self.estimate_4
        conditional_1 = rfc_compile_passes_rewrites_conditional_conditional(decide_1, region_001_mlp_1, observe_3, estimate_4, (arg4_1, mul_2, arg5_1), (mul_2,), (region_001_mlp_output_0_0,), (0,), weights)
        getitem_1: "f32[2, 6, 4]" = conditional_1[0]
        mul_3: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, getitem_1)
        add_1: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(add, mul_3)
        return (add_1,)
""",
    )


def test_golden_branches() -> None:
    gm = conditional_graph("Small", estimator="taylor", order=1)
    submodules = dict(gm.named_children())
    shown = [
        readable(module)
        for name, module in submodules.items()
        if name.startswith("estimate") and isinstance(module, fx.GraphModule)
    ]
    assert_expected_inline(
        shown[-1],
        """\
class (torch.nn.Module):
    def forward(self, arg0_1: "f32[2, 6, 4]", arg1_1: "f32[2, 6, 4]", arg2_1: "f32[2, 6, 4]", arg3_1: "f32[2, 1]"):
        select: "f32[1]" = torch.ops.aten.select.int(arg3_1, 0, 0)
        select_1: "f32[]" = torch.ops.aten.select.int(select, 0, 0)
        sub: "f32[2, 6, 4]" = torch.ops.aten.sub.Tensor(arg1_1, arg2_1)
        view: "f32[1, 1, 1]" = torch.ops.aten.view.default(select_1, [-1, 1, 1])
        mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(view, sub)
        add: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(arg1_1, mul)
        return (add,)
""",
    )
