"""Random networks, schedules and trajectories, through ``torch.compile``.

Runs one after another in one compiled model: other noise, prompts, lengths, timesteps,
numbers of guidance branches; some are abandoned. Each gives the images of a model that
has kept nothing, and its full steps those of the inner backend alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fuzzing import fuzz
from hypothesis import assume, note
from hypothesis import strategies as st
from models import text_tokens, timesteps
from random_models import ANY_RECIPES, Recipe, random_model
from torch import Tensor

import rfc_compile

COMMON = {"min_coverage": 0.0, "timestep": "t", "corrector": "off"}
SCHEDULES = st.one_of(
    st.fixed_dictionaries(
        {
            "threshold": st.sampled_from([0.0, 0.05, 0.2, 1.0]),
            "warmup": st.integers(1, 3),
        }
    ),
    st.fixed_dictionaries(
        {
            "schedule": st.just("interval"),
            "interval": st.integers(1, 4),
            "warmup": st.integers(1, 3),
        }
    ),
    st.fixed_dictionaries(
        {
            "schedule": st.just("mask"),
            "full_steps": st.lists(st.integers(0, 9), min_size=1, unique=True),
            "max_cached_run": st.none() | st.integers(1, 4),
        }
    ),
)
PREDICTIONS = st.sampled_from(
    [
        {},
        {"granularity": "block"},
        {"granularity": "module"},
        {"granularity": "module", "estimator": "rfe", "order": 1},
        {"granularity": "block", "estimator": "reuse"},
        {"estimator": "subspace", "order": 3, "time": "step"},
    ]
)


@dataclass(frozen=True)
class Run:
    """One run of a sampler.

    Attributes:
        seed: of its noise and prompts.
        steps: of the whole run.
        stops: the step before which it is abandoned; may be beyond its end.
        branches: calls of every step, each with a prompt of its own.
        times: ``down`` from 1000, ``part`` of the way down, or ``up`` from 0 to 1.

    """

    seed: int
    steps: int
    stops: int
    branches: int
    times: str

    def timestep(self, step: int) -> float:
        """Of a step, as the model takes it."""
        share = step / self.steps
        if self.times == "up":
            return share
        return 1000.0 - 900.0 * share if self.times == "down" else 500.0 - 400.0 * share


RUNS = st.lists(
    st.builds(
        Run,
        seed=st.integers(0, 10),
        steps=st.integers(1, 10),
        stops=st.integers(1, 20),
        branches=st.sampled_from((1, 1, 2, 3)),
        times=st.sampled_from(("down", "part", "up")),
    ),
    min_size=1,
    max_size=4,
)


def draw(
    denoise: Callable[..., Any],
    recipe: Recipe,
    run: Run,
    after: Callable[[tuple[Tensor, ...], Any], None] = lambda call, result: None,
) -> list[Tensor]:
    """The latents after every step; ``after`` is called after each."""
    x = recipe.latent(100 * run.seed)
    latents = []
    for step in range(min(run.steps, run.stops)):
        moves = []
        for branch in range(run.branches):
            call = x, timesteps(run.timestep(step)), text_tokens(run.seed + 50 * branch)
            with torch.no_grad():
                result = denoise(*call)
            after(call, result)
            moves.append(first(result))
        move = sum(moves) / len(moves)
        x = x - 0.1 * move * (x.abs().mean() / move.abs().mean())
        latents.append(x)
    return latents


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


@fuzz(
    5,
    recipe=ANY_RECIPES,
    seed=st.integers(0, 1000),
    schedule=SCHEDULES,
    predicting=PREDICTIONS,
    inner=st.sampled_from(("eager", "eager", "aot_eager")),
    runs=RUNS,
)
def test_runs_are_those_of_a_model_that_has_kept_nothing(
    recipe: Recipe,
    seed: int,
    schedule: dict[str, Any],
    predicting: dict[str, Any],
    inner: str,
    runs: list[Run],
) -> None:
    torch._dynamo.reset()
    model = random_model(recipe, seed)
    options = {**COMMON, **schedule, **predicting, "inner": inner}
    rfc = torch.compile(model, backend="rfc", options=options)
    alone = torch.compile(random_model(recipe, seed), backend=inner)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rfc_compile.UncachedWarning)
        # the only branch of some networks is a single linear map
        warnings.filterwarnings("ignore", ".*no region found")
        warnings.filterwarnings("ignore", ".*no cached step .reason: threshold")

        def check(call: tuple[Tensor, ...], result: Any) -> None:
            decisions = rfc_compile.stats(rfc).decisions
            assume(decisions)
            if decisions[-1].full:
                with torch.no_grad():
                    assert torch.equal(first(result), first(alone(*call)))

        found = [draw(rfc, recipe, run, check) for run in runs]
        for run, latents in zip(runs, found, strict=True):
            rfc_compile.reset(rfc)
            for mine, fresh in zip(latents, draw(rfc, recipe, run), strict=True):
                assert torch.equal(mine, fresh), run
    note(str(rfc_compile.explain(rfc)))
    assert rfc_compile.explain(rfc).graphs == 1
