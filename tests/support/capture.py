"""Run the passes by hand: capture a model, run its graphs over a trajectory.

``capture`` goes through Dynamo like the backend does, inside a backend call, and keeps
every graph. A ``Walk`` then drives one of the forms step by step on real tensors.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from marks import FEW, cases
from model_zoo import ZOO, inputs_of
from models import build, timesteps
from options import MODULES
from torch import Tensor, fx, nn

from rfc_compile import torch_internals
from rfc_compile.config.options import Options
from rfc_compile.errors import CannotCache
from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.analysis.records import Captured
from rfc_compile.passes.fx_utils import is_layout
from rfc_compile.passes.pipeline import analyse, rewrite
from rfc_compile.passes.rewrites.specialize import Specialized, specialize
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.state import BranchState

FULL, CACHED = -math.inf, math.inf

each_model = pytest.mark.parametrize("name", cases(ZOO, FEW, pytest.mark.slow))
"""A test of every model of the zoo, whose capture all tests share."""


@dataclass
class Capture:
    """Everything the passes make of one forward.

    Attributes:
        model: the model.
        inputs: Dynamo's flat inputs: parameters, buffers and the call's arguments.
        call: the call's own arguments.
        stages: a copy of the graph after every pass, by the name of the pass.
        analysis: roles of the inputs, regions and refusals. Its graph has been
            consumed by the later passes; ``stages["functionalize"]`` is a copy.
        whole: the specialised graphs without a probe.
        split: the same with a probe.

    """

    model: nn.Module
    inputs: list[Any]
    call: tuple[Tensor, ...]
    stages: dict[str, fx.GraphModule] = field(default_factory=dict)
    analysis: Captured | None = None
    whole: Specialized | None = None
    split: Specialized | None = None
    fake_mode: Any = None

    @property
    def functional(self) -> fx.GraphModule:
        """The graph in which the analyses found the regions."""
        return self.stages["functionalize"]

    @property
    def found(self) -> Captured:
        """The analysis; asserts that there is one."""
        assert self.analysis is not None
        return self.analysis

    @property
    def layout(self) -> StateLayout:
        """What the conditional graphs take after the model's inputs."""
        layout = self.stages["hoist_predicate"].meta["rfc_state"]
        assert isinstance(layout, StateLayout)
        return layout

    def flat(self, *call: Tensor) -> list[Any]:
        """Dynamo's inputs for a call with other arguments."""
        new = {id(old): value for old, value in zip(self.call, call, strict=True)}
        return [new.get(id(value), value) for value in self.inputs]

    def expensive(self, name: str) -> int:
        """Expensive ops of a stage, submodules of outlined regions included."""
        return count_ops(self.stages[name])[0]


def capture(
    model: nn.Module,
    *call: Tensor,
    timestep: str | None = None,
    dynamic: bool = False,
    **options: Any,
) -> Capture:
    """Run all passes on a forward; ``options`` are the backend's own.

    Regions are single modules unless they say otherwise.

    Raises:
        CannotCache: an analysis refused the forward.

    """
    settings = Options.from_mapping({"inner": "eager", **MODULES, **options})
    result = Capture(model, [], call)
    refusals: list[CannotCache] = []

    def backend(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        assert not result.inputs, "the model is more than one graph"
        result.inputs = list(inputs)
        try:
            _run_passes(result, gm, settings, timestep)
        except CannotCache as refusal:
            refusals.append(refusal)
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)(*call)
    if refusals:
        raise refusals[0]
    return result


@functools.cache
def zoo_capture(name: str, **options: Any) -> Capture:
    """The capture of a model of ``model_zoo.ZOO``; shared, so do not change it."""
    model = build(ZOO[name])
    latent, *rest = inputs_of(model)
    return capture(model, latent, timesteps(9), *rest, **options)


def walk_inputs(name: str, step: int) -> tuple[Tensor, ...]:
    """The call of a model of ``ZOO`` at a step of a trajectory."""
    latent, *rest = zoo_capture(name).call
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(step))
    return (latent + 0.1 * step * noise, timesteps(9 - step), *rest[1:])


def _run_passes(
    result: Capture, gm: fx.GraphModule, settings: Options, timestep: str | None
) -> None:
    def observe(name: str, graph: fx.GraphModule) -> None:
        result.stages[name] = copy_graph(graph)

    result.fake_mode = torch_internals.dynamo_fake_mode()
    result.analysis = analyse(
        gm,
        torch_internals.fake_inputs(gm, result.inputs),
        result.fake_mode,
        source_of=torch_internals.input_source,
        is_static=torch_internals.is_static_input,
        timestep=timestep,
        observe=observe,
        granularity=lambda timed: settings.for_graph(timed=timed).granularity,
    )
    if not result.analysis.regions.found:
        return
    result.split = rewrite(
        result.analysis,
        settings.make_state_options(),
        result.fake_mode,
        observe,
        probe=True,
        optional=(),
    ).specialized
    result.whole = specialize(result.stages["hoist_predicate"], probe=False)


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy with nodes of its own, so that later passes do not change it."""
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(gm.graph, mapping)
    graph.output(output)
    for old, new in mapping.items():
        new._rename(old.name)
    copied = fx.GraphModule(gm, graph)
    copied.meta.update(gm.meta)
    return copied


Runner = Callable[[Sequence[Any], Sequence[Tensor], Tensor, bool], list[Any]]
"""(flat inputs, state slots, weights, full) -> the model's outputs."""


def run_conditional(gm: fx.GraphModule) -> Runner:
    """A conditional graph, its decision forced by the limit."""

    def run(
        inputs: Sequence[Any], slots: Sequence[Tensor], weights: Tensor, full: bool
    ) -> list[Any]:
        limit = torch.tensor(FULL if full else CACHED)
        return list(gm(*inputs, *slots, weights, limit))

    return run


def run_specialized(specialized: Specialized, signals: list[Tensor]) -> Runner:
    """The graphs of a step as the dispatcher runs them; every signal is kept."""

    def run(
        inputs: Sequence[Any], slots: Sequence[Tensor], weights: Tensor, full: bool
    ) -> list[Any]:
        given = [*inputs, *slots, weights]
        pool = dict(zip(specialized.inputs[:-1], given, strict=True))
        names = ["probe"] if specialized.probe is not None else []
        for name in [*names, "full" if full else "cached"]:
            graph = specialized.graphs[name]
            results = graph.gm(*[pool[taken] for taken in graph.takes])
            pool.update(zip(graph.gives, results, strict=True))
            if name == "probe":
                signals.append(results[0])
        if specialized.probe is None:
            *results, signal = results
            signals.append(signal)
        return list(results)

    return run


class Walk:
    """One trajectory of one CFG branch, with the decisions given from outside."""

    def __init__(self, captured: Capture, form: str) -> None:
        self.captured = captured
        self.signals: list[Tensor] = []
        self.state = BranchState(captured.layout, int)
        self.step = 0
        if form in ("conditional", "hoist_predicate"):
            self.run = run_conditional(captured.stages[form])
        else:
            specialized = captured.whole if form == "whole" else captured.split
            assert specialized is not None
            self.run = run_specialized(specialized, self.signals)

    def __call__(self, *call: Tensor, full: bool) -> list[Any]:
        inputs = self.captured.flat(*call)
        with torch.no_grad():
            weights = self.state.weights(self.step)
            outputs = self.run(inputs, self.state.slots, weights, full)
        if full:
            self.state.record(self.step, self.state.full_steps)
        self.state.remember([inputs[i] for i in self.captured.layout.latents])
        self.step += 1
        return outputs


FORMS = ("conditional", "hoist_predicate", "whole", "split")


def count_ops(gm: fx.GraphModule) -> tuple[int, Counter[str]]:
    """Expensive ops, and how often every op occurs; views do not count."""
    expensive, names = 0, Counter[str]()
    for module in gm.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            if node.op == "call_function" and isinstance(
                node.target, torch._ops.OpOverload
            ):
                expensive += is_expensive(node)
                if not is_layout(node):
                    names[str(node.target)] += 1
    return expensive, names


def same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors, or lists of them, are equal bit for bit (NaN included)."""
    if isinstance(a, Tensor):
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(
            a.nan_to_num(), b.nan_to_num()
        )
    return len(a) == len(b) and all(same_bits(*pair) for pair in zip(a, b, strict=True))


def readable(gm: fx.GraphModule) -> str:
    """A graph's code with its submodules, without comments and blank lines."""
    text = gm.print_readable(print_output=False, include_stride=False)
    text = re.sub(r"#.*|;.*", "", text)
    text = re.sub(r"fx_pytree[^\n]*|<lambda>", "", text)
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line) + "\n"
