"""What ``explain`` and ``stats`` return, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rfc_compile.passes import Refusal
    from rfc_compile.streams import Streams
    from rfc_compile.trajectories import Decision


@dataclass(frozen=True)
class RegionInfo:
    """A region as ``explain`` shows it.

    Attributes:
        name: ``region_007_attn``.
        kind: ``attention``, ``mlp``, ``attention+mlp`` or ``conv``.
        module: path of the module that holds it.
        inputs: number of inputs I.
        outputs: number of outputs O.
        flops: floating point operations of one execution.
        cache_bytes: state kept for it and for no region before it, for one CFG branch,
            in bytes.

    """

    name: str
    kind: str
    module: str
    inputs: int
    outputs: int
    flops: int
    cache_bytes: int


@dataclass(frozen=True)
class GraphMap:
    """The regions of one graph and where they hang on its residual streams.

    Attributes:
        regions: from top to bottom.
        streams: what they are added to.
        cached: share of the calls that were cached in the newest trajectory, 0 to 1;
            None before the first call.
        errors: for each region, by name, how well the output of the last full step
            would have been predicted from those kept before it (relative, an upper
            bound for cached steps); regions of which too little is kept are left out.

    """

    regions: tuple[RegionInfo, ...]
    streams: Streams
    cached: float | None = None
    errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """What the backend did with a model; ``str()`` gives a table.

    Attributes:
        graphs: graphs that the model was compiled into.
        regions: the regions that are cached.
        coverage: share of all FLOPs inside regions, 0 to 1.
        block_coverage: share of the repeated blocks' FLOPs inside regions, 0 to 1.
        refused: candidates that are not cached.
        fallbacks: why a forward, or steps of it, run uncached.
        timestep: name of the timestep input of each cached graph.
        graph_breaks: why Dynamo cut the forward into several graphs.
        notes: what the runtime learnt about the calls.
        cache_bytes: state kept for one CFG branch of one trajectory, in bytes: that of
            the regions, and the latent and the input that steps are told apart by.
        maps: what ``plot`` draws, one for each graph with regions.

    """

    graphs: int
    regions: tuple[RegionInfo, ...]
    coverage: float
    block_coverage: float
    refused: tuple[Refusal, ...]
    fallbacks: tuple[str, ...]
    timestep: tuple[str, ...]
    graph_breaks: tuple[str, ...]
    notes: tuple[str, ...]
    cache_bytes: int = 0
    maps: tuple[GraphMap, ...] = ()

    def plot(self) -> Figure:
        """The residual streams with the regions, coloured twice.

        By the FLOPs saved in the newest trajectory (before the first one: by a cached
        step), and by the prediction error, where it is known. Needs matplotlib, which
        the extra `demo` has.

        Raises:
            ModuleNotFoundError: there is no matplotlib.

        """
        figure: Figure = _plots().explanation_figure(self)
        return figure

    def __str__(self) -> str:
        """A table of the regions, then refusals and fallbacks."""
        header = ("region", "kind", "module", "in", "out", "MFLOP", "cache KiB")
        rows = [
            (
                region.name,
                region.kind,
                region.module,
                str(region.inputs),
                str(region.outputs),
                f"{region.flops / 1e6:.1f}",
                f"{region.cache_bytes / 1024:.0f}",
            )
            for region in self.regions
        ]
        lines = [
            f"{self.graphs} graph(s), {len(self.regions)} regions, "
            f"{self.coverage:.1%} of FLOPs inside regions, "
            f"{self.cache_bytes / 2**20:.2f} MiB of state per CFG branch",
            *_table([header, *rows] if rows else []),
            *(f"timestep input: {name}" for name in self.timestep),
            *(f"refused: {item.candidate}: {item.reason}" for item in self.refused),
            *(f"uncached: {reason}" for reason in self.fallbacks),
            *(f"graph break: {reason}" for reason in self.graph_breaks),
            *(f"note: {text}" for text in self.notes),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Statistics:
    """A trajectory in numbers.

    Attributes:
        name: the owner: a thread, a task or the name given to ``trajectory``.
        nfc: full computations, over all CFG branches.
        steps: denoising steps so far.
        decisions: one record per call of the model.
        estimator: what predicts the regions at cached steps, all alike: ``taylor 2``.
        cache_bytes: bytes of state held now, over all branches; 0 when finished.
        graph_seconds: time in each graph since it was compiled, in seconds.
        host_seconds: time in the runtime around these graphs, in seconds.
        sketch_error: with ``input_sketch``, the relative standard error of the norm of
            an input's last change, mean over inputs and samples; None without.
        last: the trajectory before this one, None if there was none.
        samples: with ``decide="sample"`` every sample's, in the order in which they
            joined, the last 64 of those that have left among them. The numbers above
            are then sums, ``steps`` the most, and ``branch`` of a decision is the index
            of its sample.

    """

    name: str = ""
    nfc: int = 0
    steps: int = 0
    decisions: tuple[Decision, ...] = ()
    estimator: str = ""
    cache_bytes: int = 0
    graph_seconds: dict[str, float] = field(default_factory=dict)
    host_seconds: float = 0.0
    sketch_error: float | None = None
    last: Statistics | None = None
    samples: tuple[Statistics, ...] = ()

    def plot(self) -> Figure:
        """The prediction error and the decisions, with their reasons, step by step.

        Needs matplotlib, which the extra `demo` has.

        Raises:
            ModuleNotFoundError: there is no matplotlib.

        """
        figure: Figure = _plots().statistics_figure(self)
        return figure

    def __str__(self) -> str:
        """One line of totals, then how often each reason decided."""
        reasons: dict[str, int] = {}
        for decision in self.decisions:
            kind = "full" if decision.full else "cached"
            label = f"{kind} ({decision.reason})"
            reasons[label] = reasons.get(label, 0) + 1
        counts = ", ".join(f"{count} {label}" for label, count in reasons.items())
        error = self.sketch_error
        sketch = "" if error is None else f"; sketch error {error:.1%}"
        held = f"{self.cache_bytes / 2**20:.2f} MiB of state"
        return (
            f"{self.steps} steps, {self.nfc} full of {len(self.decisions)} calls: "
            f"{counts or 'none yet'}; {held}{sketch}"
        )


def _plots() -> ModuleType:
    """The module that draws; only there is matplotlib imported."""
    try:
        return import_module("rfc_compile.plots")
    except ModuleNotFoundError as error:
        package, *_ = (error.name or "").split(".")
        raise ModuleNotFoundError(
            f"plot() needs {package}: pip install 'rfc-compile[demo]'", name=package
        ) from error


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
