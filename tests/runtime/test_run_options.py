"""A run asks for full steps of its own: `trajectory(name, target_nfc=..., ...)`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from denoising import compiled, run, small_glyph, steps_of
from serving import GlyphRequest, step
from torch import Tensor

import rfc_compile
from rfc_compile import OptionError
from rfc_compile.config.options import Options
from rfc_compile.config.run_options import RunOptions

STEPS = 20
BY = pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "interval", "interval": 3},
        {"threshold": 0.6},
        {"target_nfc": 6},
    ],
    ids=["error_control", "interval", "rcs", "even"],
)


def drawn(model: Any, name: str = "a", seed: int = 0, **asked: Any) -> Tensor:
    with rfc_compile.trajectory(name, num_steps=STEPS, **asked):
        return run(model, steps=STEPS, seed=seed)


@BY
@pytest.mark.parametrize(
    "asked", [{"target_nfc": 9}, {"tolerance": 0.05}, {"preset": "fast"}, {"off": True}]
)
def test_a_run_equals_one_of_a_model_with_these_options(
    options: dict[str, Any], asked: dict[str, Any]
) -> None:
    """What it asks for ends with it, and nothing is compiled anew."""
    model = compiled(**options)
    before = drawn(model)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = drawn(model, **asked)
        stats = rfc_compile.stats(model)
        again = drawn(model)
    assert torch.equal(before, again)
    own = RunOptions(**asked).applied_to(Options.from_mapping(options))
    names = ("schedule", "interval", "preset", "tolerance", "min_psnr", "target_nfc")
    given = {name: getattr(own, name) for name in (*names, "threshold")}
    alone = {name: value for name, value in given.items() if value is not None}
    assert torch.equal(found, drawn(compiled(**alone)))
    assert stats.nfc == {"target_nfc": 9, "off": STEPS}.get(*asked, stats.nfc)


def test_every_step_full_is_the_model_itself() -> None:
    found = drawn(compiled(), off=True)
    assert torch.equal(found, run(small_glyph(), steps=STEPS))


def test_runs_side_by_side_ask_for_different_things() -> None:
    model = compiled()
    asked: dict[str, dict[str, Any]] = {
        "left": {"target_nfc": 5},
        "right": {"off": True},
        "middle": {"preset": "quality"},
    }
    walks = {name: steps_of(model, seed=i) for i, name in enumerate(asked)}
    last: dict[str, Tensor] = {}
    for _ in range(STEPS):
        for name, walk in walks.items():
            with rfc_compile.trajectory(name, num_steps=STEPS, **asked[name]):
                last[name] = next(walk)
    for i, (name, own) in enumerate(asked.items()):
        assert torch.equal(last[name], drawn(compiled(), seed=i, **own)), name


def test_rows_of_a_batch_have_what_they_began_with() -> None:
    """A sample that joins the batch later keeps its own."""
    options = {"inner": "eager", "per_sample": True, "target_nfc": 6}
    model = torch.compile(small_glyph(), backend="rfc", options=options, dynamic=True)
    requests = [GlyphRequest(3 + i, seed=i, steps=STEPS) for i in range(4)]
    with rfc_compile.trajectory("server", num_steps=STEPS, target_nfc=10):
        step(model, requests[:2])
    with rfc_compile.trajectory("server", num_steps=STEPS):
        while waiting := [one for one in requests if not one.finished]:
            step(model, waiting)
    counts = [sample.nfc for sample in rfc_compile.stats(model).samples]
    assert sorted(counts) == [6, 6, 10, 10]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target_nfc": 0}, "target_nfc=0"),
        ({"preset": "best"}, "preset='best'.*balanced"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"min_psnr": 0.0, "tolerance": 0.02}, "tolerance=0.02 and min_psnr=0.0"),
        ({"min_psnr": "high"}, "min_psnr='high'"),
        ({"off": 1}, "off=1"),
        ({"target_nfc": 5, "off": True}, "target_nfc=5 and off=True exclude"),
        ({"target_speedup": 2, "preset": "fast"}, "preset='fast' and target_speedup=2"),
    ],
)
def test_wrong_values_are_told_at_once(asked: dict[str, Any], message: str) -> None:
    with (
        pytest.raises(OptionError, match=message),
        rfc_compile.trajectory("a", **asked),
    ):
        raise AssertionError("the block was entered")


def test_what_the_model_forbids_is_told_by_its_call() -> None:
    """Nothing is lost for the others."""
    model = compiled(warmup=4)
    before = drawn(model)
    with pytest.raises(OptionError, match=r"target_nfc=3 is less than warmup=4"):
        drawn(model, target_nfc=3)
    assert torch.equal(drawn(model), before)
