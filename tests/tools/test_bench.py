"""The benchmark against rivals: its numbers by formula, its methods, its times."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rfc_compile import Options
from rfc_compile.config.options import GRANULARITIES
from rfc_compile.dynamo_frames import CompileCounts
from rfc_compile.tools.bench import frechet, quality, session, timing
from rfc_compile.tools.bench.frechet import frechet_distance
from rfc_compile.tools.bench.methods import METHODS, reference
from rfc_compile.tools.bench.methods.base import SETTINGS, Applied, Method, describe
from rfc_compile.tools.bench.quality import run_eagerly
from rfc_compile.tools.bench.records import TARGETS, Quality, Records
from rfc_compile.tools.bench.tables import grids
from rfc_compile.tools.bench.workloads import (
    GLYPH,
    REPORT_SEED,
    SELECTION_SEED,
    STEPS,
    Step,
    Workload,
)
from rfc_compile.tools.measure.pareto import dominates, dominators, front

OURS = "rfc, stack"


# the numbers


def test_a_point_dominates_if_it_is_nowhere_worse() -> None:
    assert dominates((2, 3), (2, 2))
    assert not dominates((2, 3), (2, 3))
    assert not dominates((3, 1), (2, 2))
    points = [("a", (1.0, 5.0)), ("b", (2.0, 4.0)), ("c", (1.5, 3.0))]
    assert [name for name, _ in front(points)] == ["a", "b"]
    assert dominators((1.5, 3.0), points) == ["b"]


def test_equal_points_both_stay_on_the_front() -> None:
    assert len(front([("a", (1.0, 1.0)), ("b", (1.0, 1.0))])) == 2


def test_the_frechet_distance_is_that_of_normal_distributions() -> None:
    torch.manual_seed(0)
    values = torch.randn(4000, 3)
    assert frechet_distance(values, values) == pytest.approx(0, abs=1e-6)
    moved = values + torch.tensor([1.0, 0.0, 2.0])
    assert frechet_distance(values, moved) == pytest.approx(5, abs=1e-5)
    scaled = values * torch.tensor([3.0, 1.0, 1.0])
    first = values[:, 0].double()
    expected = (2 * first.mean()).square() + (2 * first.std()).square()
    assert frechet_distance(values, scaled) == pytest.approx(expected.item(), rel=2e-2)


def test_the_frechet_distance_takes_fewer_images_than_features() -> None:
    torch.manual_seed(0)
    few = torch.randn(4, 16)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert math.isfinite(frechet_distance(few, torch.randn(4, 16)))


def test_the_classifier_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "_TRAINING_STEPS", 3)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    first, second = (frechet.train(images, labels) for _ in range(2))
    state = torch.random.get_rng_state()
    frechet.train(images, labels)
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_classifier_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frechet, "_TRAINING_STEPS", 3)
    monkeypatch.setattr(frechet, "_CHUNK", 10)
    path = tmp_path / "classifier.safetensors"
    first = frechet.load_classifier(path, 10, 2)
    monkeypatch.setattr(frechet, "train", None)
    second = frechet.load_classifier(path, 10, 2)
    images = torch.rand(2, 3, 32, 32)
    assert first.body(images).shape == (2, frechet.FEATURES)
    assert torch.equal(first.body(images), second.body(images))


# the methods


def schedule(interval: int, first_full: int) -> list[int]:
    run = reference._Run(interval, first_full, order=1)
    run.begin()
    full = []
    for step in range(50):
        run.advance(step)
        full += [step] * run.full
    return full


def test_the_reference_schedules_are_those_of_the_papers() -> None:
    assert schedule(4, first_full=2)[:5] == [0, 1, 5, 9, 13]
    counts = [len(schedule(n, first_full=2)) for n in range(3, 10)]
    assert counts == [18, 14, 11, 10, 8, 8, 7]
    assert schedule(4, first_full=1) == list(range(0, 50, 4))


def test_the_reference_divides_every_order_by_the_last_gap() -> None:
    run = reference._Run(interval=3, first_full=2, order=2)
    values = {0: 1.0, 1: 2.0, 4: 11.0}
    module = reference._CachedModule(lambda step: torch.tensor(values[step]), run)
    for step in (0, 1):
        run.advance(step)
        module(step)
    run.advance(2)
    assert module(2).item() == 2 + 1  # one change so far
    run.advance(4)
    module(4)
    slope, before = (11 - 2) / 3, 1.0
    curvature = (slope - before) / 3
    run.advance(6)
    assert module(6).item() == pytest.approx(11 + 2 * slope + 2 * curvature)


def test_the_reference_restarts_with_a_run() -> None:
    run = reference._Run(interval=9, first_full=1, order=0)
    run.advance(0)
    run.begin()
    run.advance(3)
    assert run.full


def nfc(name: str, setting: dict[str, object], steps: int = 6) -> float:
    _, found = run_eagerly(METHODS[name], GLYPH, setting, 1, steps)
    return found


def test_nfc_is_the_work_in_the_blocks() -> None:
    assert nfc("uncached", {}) == 6
    setting = {"interval": 3, "order": 0, "first_full": 1}
    assert nfc("FORA, reference", setting) == 2
    always = nfc("FirstBlockCache (diffusers)", {"threshold": 1e9})
    assert always == pytest.approx(1 + 5 / 12)  # the first block runs at every step


def test_our_nfc_is_that_of_the_decisions() -> None:
    options = {"schedule": "interval", "interval": 3, "warmup": 1}
    assert nfc(OURS, options, steps=20) == 7
    count = nfc(OURS, {"target_nfc": 5}, steps=20)  # the first run knows num_steps
    assert count == 5


RUNS = [
    (name, method.sweep[0])
    for name, method in METHODS.items()
    if method.rival and "cache-dit" not in name
]


@pytest.mark.parametrize(("name", "setting"), RUNS, ids=[name for name, _ in RUNS])
def test_a_rival_runs_and_caches(name: str, setting: dict[str, object]) -> None:
    images, work = run_eagerly(METHODS[name], GLYPH, setting, 1, STEPS)
    assert images.isfinite().all()
    assert 8 <= work < 49


def test_a_second_run_of_a_rival_is_the_same() -> None:
    method = METHODS["TaylorSeerCache (diffusers)"]
    applied = method.apply(GLYPH.make(), GLYPH, method.sweep[0], "eager")
    first, second = [], []
    for images in (first, second):
        applied.begin()
        images.append(GLYPH.draw(applied.denoise, 1, 10, SELECTION_SEED))
    assert torch.equal(first[0], second[0])


def test_every_setting_has_its_own_line() -> None:
    for method in METHODS.values():
        lines = [describe(setting) for setting in method.sweep]
        assert len(set(lines)) == len(lines)
    assert describe({}) == "default"


def test_nobody_has_more_settings_to_choose_from_than_the_rivals() -> None:
    for method in METHODS.values():
        only_intervals = method.name == "FORA, reference"
        if method.rival and not only_intervals:
            assert len(method.sweep) == SETTINGS, method.name
        if method.ours:
            assert len(method.sweep) == SETTINGS, method.name
    fora = METHODS["FORA, reference"].sweep
    assert len({setting["interval"] for setting in fora}) == len(fora)


def test_our_settings_follow_one_rule_at_every_granularity() -> None:
    sweeps = [
        [
            {name: value for name, value in setting.items() if name != "granularity"}
            for setting in method.sweep
        ]
        for method in METHODS.values()
        if method.ours
    ]
    assert len(sweeps) == len(GRANULARITIES)
    assert all(sweep == sweeps[0] for sweep in sweeps)
    wanted = [s["target_nfc"] for s in sweeps[0] if "target_nfc" in s]
    assert wanted == list(TARGETS)
    for method in METHODS.values():
        for setting in method.sweep if method.ours else ():
            granularity = Options.from_mapping(setting).granularity
            assert method.name == f"rfc, {granularity}"


def test_the_two_sets_of_images_share_no_noise() -> None:
    for first, second in ((SELECTION_SEED, REPORT_SEED), (REPORT_SEED, 50_000)):
        assert first + session.FULL.images <= second


def broken(*_: object) -> Applied:
    raise RuntimeError("no such\nmodel")


def test_a_method_that_fails_is_listed_with_its_error() -> None:
    method = Method("broken", broken, [{}])
    judge = quality.Judge(0, torch.zeros(1, 3, 32, 32), frechet.Classifier())
    error = quality.measure_quality(method, GLYPH, {}, judge, 2)
    run = timing.measure_time(
        method, GLYPH, {}, "eager", images=1, steps=2, repeats=1, nfc=1.0
    )
    assert error == run.error == "RuntimeError: no such"
    records = Records(1, [Quality("broken", "default", error=error)], [run])
    (errors,) = grids(records)
    assert [row[3] for row in errors.rows] == [error] * 2


# timing


def test_kept_memory_is_what_lives_between_steps() -> None:
    kept: list[torch.Tensor] = []

    def denoise(step: Step, x: torch.Tensor, /, **inputs: torch.Tensor) -> torch.Tensor:
        torch.randn(1000)  # gone when the step is over
        kept.append(torch.zeros(250))
        return torch.zeros_like(x)

    def draw(denoise: object, images: int, steps: int, seed: int) -> torch.Tensor:
        x = torch.zeros(1)
        for index in range(steps):
            denoise(Step(index, steps, 0.0, 0.0), x)  # type: ignore[operator]
        return x

    workload = Workload("w", nn.Identity, draw, trained=False, modules=())
    applied = Applied(denoise, begin=kept.clear)
    found = timing._kept_bytes(workload, applied, 1, 10)
    assert 9000 <= found < 9200  # nine tensors of 1000 bytes, and the latents


def test_breaks_and_recompiles_are_counted() -> None:
    def function(x: torch.Tensor, y: int) -> torch.Tensor:
        x = x + y
        torch._dynamo.graph_break()
        return x * y

    counts = CompileCounts()
    compiled = torch.compile(function, backend="eager", dynamic=False)
    compiled(torch.ones(2), 1)
    assert counts.since() == (1, 0)
    compiled(torch.ones(2), 2)
    breaks, recompiles = counts.since()
    assert breaks >= 1
    assert recompiles == 2  # both halves
