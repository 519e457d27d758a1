"""Trajectories: every run gets what a fresh process would give it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, full_calls, guided_steps, run, small_glyph
from denoising import steps_of as latents
from torch import Tensor

import rfc_compile

STATIC = {"schedule": "interval", "interval": 3, "warmup": 2}
DYNAMIC = {"threshold": 0.6, "warmup": 3}
BOTH = pytest.mark.parametrize("options", [STATIC, DYNAMIC], ids=["static", "dynamic"])


_fresh: dict[str, Tensor] = {}
_models: dict[str, Any] = {}


def fresh(options: dict[str, Any], **settings: Any) -> Tensor:
    """The result of a run on a model of its own that has kept nothing."""
    key = repr((options, settings))
    if key not in _fresh:
        if repr(options) not in _models:
            _models[repr(options)] = compiled(**options)
        model = _models[repr(options)]
        rfc_compile.reset(model)
        _fresh[key] = run(model, **settings)
    return _fresh[key]


def mixed(model: Any) -> bool:
    """Whether the current run held both full and cached steps."""
    kinds = {decision.full for decision in rfc_compile.stats(model).decisions}
    return kinds == {True, False}


@pytest.mark.parametrize(
    ("scheduler", "calls"), [("ddim", 50), ("dpmpp_2m", 50), ("heun", 99)]
)
def test_one_graph_no_breaks_no_recompiles(scheduler: str, calls: int) -> None:
    """A step is a call: Heun has two for all but the last of its own."""
    model = compiled(**DYNAMIC)
    run(model, scheduler=scheduler, steps=2)
    full_before = full_calls(model)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (0, 7):
            run(model, scheduler=scheduler, steps=50, seed=seed)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    stats = rfc_compile.stats(model)
    assert stats.steps == calls
    assert stats.last is not None
    assert stats.nfc + stats.last.nfc == full_calls(model) - full_before
    assert mixed(model)


@BOTH
@pytest.mark.parametrize("first", [0, 8])
def test_an_abandoned_run_leaves_no_trace(options: dict[str, Any], first: int) -> None:
    """The next run has another seed and may start in the middle (img2img)."""
    model = compiled(**options)
    expected = fresh(options, seed=50, first=first)
    for abandoned_after in (1, 2, 5, 19):
        rfc_compile.reset(model)
        abandoned = latents(model, seed=1)
        for _ in range(abandoned_after):
            next(abandoned)
        result = run(model, seed=50, first=first)
        torch.testing.assert_close(result, expected, **EXACT)


@BOTH
def test_an_exception_in_the_loop_leaves_no_trace(options: dict[str, Any]) -> None:
    model = compiled(**options)

    def interrupted() -> None:
        for step, _ in enumerate(latents(model, seed=1)):
            if step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(run(model, seed=2), fresh(options, seed=2))


@BOTH
def test_back_to_back_runs_are_independent(options: dict[str, Any]) -> None:
    """Other seeds, batch sizes, numbers of steps, timestep ranges, samplers."""
    runs: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2, "steps": 12},
        {"seed": 3, "labels": torch.tensor([1, 4, 7])},
        {"seed": 4, "first": 6},
        {"seed": 4, "scheduler": "dpmpp_2m"},
        {"seed": 1},
    ]
    model = compiled(**options)
    results = [run(model, **settings) for settings in runs]
    for result, settings in zip(results, runs, strict=True):
        torch.testing.assert_close(result, fresh(options, **settings), **EXACT)


EXACT = {"rtol": 0, "atol": 1e-5}
"""Batches of another size may be computed with other kernels, so not bit for bit."""


@BOTH
def test_guidance_by_two_calls_gives_two_branches(options: dict[str, Any]) -> None:
    model = compiled(**options)
    *_, first = guided_steps(model, seed=3)
    decisions = rfc_compile.stats(model).decisions
    assert [d.branch for d in decisions] == [0, 1] * 20
    assert mixed(model)
    *_, again = guided_steps(model, seed=3)
    assert torch.equal(first, again)


@BOTH
@pytest.mark.parametrize("kept", ["cond", "empty"])
def test_a_branch_that_is_dropped_late_is_not_mixed_up(
    options: dict[str, Any], kept: str
) -> None:
    """After step 9 only one of the two calls is made, whichever it is."""
    model = compiled(**options)
    runs = guided_steps(
        model, seed=3, order=lambda s: ("cond", "empty") if s < 10 else (kept,)
    )
    for _ in runs:
        pass
    late = [d for d in rfc_compile.stats(model).decisions if d.step >= 10]
    expected = {"cond": 0, "empty": 1}[kept]
    if {d.branch for d in late} != {expected}:  # static: it may only start anew
        assert options is STATIC
        assert rfc_compile.stats(model).decisions[0].reason == "conditioning"


@BOTH
def test_interleaved_runs_with_names(options: dict[str, Any]) -> None:
    model = compiled(**options)

    def named(name: str, **settings: Any) -> Iterator[Tensor]:
        steps = latents(model, **settings)
        while True:
            with rfc_compile.trajectory(name):
                value = next(steps, None)
            if value is None:
                return
            yield value

    a, b = named("a", seed=1), named("b", seed=9, scheduler="dpmpp_2m")
    last_a = [next(a) for _ in range(3)][-1]
    for last_b in b:  # noqa: B007
        last_a = next(a, last_a)
    assert torch.equal(last_a, fresh(options, seed=1))
    assert torch.equal(last_b, fresh(options, seed=9, scheduler="dpmpp_2m"))


@BOTH
def test_interleaved_runs_without_names_are_right(options: dict[str, Any]) -> None:
    """In step they look like CFG branches; out of step they start anew."""
    model = compiled(**options)
    a, b = latents(model, seed=1), latents(model, seed=9)
    for last_a, last_b in zip(a, b, strict=True):  # noqa: B007
        pass
    assert torch.equal(last_a, fresh(options, seed=1))
    assert torch.equal(last_b, fresh(options, seed=9))


@BOTH
def test_two_models_of_one_class_do_not_share_state(options: dict[str, Any]) -> None:
    """Dynamo may run one compiled code for both: the state follows the weights."""
    one, two = small_glyph(), small_glyph()
    with torch.no_grad():
        two.proj_out_2.weight.mul_(0.5)
        two.transformer_blocks[0].ff.net[2].weight.mul_(1.5)
    expected = [run(compiled(m, **options), seed=4) for m in (one, two)]
    torch._dynamo.reset()
    a, b = (latents(compiled(m, **options), seed=4) for m in (one, two))
    for last_a, last_b in zip(a, b, strict=True):  # noqa: B007
        pass
    assert torch.equal(last_a, expected[0])
    assert torch.equal(last_b, expected[1])


@BOTH
def test_threads_do_not_mix(options: dict[str, Any]) -> None:
    model = compiled(**options)
    run(model, steps=3)
    results: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        results[seed] = run(model, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 9):
        torch.testing.assert_close(results[seed], fresh(options, seed=seed), **EXACT)


@BOTH
def test_another_prompt_in_the_middle_starts_anew(options: dict[str, Any]) -> None:
    """The latent changes smoothly, the class does not: nothing kept may be used."""
    model = compiled(**options)
    steps = latents(model, seed=1)
    for _ in range(8):
        x = next(steps)
    inputs = {"timestep": torch.tensor(500).expand(2), "class_labels": LABELS + 1}
    with torch.no_grad():
        other = model(x, **inputs).sample
        plain = small_glyph()(x, **inputs).sample
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-6)
    assert rfc_compile.stats(model).decisions[-1].reason == "conditioning"


@BOTH
@pytest.mark.parametrize("named", [True, False])
def test_other_latents_start_anew_unless_the_run_is_told(
    named: bool, options: dict[str, Any]
) -> None:
    """Somebody exchanges them between two steps; a named run is never split."""
    model, plain = compiled(**options), small_glyph()
    with contextlib.ExitStack() as stack:
        if named:
            stack.enter_context(rfc_compile.trajectory("named", num_steps=20))
        steps = latents(model, seed=1)
        for _ in range(8):
            next(steps)
        inputs = {"timestep": torch.tensor(560).expand(2), "class_labels": LABELS}
        noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            ours, exact = (f(noise, **inputs).sample for f in (model, plain))
    stats = rfc_compile.stats(model)
    if named:
        assert stats.steps == 9
        return
    assert torch.equal(ours, exact)
    assert (stats.steps, stats.decisions[-1].reason) == (1, "new_run")
    assert stats.last is not None
    assert stats.last.steps == 8
    *_, last = steps  # while the image continues
    assert torch.equal(last, fresh(options, seed=1))
    assert rfc_compile.stats(model).steps == 20


@pytest.mark.parametrize("ahead", [1, 3, 9])
def test_a_latent_that_is_explained_is_the_next_step(ahead: int) -> None:
    """However far the timestep moves: a sampler may leave steps out."""
    model = compiled(schedule="interval", interval=3)
    steps = latents(model, seed=1)
    for _ in range(8):
        x = next(steps)
    time = torch.tensor(600 - 50 * ahead).expand(2)
    with torch.no_grad():
        model(x, timestep=time, class_labels=LABELS)
    stats = rfc_compile.stats(model)
    assert (stats.steps, stats.last) == (9, None)


def test_a_latent_at_an_earlier_timestep_is_another_image() -> None:
    """A run does not go back in time (img2img on its own result, say)."""
    model, plain = compiled(**STATIC), small_glyph()
    steps = latents(model, seed=1)
    for _ in range(8):
        x = next(steps)
    given = {"timestep": torch.tensor(950).expand(2), "class_labels": LABELS}
    with torch.no_grad():
        ours, exact = (denoise(x, **given).sample for denoise in (model, plain))
    assert torch.equal(ours, exact)
    assert rfc_compile.stats(model).decisions[0].reason == "new_run"


def test_reset_drops_the_state_and_keeps_the_graphs() -> None:
    model = compiled(**DYNAMIC)
    result = run(model, seed=1)
    rfc_compile.reset(model)
    assert rfc_compile.stats(model).decisions == ()
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(run(model, seed=1), result)


def test_dynamo_reset_drops_the_state() -> None:
    model = compiled(**DYNAMIC)
    steps = latents(model, seed=1)
    next(steps)
    assert rfc_compile.stats(model).steps == 1
    torch._dynamo.reset()
    assert rfc_compile.stats(model).steps == 0


def test_the_state_of_a_run_that_is_over_is_freed_in_the_next() -> None:
    model = compiled(**DYNAMIC)
    for seed in range(4):
        run(model, seed=seed)
        last = rfc_compile.stats(model).last
        assert last is None or last.cache_bytes == 0
        held = rfc_compile.stats(model).cache_bytes
        assert held >= rfc_compile.explain(model).cache_bytes > held / 2


def test_final_steps_are_full_where_the_length_is_told() -> None:
    model = compiled(**{**STATIC, "interval": 4, "final_full": 2})
    with rfc_compile.trajectory("named", num_steps=20):
        run(model)
    last = rfc_compile.stats(model).decisions[-2:]
    assert [(d.full, d.reason) for d in last] == [(True, "final")] * 2
    run(model)
    assert not rfc_compile.stats(model).decisions[-1].full


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    labels = torch.tensor([2, 5, 9])
    together = fresh(STATIC, seed=10, labels=labels)
    for i in range(3):
        alone = fresh(STATIC, seed=10 + i, labels=labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-4)


def test_names_of_trajectories_are_checked() -> None:
    with (
        pytest.raises(ValueError, match="num_steps=0"),
        rfc_compile.trajectory("x", num_steps=0),
    ):
        pass
