"""Guidance that changes from step to step: its scale, its branches, its prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from denoising import full_calls
from torch import Tensor

import rfc_compile
from rfc_compile import BudgetWarning, UncachedWarning
from rfc_compile.tools.measure.glyph_dit import EMPTY_CLASS, GLYPH_DIT, initial_noise
from rfc_compile.tools.measure.metrics import psnr

STEPS = 28
LABELS, OTHERS = torch.tensor([3]), torch.tensor([8])
EMPTY = torch.tensor([EMPTY_CLASS])
Guide = Callable[[int, Callable[[Tensor], Tensor]], Tensor]
"""(step, labels -> output) -> the guided output."""


@pytest.fixture(scope="module")
def model() -> Any:
    options = {"inner": "eager"}
    return torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options=options
    )


@torch.no_grad()
def drawn(denoise: Any, guide: Guide) -> Tensor:
    sampler = GLYPH_DIT.make_scheduler("ddim", STEPS)
    x = initial_noise(1, 0)
    for step, t in enumerate(sampler.timesteps):

        def output(labels: Tensor) -> Tensor:
            batch = x.repeat(len(labels), 1, 1, 1)  # noqa: B023
            time = t.expand(len(labels))  # noqa: B023
            return denoise(batch, timestep=time, class_labels=labels).sample

        x = sampler.step(guide(step, output), t, x).prev_sample
    return x.clamp(-1, 1)


def compared(model: Any, guide: Guide, *, named: bool = False) -> float:
    rfc_compile.reset(model)
    run = rfc_compile.trajectory("run", num_steps=STEPS) if named else nullcontext()
    with run:
        found = drawn(model, guide)
    return float(psnr(found, drawn(GLYPH_DIT.load(), guide)))


@pytest.mark.parametrize("scale", [3.0, 7.5])
def test_a_scale_that_alternates_repays_nothing(model: Any, scale: float) -> None:
    """The factor of an output is another one at every step."""

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond, empty = output(LABELS), output(EMPTY)
        return empty + (scale if step % 2 == 0 else 1.0) * (cond - empty)

    assert compared(model, guide) > 30
    known = rfc_compile.stats(model)
    assert known is not None
    assert known.nfc < 0.6 * len(known.decisions)
    assert not any(made.repaid for made in known.decisions)


@pytest.mark.parametrize("reused", [True, False], ids=["kept", "without"])
def test_guidance_at_every_other_step(model: Any, reused: bool) -> None:
    """Both branches are full where the second one is due, and cached between."""
    difference = torch.zeros(())

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal difference
        cond = output(LABELS)
        if step % 2 == 0:
            difference = cond - output(EMPTY)
        return cond + 2 * difference if reused or step % 2 == 0 else cond

    assert compared(model, guide) > 40
    known = rfc_compile.stats(model)
    assert known is not None
    cached = {made.step % 2 for made in known.decisions[-20:] if not made.full}
    assert cached == {1}


@pytest.mark.parametrize("steps", [range(STEPS), range(1, 12)], ids=["all", "some"])
@pytest.mark.parametrize("named", [True, False])
def test_a_third_call_of_another_batch_size(
    model: Any, named: bool, steps: range
) -> None:
    """Two prompts in one batch and a third one alone are decided together."""

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond, empty = output(torch.cat([LABELS, EMPTY])).chunk(2)
        v = empty + 2 * (cond - empty)
        return v + cond - output(OTHERS) if step in steps else v

    assert compared(model, guide, named=named) > 33
    known = rfc_compile.stats(model)
    assert known is not None
    assert known.nfc < 0.6 * STEPS


@pytest.mark.parametrize("guided", [True, False])
def test_prompts_that_take_turns_are_full_and_told(guided: bool) -> None:
    model = torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options={"inner": "eager"}
    )

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        if not guided:
            return output(OTHERS if step % 2 else LABELS)
        empty = output(EMPTY)
        return empty + 2 * (output(OTHERS if step % 2 else LABELS) - empty)

    told = nullcontext() if guided else pytest.warns(UncachedWarning, match="take turn")
    expected = drawn(GLYPH_DIT.load(), guide)
    with told:  # at the latest when the next run begins
        for _ in range(2):
            with rfc_compile.trajectory("run", num_steps=STEPS):
                images = drawn(model, guide)
            known = rfc_compile.stats(model)
            assert known is not None
            assert len(known.decisions) == STEPS * (2 if guided else 1)
            assert all(made.full for made in known.decisions if made.step > 3)
            assert float(psnr(images, expected)) > 40


PATTERNS = {
    "two of three": lambda step: step % 3 != 2,
    "pairs": lambda step: step % 4 < 2,
    "no pattern": lambda step: (step * 7) % 11 < 5,
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("named", [True, False])
def test_guidance_at_some_steps(model: Any, named: bool, pattern: str) -> None:
    difference = torch.zeros(())

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal difference
        cond = output(LABELS)
        if PATTERNS[pattern](step):
            difference = cond - output(EMPTY)
        return cond + 2 * difference

    assert compared(model, guide, named=named) > 32


@pytest.mark.parametrize("named", [True, False])
def test_a_batch_of_prompts_at_every_other_step(model: Any, named: bool) -> None:
    """Calls of other shapes are another run: it has the steps of the first one."""
    difference = torch.zeros(())

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        nonlocal difference
        cond = output(LABELS)
        if step % 2 == 0:
            others = output(torch.cat([EMPTY, OTHERS]))
            difference = cond - others.mean(0, keepdim=True)
        return cond + 2 * difference

    assert compared(model, guide, named=named) > 35


@pytest.mark.parametrize("named", [True, False])
def test_guidance_that_begins_late_is_full_twice(model: Any, *, named: bool) -> None:
    """Until then one branch is predicted from one output, the other from several."""
    first = 3

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond = output(LABELS)
        return cond if step < first else cond + 2 * (cond - output(EMPTY))

    assert compared(model, guide, named=named) > 37
    known = rfc_compile.stats(model)
    assert known is not None
    second = [made for made in known.decisions if made.step == first + 1]
    assert [(made.full, made.reason) for made in second] == [(True, "skipped")] * 2
    assert known.nfc < 0.55 * len(known.decisions)


def test_a_named_run_that_repeats_a_call_is_one_run(model: Any) -> None:
    """From a later step on, as by a guider whose perturbation has no effect."""

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond, empty = output(LABELS), output(EMPTY)
        again = output(LABELS) if step > 1 else cond
        return empty + 2 * (cond - empty) + (cond - again)

    assert compared(model, guide, named=True) > 29
    known = rfc_compile.stats(model)
    assert known is not None
    assert len(known.decisions) == 3 * STEPS - 2
    assert known.nfc < 0.55 * len(known.decisions)


def test_a_prompt_that_changes_at_every_step_is_not_late(model: Any) -> None:
    """Its branch takes the place of the last one's: as many calls as before."""

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        empty, cond = output(EMPTY), output(torch.tensor([step % 9]))
        return empty + 2 * (cond - empty)

    assert compared(model, guide) > 30
    known = rfc_compile.stats(model)
    assert known is not None
    assert known.nfc < 0.8 * len(known.decisions)
    assert not any(made.reason == "skipped" for made in known.decisions)


@pytest.mark.parametrize("named", [True, False])
def test_prompts_that_change_at_first_leave_full_steps_for_the_rest(
    model: Any, named: bool
) -> None:
    """They took all of an even spread, and nothing was full from then on."""
    changing = 14

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond = output(torch.tensor([min(step, changing) % 9]))
        return cond + 2 * (cond - output(EMPTY))

    assert compared(model, guide, named=named) > 30
    known = rfc_compile.stats(model)
    assert known is not None
    rest = [made.full for made in known.decisions if made.step > changing]
    assert 0.1 < sum(rest) / len(rest) < 0.6


def test_a_target_that_prompts_have_used_up_is_told() -> None:
    options = {"inner": "eager", "target_nfc": 6}
    model = torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options=options
    )

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        cond = output(torch.tensor([min(step, 10) % 9]))
        return cond + 2 * (cond - output(EMPTY))

    with pytest.warns(BudgetWarning, match="target_nfc is exceeded, and no full step"):
        compared(model, guide, named=True)


def test_a_branch_that_is_new_at_every_step_takes_no_full_step_of_others() -> None:
    """An unconditional prompt that is noise (UniDiffuser): its calls are all full."""
    options = {"inner": "eager", "target_nfc": 8}
    model = torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options=options
    )

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        others = [label for label in range(9) if label not in LABELS]
        cond, other = output(LABELS), output(torch.tensor([others[step % 8]]))
        return other + 2 * (cond - other)

    with pytest.warns(UncachedWarning, match="new prompt or other") as told:
        assert compared(model, guide, named=True) > 29
    assert not any(issubclass(one.category, BudgetWarning) for one in told)
    known = rfc_compile.stats(model)
    assert known is not None
    of_prompt = [made.full for made in known.decisions if made.branch == 0]
    assert (len(of_prompt), sum(of_prompt)) == (STEPS, 8)
    assert len(known.decisions) == 2 * STEPS


@pytest.mark.parametrize("guided", [range(17), range(6, 20)], ids=["start", "middle"])
@pytest.mark.parametrize("named", [True, False])
def test_a_target_over_guidance_in_a_part_of_the_run(
    named: bool, guided: range
) -> None:
    """Batches of two are runs of another graph, which go on with the count."""
    torch.compiler.reset()
    options = {"inner": "eager", "target_nfc": 8}
    model: Any = torch.compile(
        GLYPH_DIT.load(), backend="rfc", dynamic=False, options=options
    )

    def guide(step: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        if step not in guided:
            return output(LABELS)
        cond, empty = output(torch.cat([LABELS, EMPTY])).chunk(2)
        return empty + 2 * (cond - empty)

    assert compared(model, guide, named=named) > 28
    assert full_calls(model) in (8, 9)
