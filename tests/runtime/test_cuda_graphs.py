"""What CUDA graphs need: fixed addresses, weights that stay, no copy to the host.

Probe, full and cached graph are each captured by itself. What can be seen on a CPU is
tested there; that images stay the same is tested where there is a GPU.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from denoising import compiled, run, small_glyph, steps_of
from torch import Tensor

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.torch_internals import is_static_input

CUDA_GRAPHS = {"triton.cudagraphs": True}
SCHEDULES: dict[str, dict[str, Any]] = {
    "interval": {"schedule": "interval", "interval": 3},
    "rcs": {"threshold": 0.3, "max_cached_run": 6},
    "error_control": {},
    "modules": {"granularity": "module", "threshold": 0.3, "max_cached_run": 6},
}
by_schedule = pytest.mark.parametrize(
    "options", SCHEDULES.values(), ids=list(SCHEDULES)
)


@by_schedule
def test_only_full_graphs_write_and_only_to_the_state(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No graph writes to an address that somebody else owns, or that it also reads."""
    written: dict[str, set[int]] = {}
    call = LazyGraph.__call__

    def watched(graph: LazyGraph, *arguments: Any) -> Any:
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        before = [tensor._version for tensor in tensors]
        results = call(graph, *arguments)
        changed = [
            t for t, old in zip(tensors, before, strict=True) if t._version > old
        ]
        pointers = [t.data_ptr() for t in tensors if t.numel()]
        assert all(pointers.count(t.data_ptr()) == 1 for t in changed)
        written.setdefault(graph.name, set()).update(t.data_ptr() for t in changed)
        return results

    monkeypatch.setattr(LazyGraph, "__call__", watched)
    model = compiled(small_glyph(), **options)
    steps = list(steps_of(model))
    (dispatcher,) = dispatchers_of(model)
    (session,) = dispatcher.sessions()
    (state,) = session.states
    own = {slot.data_ptr() for slot in state.slots}
    assert written.pop("full") <= own
    assert set().union(*written.values()) == set()
    assert not own & {tensor.data_ptr() for tensor in (*steps, *model.parameters())}


@by_schedule
def test_the_state_stays_where_it_is(options: dict[str, Any]) -> None:
    """A ring turns by what is passed first, and no slot is allocated anew."""
    model = compiled(small_glyph(), **options)
    seen = set()
    for _ in steps_of(model):
        (session,) = dispatchers_of(model)[0].sessions()
        (state,) = session.states
        seen.add(frozenset(slot.data_ptr() for slot in state.slots))
    assert len(seen) == 1


@by_schedule
def test_nothing_in_a_graph_goes_to_the_host(options: dict[str, Any]) -> None:
    """Decisions are the runtime's: no graph branches, or reads a number."""
    model = compiled(small_glyph(), **options)
    run(model)
    called = {
        str(node.target)
        for graph in dispatchers_of(model)[0].graphs.values()
        for node in graph.gm.graph.nodes
        if node.op == "call_function"
    }
    assert len(called) > 5
    names = {part for target in called for part in target.split(".")}
    assert names.isdisjoint({"_local_scalar_dense", "item", "nonzero", "cond"})


def test_weights_are_static_for_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a CUDA graph would copy all of them at every step."""
    compile_fx = importlib.import_module("torch._inductor.compile_fx")
    given: list[tuple[int, list[int]]] = []

    def inner(gm: Any, inputs: Any, **settings: Any) -> Any:
        given.append((len(inputs), list(settings["static_input_idxs"])))
        return torch._functorch.aot_autograd.make_boxed_func(gm.forward)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", inner)
    options = {"inner": "inductor", "inner_options": CUDA_GRAPHS}
    model = compiled(small_glyph(1), **options, **SCHEDULES["rcs"])
    run(model, steps=6)
    graphs = [g for g in dispatchers_of(model)[0].graphs.values() if g.calls]
    expected = []
    for graph in graphs:
        placeholders = graph.gm.graph.find_nodes(op="placeholder")
        static = [i for i, node in enumerate(placeholders) if is_static_input(node)]
        expected.append((len(placeholders), static))
    assert sorted(given) == sorted(expected)
    assert all(0 < len(static) < count for count, static in given)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs are captured on a GPU only"
)
@by_schedule
def test_images_are_those_without_cuda_graphs(options: dict[str, Any]) -> None:
    """Bit for bit, with the results of a step overwritten by those of the next."""
    images = []
    for inner_options in ({}, CUDA_GRAPHS):
        torch._dynamo.reset()
        model = compiled(
            small_glyph().cuda(),
            inner="inductor",
            inner_options=inner_options,
            **options,
        )
        labels = torch.tensor([3, 8], device="cuda")
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).cuda()
        with torch.no_grad():
            for step in range(12):
                timestep = torch.full((2,), 999 - 80 * step, device="cuda")
                x = x - 0.05 * model(x, timestep=timestep, class_labels=labels).sample
        images.append(x.cpu())
    assert torch.equal(*images)
