"""Retrace a Dynamo graph to functional ATen.

    before (torch level, mutations)        after (ATen, values only)
    out = torch.empty_like(q)              cat = aten.cat.default([mul, mul_1], -1)
    out[..., ::2] = a   # setitem          ...
    out[..., 1::2] = b

A third of real graphs contain such writes, rotary positions mostly; the result of the
write has no users, so ancestor analysis and dead code removal would lose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.traceback import preserve_node_meta

from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.input_names import user_name
from rfc_compile.passes.fx_utils import aten, fill_of, remove_dead_code
from rfc_compile.passes.rewrites.retrace import retrace
from rfc_compile.torch_internals import (
    DynamoControl,
    functorch_levels,
    input_source,
    leave_functorch_levels,
)

_RANDOM = torch.Tag.nondeterministic_seeded


def functionalize(
    gm: fx.GraphModule, fakes: Sequence[Any], fake_mode: Any
) -> fx.GraphModule:
    """Retrace ``gm`` on its fake inputs; metadata and input order are kept.

    Placeholders keep Dynamo's metadata, every other node has ``val``,
    ``nn_module_stack`` and its stack trace.

    Raises:
        CannotCache: the forward writes to its inputs, draws random numbers, or
            cannot be retraced.
    """
    levels = functorch_levels()
    try:
        with fake_mode, preserve_node_meta(), torch.no_grad():
            traced = retrace(gm, fakes)
    except DynamoControl:
        raise
    except Exception as error:
        leave_functorch_levels(levels)  # else Dynamo's guards fail: the call would too
        raise CannotCache(
            f"the graph cannot be retraced to functional ATen ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'})"
        ) from error
    _keep_placeholder_metadata(gm, traced, fakes)
    _refuse_side_effects(traced)
    _free_constants(traced)
    remove_dead_code(traced)
    return traced


def _free_constants(gm: fx.GraphModule) -> None:
    """Constants of the shape of a tensor are computed from no tensor.

    before   new_zeros = aten.new_zeros(x, [2, 9])    a timestep's MLP reads the latent
    after    full = aten.full([2, 9], 0)
    """
    for node in gm.graph.nodes:
        fill, value = fill_of(node), node.meta.get("val")
        if fill is None or not isinstance(value, torch.Tensor):
            continue
        if not node.all_input_nodes:  # it is computed from no tensor
            continue
        if not all(isinstance(size, int) for size in value.shape):
            continue
        if value.is_contiguous():
            node.target = aten.full.default
            node.args = ([*value.shape], fill)
            node.kwargs = {"dtype": value.dtype, "device": value.device}


def _refuse_side_effects(gm: fx.GraphModule) -> None:
    for node in gm.graph.nodes:
        if node.target is aten.copy_.default:
            name = user_name(input_source(node.args[0]))
            raise CannotCache(f"the forward writes to its input {name}")
        tags = getattr(node.target, "tags", ())
        if node.op == "call_function" and _RANDOM in tags:
            if _is_idle_dropout(node):
                continue
            raise CannotCache(
                f"the forward draws random numbers ({node.target}): "
                "call model.eval() if it is in training mode"
            )


def _is_idle_dropout(node: fx.Node) -> bool:
    """Whether an attention op's random tag is due to a dropout of zero."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    for position, argument in enumerate(schema):
        if argument.name == "dropout_p":
            given = node.kwargs.get("dropout_p", argument.default_value)
            if position < len(node.args):
                given = node.args[position]
            return given in (0, 0.0, None)
    return False


def _keep_placeholder_metadata(
    source: fx.GraphModule, target: fx.GraphModule, fakes: Sequence[Any]
) -> None:
    """Dynamo's metadata and fake values (these know numbers given as tensors)."""
    for old, new, fake in zip(
        source.graph.find_nodes(op="placeholder"),
        target.graph.find_nodes(op="placeholder"),
        fakes,
        strict=True,
    ):
        kept = {key: value for key, value in old.meta.items() if key != "example_value"}
        new.meta.update(kept, val=fake)
