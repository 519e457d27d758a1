"""Copies from the device to the host: how many a step waits for, and that bits stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from denoising import compiled, guided_steps, run, small_glyph, steps_of
from torch import Tensor

import rfc_compile
from rfc_compile.runtime import readback

SCHEDULES = {
    "error_control": {},
    "rcs": {"threshold": 0.3, "max_cached_run": 6},
    "interval": {"schedule": "interval", "interval": 3},
}
by_schedule = pytest.mark.parametrize(
    "options", SCHEDULES.values(), ids=list(SCHEDULES)
)


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


def decisions_of(model: Any) -> list[tuple[int, int, float, bool, str]]:
    return [
        (d.step, d.branch, d.timestep, d.full, d.reason)
        for d in rfc_compile.stats(model).decisions
    ]


@by_schedule
def test_a_distant_device_gives_the_same_image(options: dict[str, Any]) -> None:
    near = compiled(small_glyph(), **options)
    image = run(near)
    with pytest.MonkeyPatch.context() as patch:
        link = Link()
        patch.setattr(readback, "on_host", lambda value: False)
        patch.setattr(readback, "copy_to_host", link.copy)
        far = compiled(small_glyph(), **options)
        assert torch.equal(run(far), image)
    assert link.started == len(link.waited) > 0
    assert decisions_of(far) == decisions_of(near)


START = 2
"""Steps of a run that also look for rows of one latent."""


@by_schedule
def test_a_step_copies_once_for_its_place(options: dict[str, Any], link: Link) -> None:
    """And a full one once more, where its prediction's error is measured."""
    model = compiled(small_glyph(), **options)
    counts = []
    for _ in steps_of(model):
        counts.append(link.started)
    steps = [b - a for a, b in pairwise(counts)]
    made = rfc_compile.stats(model).decisions
    expected = [1 + (d.true_error is not None) for d in made[1:]]
    assert steps[START - 1 :] == expected[START - 1 :]
    assert {1, 2} == set(expected[START - 1 :])
    assert all(d.full for d in made if d.true_error is not None)
    assert link.waited == list(range(1, link.started + 1))


def test_a_run_that_is_not_corrected_measures_nothing(link: Link) -> None:
    model = compiled(small_glyph(), corrector="off", **SCHEDULES["interval"])
    counts = []
    for _ in steps_of(model):
        counts.append(link.started)
    assert counts[-1] - counts[START - 1] == len(counts) - START


def test_guidance_by_two_calls_copies_once_a_call(link: Link) -> None:
    model = compiled(small_glyph(), corrector="off", **SCHEDULES["interval"])
    counts = []
    for _ in guided_steps(model):
        counts.append(link.started)
    assert counts[-1] - counts[START - 1] == 2 * (len(counts) - START)


def test_readback_returns_bits(link: Link) -> None:
    values = [
        torch.tensor([1.5, float("nan"), -0.0]),
        torch.tensor(7, dtype=torch.int64),
        torch.tensor([[0.1, 0.2]], dtype=torch.bfloat16),
        torch.tensor([1e-300], dtype=torch.float64),
    ]
    arrival = readback.Readback(values)
    for before, after in zip(values, arrival.values(), strict=True):
        assert after.dtype == before.dtype
        torch.testing.assert_close(
            after, before.reshape(-1), rtol=0, atol=0, equal_nan=True
        )
    assert link.started == 1
