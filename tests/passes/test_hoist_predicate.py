"""hoist_predicate: one predicate a step, before the first region."""

# ruff: noqa: E501 (golden graphs)

from __future__ import annotations

import operator
from collections import Counter

import pytest
from capture import FORMS, copy_graph, each_model, readable, zoo_capture
from expecttest import assert_expected_inline

from rfc_compile.passes.rewrites.conditional import conditional, decide
from rfc_compile.passes.rewrites.hoist_predicate import hoist_predicate


@each_model
def test_one_predicate_for_all_regions(name: str) -> None:
    captured = zoo_capture(name)
    gm = captured.stages["hoist_predicate"]
    (predicate,) = gm.graph.find_nodes(op="call_function", target=decide)
    calls = gm.graph.find_nodes(op="call_function", target=conditional)
    assert len(calls) == len(captured.found.regions.found)
    assert all(call.args[0] is predicate for call in calls)
    signals = [n for n in gm.graph.nodes if "signal" in str(n.target)]
    assert len(signals) == 1


@pytest.mark.parametrize("name", ["Small", "Block", "Joint"])
def test_nothing_else_changes(name: str) -> None:
    before, after = (zoo_capture(name).stages[form] for form in FORMS[:2])
    counts = [Counter(str(n.target) for n in gm.graph.nodes) for gm in (before, after)]
    repeated = len(zoo_capture(name).found.regions.found) - 1
    gone = dict.fromkeys((str(decide), "signal_0", str(operator.getitem)), repeated)
    assert counts[0] - counts[1] == gone
    assert not counts[1] - counts[0]


def test_a_second_run_changes_nothing() -> None:
    gm = copy_graph(zoo_capture("Small").stages["hoist_predicate"])
    before = gm.graph.python_code("self").src
    assert hoist_predicate(gm) is gm
    assert gm.graph.python_code("self").src == before


def test_without_predicates_nothing_changes() -> None:
    gm = copy_graph(zoo_capture("Small").functional)
    before = gm.graph.python_code("self").src
    assert hoist_predicate(gm) is gm
    assert gm.graph.python_code("self").src == before


def test_golden() -> None:
    gm = zoo_capture("Small", estimator="reuse", order=0).stages["hoist_predicate"]
    text = readable(gm).split("    class signal_0")[0]
    body = "\n".join(text.splitlines()[2:]) + "\n"
    assert_expected_inline(
        body,
        """\
        sin: "f32[2]" = torch.ops.aten.sin.default(arg0_1)
        unsqueeze: "f32[2, 1]" = torch.ops.aten.unsqueeze.default(sin, 1)
        unsqueeze_1: "f32[2, 1, 1]" = torch.ops.aten.unsqueeze.default(unsqueeze, 2)
        mul: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(arg1_1, unsqueeze_1)
        signal_1 = self.signal_0(mul, input_mul_0, input_mul_1, arg1_1, latent_arg1_1_0, weights)
        getitem_2: "f32[3]" = signal_1[0]
        decide = rfc_compile_passes_rewrites_conditional_decide(getitem_2, 0, limit)
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
        conditional_1 = rfc_compile_passes_rewrites_conditional_conditional(decide, region_001_mlp_1, observe_3, estimate_4, (arg4_1, mul_2, arg5_1), (mul_2,), (region_001_mlp_output_0_0,), (0,), weights)
        getitem_1: "f32[2, 6, 4]" = conditional_1[0]
        mul_3: "f32[2, 6, 4]" = torch.ops.aten.mul.Tensor(unsqueeze_1, getitem_1)
        add_1: "f32[2, 6, 4]" = torch.ops.aten.add.Tensor(add, mul_3)
        return (add_1,)
""",
    )
