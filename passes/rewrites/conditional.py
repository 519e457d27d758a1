"""Each region call becomes a conditional with a relational estimation branch.

    before                                after
    region_000 = self.region_000(...)     signal = self.signal_000(I, I_0, I_1, weights)
    getitem = region_000[0]               predicate = decide(signal, limit)
                                          region_000 = conditional(predicate,
                                              self.region_000, self.observe_0,
                                              self.estimate_0, (...), (I,), state, ...)
                                          getitem = region_000[0]

The full branch runs the region and updates its state in place; the cached branch is
the estimation node. This graph runs as it is: it is the reference that the hoisted
and specialised forms are tested against.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rfc_compile.estimators.step_signal import signal_order, step_signal
from rfc_compile.passes.analysis.records import Region
from rfc_compile.passes.fx_utils import results_of, sort_stably, tensor_of
from rfc_compile.passes.rewrites.outline import outlined_calls
from rfc_compile.passes.rewrites.trace_submodule import Tracer
from rfc_compile.passes.state.kept_values import (
    StateOptions,
    input_ring,
    own_ring,
    rings_of,
)
from rfc_compile.passes.state.region_state import RegionState
from rfc_compile.passes.state.state_layout import Ring, StateLayout

WEIGHT_ROWS = 2
"""Taylor, valid: the rows of the coefficients (rfc_compile.estimators.base).

Of shape (2, M), or (2, M, B) for a batch of B whose samples have weights of their own.
"""


def decide(signal: Tensor, conditioning: int, limit: Tensor) -> bool:
    """Full step iff a group's error is not within the limit (so NaN is full)."""
    groups = signal.shape[0] - conditioning - 1
    return not bool((signal[:groups] <= limit).all())


def conditional(
    predicate: bool,
    region: fx.GraphModule,
    observe: fx.GraphModule,
    estimate: fx.GraphModule,
    operands: Sequence[Any],
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
    written: Sequence[int | None],
    weights: Tensor,
) -> Sequence[Tensor]:
    """Run a region and keep its values, or estimate its outputs from kept ones.

    ``written`` are the slots to write, None where a later reader of the input does.
    """
    if not predicate:
        return estimate(*inputs, *state, weights)  # type: ignore[no-any-return]
    outputs = region(*operands)
    values = observe(*inputs, *outputs, *state)
    for index, value in zip(written, values, strict=True):
        if index is not None:
            state[index].copy_(value)
    return outputs  # type: ignore[no-any-return]


def make_conditional(
    gm: fx.GraphModule,
    state_options: StateOptions,
    watched: str,
    latents: Sequence[str],
    conditioning: Sequence[str],
    fake_mode: Any,
) -> fx.GraphModule:
    """Give every outlined region its cached branch; values of full steps unchanged.

    ``watched`` names the input whose prediction error the decision looks at,
    ``latents`` and ``conditioning`` the inputs that identify a trajectory. The
    layout of the added graph inputs is in ``gm.meta["rfc_state"]``.
    """
    calls = outlined_calls(gm)
    if not calls:
        return gm
    nodes = {node.name: node for node in gm.graph.nodes}
    seen = nodes[watched]
    tracer = Tracer(gm, fake_mode)
    order = signal_order(state_options.estimator.order)
    images = [nodes[name] for name in latents]
    places = gm.graph.find_nodes(op="placeholder")
    regions = [region for _, region in calls]
    rings = rings_of(regions, images, seen, state_options, fake_mode)
    width = max(state_options.estimator.order, order)
    device = seen.meta["val"].device
    with fake_mode:
        batch = seen.meta["val"].shape[:1] if state_options.per_sample else ()
        weights_example = torch.empty(WEIGHT_ROWS, width, *batch, device=device)
        limit_example = torch.empty((), device=device)
    slots = {ring.name: _placeholders(gm, ring) for ring in rings}
    weights = _placeholder(gm, "weights", weights_example)
    limit = _placeholder(gm, "limit", limit_example)
    watch = Watch(
        current=seen,
        history=tuple(slots[input_ring(seen)][: order + 1]),
        latents=tuple(images),
        before=tuple(slots[f"latent.{node.name}"][0] for node in images),
        conditioning=tuple(nodes[name] for name in conditioning),
        weights=weights,
    )
    predicates = [_predicate(gm, tracer, calls[0][0], watch, limit) for _ in calls]
    last = {node: call for call, region in calls for node in region.inputs}
    for (call, region), predicate in zip(calls, predicates, strict=True):
        writes = [last[node] is call for node in region.inputs]
        kept = _kept(region, state_options, seen)
        _replace(gm, tracer, call, region, kept, slots, weights, predicate, writes)
    gm.meta["rfc_state"] = StateLayout(
        rings=rings,
        latents=tuple(places.index(node) for node in images),
        weights=weights_example,
        conditioning=len(conditioning),
    )
    sort_stably(gm)
    gm.recompile()
    return gm


def _placeholder(gm: fx.GraphModule, name: str, example: Tensor) -> fx.Node:
    last = gm.graph.find_nodes(op="placeholder")[-1]
    with gm.graph.inserting_after(last):
        node = gm.graph.placeholder(name)
    node.meta["val"] = example
    return node


def _placeholders(gm: fx.GraphModule, ring: Ring) -> list[fx.Node]:
    name = ring.name.replace(".", "_")
    return [_placeholder(gm, f"{name}_{i}", ring.example) for i in range(ring.length)]


@dataclass(frozen=True)
class Watch:
    """The nodes that the signal reads (``step_signal``)."""

    current: fx.Node
    history: tuple[fx.Node, ...]
    latents: tuple[fx.Node, ...]
    before: tuple[fx.Node, ...]
    conditioning: tuple[fx.Node, ...]
    weights: fx.Node


def _predicate(
    gm: fx.GraphModule, tracer: Tracer, before: fx.Node, watch: Watch, limit: fx.Node
) -> fx.Node:
    parts = (watch.history, watch.latents, watch.before, watch.conditioning)

    def signal(current: Tensor, *rest: Tensor) -> tuple[Tensor]:
        values = iter(rest)
        history, latents, before, conditioning = (
            [next(values) for _ in part] for part in parts
        )
        weights = next(values)
        return (step_signal(current, history, latents, before, conditioning, weights),)

    operands = (watch.current, *(node for part in parts for node in part))
    operands += (watch.weights,)
    with gm.graph.inserting_before(before):
        module = tracer.trace("signal", signal, operands)
        result = gm.graph.create_node("call_module", module.target, operands)
        value = gm.graph.call_function(operator.getitem, (result, 0))
        count = len(watch.conditioning)
        predicate = gm.graph.call_function(decide, (value, count, limit))
    gm.graph.erase_node(module)
    example = _output_example(gm, str(result.target))
    result.meta["val"] = (example,)
    value.meta["val"] = example
    predicate.meta["val"] = True
    return predicate


def _output_example(gm: fx.GraphModule, name: str) -> Tensor:
    module = gm.get_submodule(name)
    assert isinstance(module, fx.GraphModule)
    (result,) = results_of(module.graph)
    example = tensor_of(result)
    assert example is not None
    return example


def _kept(region: Region, state_options: StateOptions, watched: fx.Node) -> RegionState:
    return RegionState(
        estimator=state_options.estimator,
        inputs=tuple(state_options.of_input(node, watched) for node in region.inputs),
        outputs=tuple(state_options.of_output(node) for node in region.outputs),
        input_of=region.input_of,
        bases=bool(region.bases),
        examples=tuple(node.meta["val"] for node in region.outputs),
    )


def _replace(
    gm: fx.GraphModule,
    tracer: Tracer,
    call: fx.Node,
    region: Region,
    kept: RegionState,
    slots: dict[str, list[fx.Node]],
    weights: fx.Node,
    predicate: fx.Node,
    writes: Sequence[bool],
) -> None:
    used = [
        (input_ring(node), is_written)
        for node, storage, is_written in zip(
            region.inputs, kept.inputs, writes, strict=True
        )
        if storage.length
    ]
    used += [
        (own_ring(region, "output", position), True)
        for position, storage in enumerate(kept.outputs)
        if storage.length
    ]
    if kept.estimator.statistics:
        count = len(region.outputs)
        used += [(own_ring(region, "statistics", i), True) for i in range(count)]
    state = [slot for name, _ in used for slot in slots[name]]
    oldest = itertools.accumulate((len(slots[name]) for name, _ in used), initial=-1)
    next(oldest)
    ends = [
        end if is_written else None
        for end, (_, is_written) in zip(oldest, used, strict=True)
    ]
    given = (*region.inputs, *region.bases)
    with gm.graph.inserting_before(call):
        node = gm.graph.call_function(
            conditional,
            (
                predicate,
                gm.graph.get_attr(str(call.target)),
                tracer.trace(
                    "observe",
                    kept.observe,
                    [*given, *region.outputs, *state],
                    kept.structure,
                ),
                tracer.trace(
                    "estimate", kept.estimate, [*given, *state, weights], kept.structure
                ),
                tuple(call.args),
                given,
                tuple(state),
                tuple(ends),
                weights,
            ),
        )
    node.meta.update(call.meta)
    call.replace_all_uses_with(node)
    gm.graph.erase_node(call)
