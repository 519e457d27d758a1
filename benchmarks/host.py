"""What the runtime costs the host at a step, in microseconds, at 60 regions.

A DiT of 30 blocks and 580 parameters, so small that its graphs hardly count: behind
inductor, whose graphs leave the processor's caches as those of a real model do. The
time around the graphs is `stats().host_seconds`; Dynamo's own guards are not in it.
"""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

import rfc_compile
from benchmarks.report import Grid, console, save
from rfc_compile import glyph

TARGET: Final = 100.0
"""Microseconds a step."""

_BLOCKS: Final = 30
_CHANGE: Final = 1e-3
_WARMUP: Final = 12
_SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "interval": {"schedule": "interval", "interval": 4, "max_cached_run": None},
    "rcs, sync": {"threshold": 1e9, "max_cached_run": 3},
    "rcs, lagged": {"threshold": 1e9, "max_cached_run": 3, "decision": "lagged"},
}


@dataclass(frozen=True)
class HostCost:
    """Microseconds around the graphs of single steps.

    Attributes:
        setting: of the schedule.
        regions: of the model.
        parameters: tensors that a call passes.
        microseconds: of every step timed.

    """

    setting: str
    regions: int
    parameters: int
    microseconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of the steps."""
        return statistics.median(self.microseconds)


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
    return model.eval().requires_grad_(False).to(glyph.default_device())


@torch.no_grad()
def measure(setting: str, steps: int) -> HostCost:
    """The host's time at each of these steps of one trajectory."""
    torch.compiler.reset()
    model = _model()
    ours = torch.compile(model, backend="rfc", options=_SETTINGS[setting])
    generator = torch.Generator().manual_seed(0)
    device = glyph.default_device()
    start, direction = (
        torch.randn(2, 4, 8, 8, generator=generator).to(device) for _ in range(2)
    )
    labels = torch.arange(2, device=device)

    def call(k: int) -> float:
        latent: Tensor = start + k * _CHANGE * direction
        timestep = torch.full((2,), 999 - k, device=device)
        ours(latent, timestep=timestep, class_labels=labels)
        return rfc_compile.stats(ours).host_seconds

    *_, before = [call(k) for k in range(_WARMUP)]
    regions = len(rfc_compile.explain(ours).regions)
    cost = HostCost(setting, regions, len(list(model.parameters())))
    for k in range(_WARMUP, _WARMUP + steps):
        after = call(k)
        cost.microseconds.append(1e6 * (after - before))
        before = after
    torch.compiler.reset()
    return cost


def run(*, quick: bool) -> None:
    """Measure, print and write `results/host.json` and `host.md`."""
    costs = []
    for setting in _SETTINGS:
        console.print(f"measuring {setting}")
        costs.append(measure(setting, 40 if quick else 400))
    rows = []
    for cost in costs:
        low, _, high = statistics.quantiles(cost.microseconds, n=4)
        numbers = [cost.median, low, high]
        rows.append([cost.setting, *(f"{number:.0f}" for number in numbers)])
    title = (
        f"The host's time at a step, {costs[0].regions} regions, "
        f"{costs[0].parameters} parameters"
    )
    grid = Grid(title, ["schedule", "median us", "quartile 1", "quartile 3"], rows)
    grid.show()
    verdicts = [
        f"{cost.setting}: {cost.median:.0f} us a step (target {TARGET:.0f}): "
        f"{'met' if cost.median <= TARGET else 'missed'}"
        for cost in costs
    ]
    console.print("\n".join(verdicts), highlight=False)
    save(
        "host",
        "What the runtime costs the host",
        {"costs": [asdict(cost) for cost in costs]},
        [grid.markdown(), *(f"- {line}" for line in verdicts)],
    )
