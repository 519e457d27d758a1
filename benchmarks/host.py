"""What the runtime costs the host at a step, in microseconds, at 60 regions.

A small DiT of 30 blocks and 576 parameters, its graphs run by the eager inner backend.
The time is that of `stats().host_seconds`: Dynamo's own guards are not in it.
It is measured twice: with every graph replaced by the results it gave before, which is
the runtime's own work, and behind graphs that run on the host, whose memory traffic
empties the processor's caches. Graphs on an accelerator do so less. Then, alone again,
the parts of it that take the most.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final
from unittest import mock

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

import rfc_compile
from benchmarks.report import Grid, console, save, show
from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.runtime.dispatcher import Dispatcher
from rfc_compile.runtime.model_forward import ModelForward
from rfc_compile.runtime.parameter_versions import ParameterVersions
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.runtime.session_table import SessionTable
from rfc_compile.runtime.state import BranchState
from rfc_compile.tools.measure import glyph_dit

TARGET: Final = 100.0
"""Microseconds a step."""

PARTS: Final[dict[str, tuple[type, str]]] = {
    "whose call it is": (SessionTable, "key"),
    "versions of the parameters": (ParameterVersions, "read"),
    "addresses of the state": (BranchState, "unusable"),
    "picking a graph's inputs": (Dispatcher, "_run"),
    "recording the step": (Dispatcher, "_accept"),
    "of that, of full steps, turning the rings": (BranchState, "record"),
    "telling graphs that follow": (ModelForward, "add"),
}
"""What is timed by itself: the methods that do it."""

_BLOCKS: Final = 30
_CHANGE: Final = 1e-3
_WARMUP: Final = 12
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "interval": {"schedule": "interval", "interval": 4, "max_cached_run": None},
    "spread, sync": {"threshold": 1e9, "max_cached_run": 3},
    "rcs, sync": {"schedule": "rcs", "threshold": 1e9, "max_cached_run": 3},
    "rcs, lagged": {
        "schedule": "rcs",
        "threshold": 1e9,
        "max_cached_run": 3,
        "decision": "lagged",
    },
}


@dataclass(frozen=True)
class HostCost:
    """Microseconds around the graphs of single steps.

    Attributes:
        setting: of the schedule.
        regions: of the model.
        parameters: tensors that a call passes.
        alone: of every step timed, the graphs replaced by their results.
        behind_graphs: of every step timed, the graphs run on the host.
        parts: of ``PARTS``, each time that they ran, alone.

    """

    setting: str
    regions: int
    parameters: int
    alone: list[float] = field(default_factory=list)
    behind_graphs: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def row(self) -> list[str]:
        """One line of the table."""
        columns = [self.alone, self.behind_graphs]
        quartiles = [statistics.quantiles(values, n=4) for values in columns]
        texts = [f"{q[1]:.0f} [{q[0]:.0f}, {q[2]:.0f}]" for q in quartiles]
        return [self.setting, *texts]


class _Recorded(LazyGraph):
    """Gives what a graph gave at its last step, at once."""

    def __init__(self, graph: LazyGraph) -> None:
        self.__dict__.update(graph.__dict__)
        self._graph = graph
        self._results: Sequence[Any] | None = None

    def __call__(self, *arguments: Any) -> Sequence[Any]:
        start = time.perf_counter()
        if self._results is None:
            self._results = self._graph(*arguments)
        self.seconds += time.perf_counter() - start
        return self._results


@contextmanager
def _timed_parts() -> Iterator[dict[str, list[float]]]:
    """Time every one of ``PARTS``, in microseconds, while it runs."""
    times: dict[str, list[float]] = {name: [] for name in PARTS}

    def timed(method: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        @functools.wraps(method)
        def measured(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = method(*arguments, **named)
            into.append(1e6 * (time.perf_counter() - start))
            return result

        return measured

    with ExitStack() as patches:
        for name, (owner, method) in PARTS.items():
            replaced = timed(getattr(owner, method), times[name])
            patches.enter_context(mock.patch.object(owner, method, replaced))
        yield times


def _host_seconds(dispatcher: Dispatcher) -> float:
    """As in `stats`, which would empty the caches between two steps."""
    graphs = dispatcher.graphs.values()
    inside = sum(graph.seconds + graph.compile_seconds for graph in graphs)
    return dispatcher.seconds - inside


def _model() -> nn.Module:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=_BLOCKS,
        sample_size=8,
        patch_size=2,
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1000,
    )
    return model.eval().requires_grad_(False).to(glyph_dit.default_device())


@torch.no_grad()
def measure(setting: str, steps: int) -> HostCost:
    """The host's time at each of these steps of one trajectory."""
    torch.compiler.reset()
    model = _model()
    options = {**_SETTINGS[setting], "granularity": "module", "inner": "eager"}
    ours = torch.compile(model, backend="rfc", options=options)
    generator = torch.Generator().manual_seed(0)
    device = glyph_dit.default_device()
    start, direction = (
        torch.randn(2, 4, 8, 8, generator=generator).to(device) for _ in range(2)
    )
    labels = torch.arange(2, device=device)

    def call(k: int) -> float:
        latent: Tensor = start + k * _CHANGE * direction
        timestep = torch.full((2,), 999 - k, device=device)
        before = sum(map(_host_seconds, dispatchers))
        ours(latent, timestep=timestep, class_labels=labels)
        return 1e6 * (sum(map(_host_seconds, dispatchers)) - before)

    numbers = itertools.count()
    dispatchers: list[Dispatcher] = []
    for k in islice(numbers, _WARMUP):
        call(k)
    (dispatcher,) = dispatchers = dispatchers_of(model)
    regions = len(rfc_compile.explain(ours).regions)
    cost = HostCost(setting, regions, len(list(model.parameters())))
    cost.behind_graphs.extend(map(call, islice(numbers, steps)))
    for name, graph in dispatcher.graphs.items():
        dispatcher.graphs[name] = _Recorded(graph)
    for k in islice(numbers, _WARMUP):
        call(k)
    cost.alone.extend(map(call, islice(numbers, steps)))
    with _timed_parts() as parts:
        for k in islice(numbers, steps):
            call(k)
    cost.parts.update(parts)
    torch.compiler.reset()
    return cost


def run(*, quick: bool) -> None:
    """Measure, print and write `results/host.json` and `host.md`."""
    costs = []
    for setting in _SETTINGS:
        console.print(f"measuring {setting}")
        costs.append(measure(setting, 40 if quick else 400))
    title = (
        f"The host's time at a step, {costs[0].regions} regions, "
        f"{costs[0].parameters} parameters"
    )
    header = ["schedule", "us alone: median [quartiles]", "behind graphs"]
    grid = Grid(title, header, [cost.row() for cost in costs])
    show(grid)
    parts = Grid(
        "Parts of it, median us each time that they run",
        ["part", *_SETTINGS],
        [
            [name, *(f"{statistics.median(cost.parts[name]):.1f}" for cost in costs)]
            for name in PARTS
        ],
    )
    show(parts)
    verdicts = [
        f"{cost.setting}: {median:.0f} us a step alone (target {TARGET:.0f}): "
        f"{'met' if median <= TARGET else 'missed'}"
        for cost in costs
        for median in [statistics.median(cost.alone)]
    ]
    console.print("\n".join(verdicts), highlight=False)
    save(
        "host",
        "What the runtime costs the host",
        {"costs": [asdict(cost) for cost in costs]},
        [grid.markdown(), parts.markdown(), *(f"- {line}" for line in verdicts)],
    )
