"""A pipeline of diffusers with tiny random components, and how a user calls it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from denoising import compute_all_steps
from diffusers import AutoencoderKL
from torch import Tensor, nn

import rfc_compile
from rfc_compile.report.explain import Explanation
from rfc_compile.report.statistics import Statistics

STEPS = 12
SEEDS = (0, 7)
INTERVAL = {"inner": "eager", "schedule": "interval", "interval": 3, "warmup": 3}

Result = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One pipeline, called in one way.

    Attributes:
        name: the pipeline's class, with the way of calling it after a dash.
        build: the pipeline.
        call: arguments of the call, the same for every seed, without the generator.
        branches: for every CFG branch, in the order of the calls within a step, the
            steps at which it is called: their number, or first and end.

    """

    name: str
    build: Callable[[], Any]
    call: Callable[[], dict[str, Any]]
    branches: tuple[int | range, ...] = (STEPS,)

    @property
    def steps(self) -> int:
        """Steps of a run: timesteps at which the transformer is called."""
        return max(steps.stop for steps in self.spans)

    @property
    def spans(self) -> list[range]:
        """For every branch, the steps at which it is called."""
        return [
            span if isinstance(span, range) else range(span) for span in self.branches
        ]

    def pipeline(self) -> Any:
        """The pipeline with random weights, no two modules alike."""
        torch.manual_seed(0)
        pipe = self.build()
        for component in pipe.components.values():
            if isinstance(component, nn.Module):
                randomize(component)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, seed: int) -> Result:
        """What one call of the pipeline draws, by name."""
        torch.manual_seed(1)
        call = self.call()
        torch.manual_seed(2)
        generator = torch.Generator().manual_seed(seed)
        result = pipe(generator=generator, **call)
        return {
            name: torch.as_tensor(value)
            for name, value in result.items()
            if value is not None
        }


def randomize(model: nn.Module) -> None:
    """Random weights in place, no two modules alike."""
    model.eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:
            tensor.normal_(0, 0.7 / math.sqrt(math.prod(tensor.shape[1:])))
        elif not name.endswith("weight"):
            tensor.normal_(0, 0.05)


def scheduled(span: range) -> dict[int, bool]:
    """Whether ``INTERVAL`` computes a step in full, for the steps of a branch."""
    return {step: i < 3 or i % 3 == 2 for i, step in enumerate(span)}


def difference(result: Result, other: Result) -> float:
    """The largest relative difference of two results."""
    return max(
        float((result[name] - other[name]).norm() / other[name].norm())
        for name in other
    )


def equal(result: Result, other: Result) -> bool:
    """Whether two results agree bit for bit."""
    return all(torch.equal(result[name], other[name]) for name in other)


def finite(result: Result) -> bool:
    """Whether a result holds ordinary numbers only."""
    return all(bool(value.isfinite().all()) for value in result.values())


def noise(*shape: int) -> Tensor:
    """Random prompt embeddings and the like."""
    return torch.randn(shape)


def tiny_vae(channels: int = 4, levels: int = 1) -> nn.Module:
    """A VAE that makes images ``2 ** (levels - 1)`` times as large as latents."""
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=16,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def compiled(case: Case, options: dict[str, Any]) -> Any:
    """A pipeline of its own, compiled as a user would, in a clean compiler."""
    torch._dynamo.reset()
    rfc_compile.reset()
    pipe = case.pipeline()
    pipe.transformer.compile(backend="rfc", options=options)
    return pipe


@dataclass(frozen=True)
class Runs:
    """What every test of a case looks at.

    Attributes:
        case: the case.
        uncached: results of the pipeline as it is, for both seeds.
        cached: results of one compiled pipeline that ran nothing before, first one
            seed, then the other.
        again: the first seed's result of the same pipeline after them.
        stats: what ``stats`` said after either of the first two runs.
        explanation: what ``explain`` said after all three.
        full: the first seed's result of the same pipeline with every step in full.

    """

    case: Case
    uncached: tuple[Result, Result]
    cached: tuple[Result, Result]
    again: Result
    stats: tuple[Statistics, Statistics]
    explanation: Explanation
    full: Result

    @classmethod
    def of(cls, case: Case) -> Runs:
        """Run a case: one compilation serves all the tests of it."""
        plain = case.pipeline()
        uncached = case.run(plain, SEEDS[0]), case.run(plain, SEEDS[1])
        pipe = compiled(case, INTERVAL)
        cached, stats = [], []
        for seed in SEEDS:
            cached.append(case.run(pipe, seed))
            stats.append(rfc_compile.stats(pipe.transformer))
        again = case.run(pipe, SEEDS[0])
        explanation = rfc_compile.explain(pipe.transformer)
        compute_all_steps(pipe.transformer)
        full = case.run(pipe, SEEDS[0])
        decisions = rfc_compile.stats(pipe.transformer).decisions
        assert decisions
        assert all(decision.full for decision in decisions)
        return cls(
            case,
            uncached,
            (cached[0], cached[1]),
            again,
            (stats[0], stats[1]),
            explanation,
            full,
        )


def per_branch(statistics: Statistics) -> list[dict[int, bool]]:
    """For every branch, the steps at which it was called and whether in full."""
    branches = 1 + max((d.branch for d in statistics.decisions), default=-1)
    return [
        {d.step: d.full for d in statistics.decisions if d.branch == branch}
        for branch in range(branches)
    ]


def table(statistics: Statistics) -> str:
    """Every decision, one a line."""
    return "\n".join(
        f"step {d.step} branch {d.branch} t={d.timestep:.6g} "
        f"{'full' if d.full else 'cached'} ({d.reason})"
        for d in statistics.decisions
    )
