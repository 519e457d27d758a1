"""One compiled pipeline, used for whatever comes: nothing carries over."""

from __future__ import annotations

from typing import Any

from pipelines import ALL
from pipelines.base import (
    INTERVAL,
    STEPS,
    Case,
    Result,
    compiled,
    equal,
    per_branch,
    scheduled,
    table,
)
from pipelines.guidance import ALL as GUIDED

import rfc_compile


def with_call(case: Case, **changes: Any) -> Case:
    """The case with other arguments of the pipeline's call."""
    return Case(
        case.name, case.build, lambda: {**case.call(), **changes}, case.branches
    )


def fresh(case: Case, seed: int) -> Result:
    """What a pipeline gives that ran nothing before."""
    return case.run(compiled(case, INTERVAL), seed)


def stopped_after(steps: int) -> Any:
    """A callback that interrupts the pipeline."""

    def callback(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> Any:
        if step == steps - 1:
            pipe._interrupt = True
        return given

    return callback


def test_sizes_may_alternate() -> None:
    """The second size makes Dynamo compile once more, with symbolic sizes."""
    cases = [
        with_call(ALL["PixArtSigmaPipeline"], height=s, width=s) for s in (64, 96, 64)
    ]
    pipe = compiled(cases[0], INTERVAL)
    results = []
    for seed, case in enumerate(cases):
        results.append(case.run(pipe, seed))
        statistics = rfc_compile.stats(pipe.transformer)
        expected = [scheduled(span) for span in case.spans]
        assert per_branch(statistics) == expected, table(statistics)
    assert equal(results[2], fresh(cases[2], 2))


def test_the_same_seed_draws_the_same_again() -> None:
    case = ALL["WanPipeline"]
    pipe = compiled(case, INTERVAL)
    first, second, third = (case.run(pipe, seed) for seed in (3, 3, 3))
    assert equal(first, second)
    assert equal(second, third)


def test_interrupted_runs_leave_no_trace() -> None:
    """The next run starts below the timestep at which the one before broke off."""
    case = GUIDED["StableDiffusion3Img2ImgPipeline"]
    weaker = with_call(case, strength=0.25, num_inference_steps=48)
    pipe = compiled(case, INTERVAL)
    results = []
    for steps in (1, 4, 9):
        callback = stopped_after(steps)
        with_call(case, callback_on_step_end=callback).run(pipe, 0)
        assert rfc_compile.stats(pipe.transformer).steps == steps
        results.append(weaker.run(pipe, 1))
        assert rfc_compile.stats(pipe.transformer).steps == STEPS
    expected = fresh(weaker, 1)
    assert all(equal(result, expected) for result in results)


def test_runs_of_one_step_do_not_pile_up() -> None:
    """Distilled models: every run calls the transformer once, at one timestep."""
    case = with_call(ALL["FluxPipeline"], num_inference_steps=1)
    pipe, plain = compiled(case, INTERVAL), case.pipeline()
    held = []
    for seed in range(12):
        assert equal(case.run(pipe, seed), case.run(plain, seed))
        held.append(rfc_compile.stats(pipe.transformer).cache_bytes)
    assert max(held) <= 8 * held[0]
