"""Matmuls with few rows become multiplications and sums, which the compiler fuses.

    x: "f32[2, 768]"; w: "f32[4608, 768]"; b: "f32[4608]"

    before                                 after
    t = aten.t(w)                          t = aten.t(w); w_1 = aten.t(t)
    addmm = aten.addmm(b, x, t)            sum_1 = aten.sum(w_1 * x[0], [-1])
                                           sum_2 = aten.sum(w_1 * x[1], [-1])
                                           add = aten.stack([sum_1, sum_2]) + b

Such a matmul (the modulation of a block by the timestep) is bound by reading
its weight, and a CPU's matmul reads it at a quarter of the memory bandwidth. The result
differs by rounding, so only cached steps and the probe are rewritten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rfc_compile.passes.fx_utils import aten, inline, remove_dead_code, tensor_of
from rfc_compile.passes.rewrites.trace_submodule import kind_of, traced

MOST_ROWS = 4
"""Measured in float32: 4 times faster at 2 rows, 1.8 times at 4, no faster at 8."""

DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
"""What may be summed up in float32."""


def small_matmuls(gm: fx.GraphModule, fake_mode: Any) -> fx.GraphModule:
    """Rewrite every ``mm`` and ``addmm`` of few rows by a weight that lies by rows."""
    matmuls = [node for node in gm.graph.nodes if _reads_a_weight_only(node)]
    known: dict[object, fx.GraphModule] = {}  # the blocks' matmuls are alike
    for node in matmuls:
        operands = node.all_input_nodes
        examples = [operand.meta["val"] for operand in operands]
        kind = kind_of(examples)
        if kind not in known:
            known[kind] = traced(_rows, examples, fake_mode)
        with gm.graph.inserting_before(node):
            (result,) = inline(gm.graph, known[kind], operands)
        result.meta.update(node.meta)
        node.replace_all_uses_with(result)
    if matmuls:
        remove_dead_code(gm)
    return gm


def _reads_a_weight_only(node: fx.Node) -> bool:
    if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
        return False
    values = [tensor_of(operand) for operand in node.all_input_nodes]
    if len(values) != len(node.args):  # an operand twice
        return False
    *_, rows, weight = values
    assert rows is not None
    assert weight is not None
    count, columns = rows.shape
    return (
        isinstance(count, int)
        and count <= MOST_ROWS
        and rows.is_cpu  # accelerators read the weight at the memory's speed anyway
        and rows.dtype in DTYPES
        and weight.stride() == (1, columns)
    )


def _rows(*operands: Tensor) -> tuple[Tensor]:
    *bias, rows, transposed = operands
    weight = transposed.t().float()
    sums = [(weight * row.float()).sum(-1) for row in rows.unbind()]
    result = torch.stack(sums)
    if bias:
        result = result + bias[0].float()
    return (result.to(rows.dtype),)
