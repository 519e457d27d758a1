"""When the host looks at a step's signal: in the step, after it, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from denoising import LABELS, compiled, guided_steps, run, small_glyph, steps_of
from torch import Tensor

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime import readback
from rfc_compile.runtime.call_context import begin_run
from rfc_compile.runtime.run_boundaries import end_run

BY_STEP = {"warmup": 2, "time": "step"}
"""Noise levels would let only the second run go on unseen."""
RCS = {**BY_STEP, "threshold": 0.3, "max_cached_run": 6}
STATIC = {**BY_STEP, "schedule": "interval", "interval": 3}
LAGGED = {**RCS, "decision": "lagged"}


@dataclass
class Link:
    """A slow way to the host: a copy is there when somebody waits for it."""

    started: int = 0
    waited: list[int] = field(default_factory=list)

    def copy(self, packed: Tensor) -> tuple[Tensor, Any]:
        self.started += 1
        return packed.clone(), Copy(self, self.started)


@dataclass
class Copy:
    link: Link
    number: int

    def query(self) -> bool:
        return self.number in self.link.waited

    def synchronize(self) -> None:
        if self.number not in self.link.waited:
            self.link.waited.append(self.number)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    """Every tensor counts as one of an accelerator."""
    slow = Link()
    monkeypatch.setattr(readback, "on_host", lambda value: False)
    monkeypatch.setattr(readback, "copy_to_host", slow.copy)
    return slow


@pytest.fixture
def announced() -> Iterator[None]:
    number = begin_run()
    yield
    end_run(number)


def decisions_of(model: Any) -> list[tuple[int, int, float, bool, str]]:
    return [
        (d.step, d.branch, d.timestep, d.full, d.reason)
        for d in rfc_compile.stats(model).decisions
    ]


def near(**options: Any) -> tuple[Tensor, list[Any]]:
    """A run on a device whose memory the host sees, in a process of its own."""
    model = compiled(small_glyph(), **options)
    image = run(model)
    decisions = decisions_of(model)
    rfc_compile.reset(model)
    return image, decisions


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[Tensor, list[Any]]]:
    settings = {"rcs": RCS, "static": STATIC, "lagged": LAGGED}
    return {name: near(**options) for name, options in settings.items()}


def test_lagged_goes_by_the_error_of_the_step_before() -> None:
    model = compiled(small_glyph(), **LAGGED)
    run(model)
    error, last, run_length = 0.0, 0.0, 0
    decisions = rfc_compile.stats(model).decisions
    for d in decisions:
        if d.step >= 2:  # after warm-up
            due = error + last > RCS["threshold"]
            assert d.full == (due or run_length >= RCS["max_cached_run"]), d
        last = 0.0 if d.full or d.statistic is None else d.statistic
        error = 0.0 if d.full else error + last
        run_length = 0 if d.full else run_length + 1
    assert 3 < sum(d.full for d in decisions) < len(decisions)


def test_lagged_differs_from_sync(expected: dict[str, Any]) -> None:
    assert expected["lagged"][1] != expected["rcs"][1]


@pytest.mark.parametrize("name", ["rcs", "static", "lagged"])
def test_a_distant_device_gives_the_same_image(
    name: str, link: Link, expected: dict[str, Any]
) -> None:
    options = {"rcs": RCS, "static": STATIC, "lagged": LAGGED}[name]
    model = compiled(small_glyph(), **options)
    image = run(model)
    assert torch.equal(image, expected[name][0])
    assert decisions_of(model) == expected[name][1]


def test_a_dynamic_step_copies_once(link: Link) -> None:
    model = compiled(small_glyph(), **RCS)
    for step, _ in enumerate(steps_of(model)):
        assert link.started == step  # the first step has nothing to compare with
        assert len(link.waited) == step


def test_guidance_by_two_calls_copies_once_a_call(link: Link) -> None:
    near_image = list(guided_steps(compiled(small_glyph(), **RCS)))[-1]
    model = compiled(small_glyph(), **RCS)
    before = link.started
    *_, image = guided_steps(model)
    assert torch.equal(image, near_image)
    decisions = rfc_compile.stats(model).decisions
    fresh = 2  # calls that began a branch
    # while one branch is known, the other's first call is taken for its next step
    assert len(decisions) - fresh <= link.started - before <= len(decisions)


def test_an_announced_static_run_waits_for_nothing(
    link: Link, announced: None, expected: dict[str, Any]
) -> None:
    model = compiled(small_glyph(), **STATIC)
    image = run(model)
    many = len(expected["static"][1]) - 2  # two steps are looked at
    assert link.started == many
    from_far_back = [n for n in link.waited if n > many - 8]
    assert not from_far_back
    assert torch.equal(image, expected["static"][0])
    assert decisions_of(model) == expected["static"][1]
    assert len(link.waited) == many  # stats looked at all


def test_a_static_run_that_nobody_announces_is_looked_at(link: Link) -> None:
    model = compiled(small_glyph(), **STATIC)
    run(model)
    assert link.started == 0  # the timestep and the signal are read at once


def test_an_announced_lagged_run_waits_for_the_step_before(
    link: Link, announced: None, expected: dict[str, Any]
) -> None:
    model = compiled(small_glyph(), **LAGGED)
    unseen = 0
    for _, _ in enumerate(steps_of(model)):
        if link.started and link.started not in link.waited:
            unseen += 1  # the newest copy was not waited for
            assert all(n in link.waited for n in range(1, link.started))
    assert unseen == len(expected["lagged"][1]) - 2
    assert decisions_of(model) == expected["lagged"][1]


@pytest.mark.parametrize("options", [STATIC, LAGGED], ids=["static", "lagged"])
def test_noise_levels_are_foreseen_by_the_run_before(
    options: dict[str, Any], link: Link
) -> None:
    """The default: a first run waits for its timesteps, the next one for nothing."""
    model = compiled(small_glyph(), **{**options, "time": "noise"})
    images, unseen = [], []
    for _ in range(2):
        number, waited_not = begin_run(), 0
        for image in steps_of(model):  # noqa: B007
            waited_not += link.started > 0 and link.started not in link.waited
        images.append(image)
        unseen.append(waited_not)
        end_run(number)
    assert unseen == [0, 20 - 2]
    assert torch.equal(*images)
    stats = rfc_compile.stats(model)
    assert stats.last is not None
    assert {d.full for d in stats.decisions} == {True, False}
    full = [[d.full for d in run.decisions] for run in (stats.last, stats)]
    assert full[0] == full[1]


def test_another_prompt_in_an_announced_run_is_told(
    link: Link, announced: None
) -> None:
    """It shows only afterwards: a warning, and what follows is right."""
    model = compiled(small_glyph(), **LAGGED)
    other = LABELS.flip(0)
    calls = 0

    def denoise(x: Tensor, **inputs: Tensor) -> Any:
        nonlocal calls
        calls += 1
        changed = inputs if calls <= 8 else {**inputs, "class_labels": other}
        return model(x, **changed)

    with pytest.warns(UncachedWarning, match="announced run"):
        run(denoise)
    stats = rfc_compile.stats(model)
    assert stats.last is not None
    assert stats.last.decisions[-1].reason == "conditioning"
    assert (stats.last.steps, stats.steps) == (9, 11)
    reasons = rfc_compile.explain(model).fallbacks
    assert any("its image is wrong" in reason for reason in reasons)


def test_weights_that_change_in_an_announced_run_begin_anew(
    link: Link, announced: None
) -> None:
    base = small_glyph()
    model = compiled(base, **STATIC)
    for step, _ in enumerate(steps_of(model)):
        if step == 9:
            with torch.no_grad():
                next(iter(base.parameters())).mul_(1.01)
    stats = rfc_compile.stats(model)
    assert stats.decisions[0].reason == "weights"
    assert stats.last is not None
    assert (stats.last.steps, stats.steps) == (10, 10)


def test_readback_returns_bits(link: Link) -> None:
    values = [
        torch.tensor([1.5, float("nan"), -0.0]),
        torch.tensor(7, dtype=torch.int64),
        torch.tensor([[0.1, 0.2]], dtype=torch.bfloat16),
        torch.tensor([1e-300], dtype=torch.float64),
    ]
    arrival = readback.Readback(values)
    assert not arrival.ready
    for before, after in zip(values, arrival.values(), strict=True):
        assert after.dtype == before.dtype
        torch.testing.assert_close(
            after, before.reshape(-1), rtol=0, atol=0, equal_nan=True
        )
    assert arrival.ready
    assert link.started == 1


def test_decision_records_are_completed(link: Link, announced: None) -> None:
    model = compiled(small_glyph(), **STATIC)
    run(model)
    decisions = rfc_compile.stats(model).decisions
    assert all(d.statistic is not None for d in decisions[1:])
    times = [d.timestep for d in decisions]
    assert times == sorted(times, reverse=True)
