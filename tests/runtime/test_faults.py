"""Faults: each gives the uncached image, a reason, and a next run that is clean.

docs/RELIABILITY.md lists them, with those that other tests show.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import faulty
import pytest
import torch
from faulty import (
    DYNAMIC,
    LARGE,
    SCHEDULES,
    STATIC,
    STEPS,
    TEXT,
    InterruptAt,
    Watched,
    at,
    little_memory,
)
from models import text_tokens, timesteps, tokens
from torch import Tensor

import rfc_compile
from rfc_compile import UncachedWarning
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.runtime.state import geometry_of

NAN, INF = float("nan"), float("inf")
AFTER = 4
"""Steps of the run in the midst of which something goes wrong."""

SHAPING_STEPS = (0, 1, AFTER, AFTER + 1)
"""The first of a run, the first with a history, and later a full and a cached one."""

by_schedule = pytest.mark.parametrize(
    "options", SCHEDULES.values(), ids=list(SCHEDULES)
)
by_form = pytest.mark.parametrize(
    ("form", "options"),
    [("whole", STATIC), ("whole", DYNAMIC), ("blocks", STATIC)],
    ids=["static", "dynamic", "blocks"],
)


@pytest.fixture(autouse=True)
def only_expected_warnings() -> Iterator[None]:
    """A fault that nothing is said of must not be one for the runtime."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UncachedWarning)
        yield


def one(value: Tensor, broken: float) -> Tensor:
    """The tensor with its first number broken."""
    value = value.clone()
    value.view(-1)[0] = broken
    return value


NOT_FINITE = "holds NaN or Inf"
PlacedStep = tuple[Tensor, Tensor, Tensor]
CALLS: dict[str, tuple[Callable[[Tensor, Tensor], PlacedStep], str]] = {
    "timestep nan": (lambda x, t: (x, t * NAN, TEXT), "non_finite"),
    "a timestep inf": (lambda x, t: (x, one(t, INF), TEXT), "non_finite"),
    "inf and -inf": (
        lambda x, t: (x, t * torch.tensor([INF, -INF]), TEXT),
        "non_finite",
    ),
    "text nan": (lambda x, t: (x, t, one(TEXT, NAN)), "non_finite"),
    "text inf": (lambda x, t: (x, t, one(TEXT, INF)), "conditioning"),
    "text zero": (lambda x, t: (x, t, 0 * TEXT), "conditioning"),
    "text huge": (lambda x, t: (x, t, TEXT * 1e20), "conditioning"),
    "latent zero": (lambda x, t: (0 * x, t, TEXT), "non_finite"),
    "one latent zero": (
        lambda x, t: (torch.stack([x[0], 0 * x[1]]), t, TEXT),
        "non_finite",
    ),
    "latent too large": (lambda x, t: (x * 1e38, t, TEXT), "non_finite"),
    "latent constant": (lambda x, t: (torch.ones_like(x), t, TEXT), "new_run"),
}
"""Name, how it breaks the latent and the timesteps of a call, the decision's reason."""


@by_schedule
def test_one_broken_call(options: dict[str, Any]) -> None:
    """Computed in full, for a reason; the run continues without it."""
    watched = Watched(**options)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UncachedWarning)
        for case, (broken, reason) in CALLS.items():
            x = watched.begin(AFTER)
            watched(*broken(x, at(AFTER)))
            assert (watched.kinds[-1], watched.reason) == ("F", reason), case
            watched.run(x=x, first=AFTER)
            watched.check_clean()
    (warning,) = [w for w in seen if w.category is UncachedWarning]
    assert NOT_FINITE in str(warning.message)
    assert NOT_FINITE in watched.uncached_reasons


@by_schedule
def test_the_same_input_at_every_step(options: dict[str, Any]) -> None:
    """A sampler moves the latent: a call that does not belongs to no run."""
    watched = Watched(**options)
    for step in range(4):
        watched(tokens(), at(step))
    with pytest.warns(UncachedWarning, match="4 runs in a row"):
        watched(tokens(), at(4))
    for step in range(5, STEPS):
        watched(tokens(), at(step))
    assert watched.kinds == "F" * STEPS
    assert watched.reason == "new_run"
    watched.check_clean()


@by_schedule
def test_a_prompt_exchanged_in_every_run(options: dict[str, Any]) -> None:
    """Once a run is no change at every step, which alone would not be looked at."""
    watched = Watched(**options)
    for seed in range(5):
        x, other = watched.begin(AFTER, seed=5 + seed), text_tokens(seed)
        x = x - 0.03 * watched(x, at(AFTER), other)
        assert (watched.kinds[-1], watched.reason) == ("F", "conditioning")
        watched(x, at(AFTER + 1), other)
    assert "changes" not in str(rfc_compile.explain(watched.rfc).notes)
    watched.check_clean()


@by_schedule
def test_a_prompt_that_changed_at_every_step(options: dict[str, Any]) -> None:
    """It is left out of the comparison only for as long as it changes."""
    watched = Watched(**options)
    x = tokens(5)
    for step in range(STEPS):
        x = x - 0.03 * watched(x, at(step), TEXT + 1e-3 * step)
    assert "changes at every step" in str(rfc_compile.explain(watched.rfc).notes)
    assert "C" in watched.kinds
    watched(watched.begin(AFTER), at(AFTER), text_tokens(0))
    assert (watched.kinds[-1], watched.reason) == ("F", "conditioning")
    watched.check_clean()


TIMESTEPS: dict[str, list[float]] = {
    "repeated": [19, 19, 18, 18, 17, 17, 16, 16, 15, 15],
    "all the same": [7] * 10,
    "unsorted": [19, 12, 16, 3, 18, 17, 15, 14, 1, 2],
    "fractions": [1 - step / 10 for step in range(10)],
    "negative": [-step for step in range(10)],
    "through zero": [4 - step for step in range(10)],
    "rising": [step * 0.1 for step in range(10)],
    "tiny differences": [0.5 - step * 1e-7 for step in range(10)],
    "largest": [3e38 / (step + 1) for step in range(10)],
}


@by_schedule
def test_odd_timesteps(options: dict[str, Any]) -> None:
    """Whatever they are, full steps are exact, cached ones close, the rest is clean."""
    watched = Watched(**options)
    for number, values in enumerate(TIMESTEPS.values()):
        x = tokens(20 + number)
        for value in values:
            x = x - 0.03 * watched(x, timesteps(value))
        watched.check_clean()
    assert not watched.uncached_reasons


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
def test_timesteps_of_any_type(dtype: torch.dtype) -> None:
    watched = Watched(**STATIC)
    x = tokens(5)
    for step in range(STEPS):
        x = x - 0.03 * watched(x, at(step).to(dtype))
    assert watched.kinds == "FFCCFCCFC"


def break_weights(watched: Watched) -> None:
    with torch.no_grad():
        watched.model.blocks[1].mlp[0].weight[0] = NAN


@by_schedule
def test_broken_weights_are_repaired_within_a_run(options: dict[str, Any]) -> None:
    watched = Watched(**options)
    good = copy.deepcopy(watched.model.state_dict())
    x = watched.begin(AFTER)
    break_weights(watched)
    assert watched(x, at(AFTER)).isnan().any()
    assert watched.reason == "weights"
    watched.model.load_state_dict(good)
    watched.run(x=x, first=AFTER)
    assert watched.kinds[AFTER + 1] == "F"
    assert not watched.uncached_reasons
    watched.check_clean()


@by_schedule
def test_weights_broken_from_the_start(options: dict[str, Any]) -> None:
    watched = Watched(**options)
    good = copy.deepcopy(watched.model.state_dict())
    break_weights(watched)
    with pytest.warns(UncachedWarning, match=NOT_FINITE):
        assert watched.run().isnan().any()
    assert watched.kinds == "F" * STEPS
    assert watched.reason == "non_finite"
    watched.model.load_state_dict(good)
    watched.check_clean()


def free(slot: Tensor) -> None:
    slot.untyped_storage().resize_(0)


def move(slot: Tensor) -> None:
    slot.data = torch.full_like(slot, NAN)


@by_form
@pytest.mark.parametrize(("lose", "which"), [(free, 0), (move, -1)])
def test_lost_state(
    which: int, lose: Callable[[Tensor], None], form: str, options: dict[str, Any]
) -> None:
    """One tensor is enough: of the leading branch, or of the layer that is last."""
    watched = Watched(form, **options)
    x = watched.begin(AFTER)
    lose(faulty.states_of(watched)[which].slots[which])
    with pytest.warns(UncachedWarning, match="freed or moved"):
        x = watched.step(x, AFTER)
    if form == "whole" or which == 0:
        assert (watched.kinds[-1], watched.reason) == ("F", "lost_state")
    assert "freed or moved" in watched.uncached_reasons
    watched.run(x=x, first=AFTER + 1)
    watched.check_clean()


def test_state_of_another_device_does_not_fit() -> None:
    """A graph that Dynamo makes for a moved model does not go on with it."""
    watched = Watched(**STATIC)
    watched.begin(AFTER)
    (dispatcher,) = dispatchers_of(watched.rfc)
    (state,) = faulty.states_of(watched)
    rings = tuple(
        replace(ring, example=torch.empty(ring.example.shape, device="meta"))
        for ring in dispatcher.layout.rings
    )
    assert geometry_of(dispatcher.layout, int) == state.geometry
    moved = replace(dispatcher.layout, rings=rings)
    assert geometry_of(moved, int) != state.geometry


def test_no_memory_for_the_state() -> None:
    """A real allocator refuses: uncached while it does, cached afterwards."""
    much = {**STATIC, "granularity": "module", "estimator": "subspace", "order": 3}
    watched = Watched(**much)
    watched.model.blocks.extend(copy.deepcopy(watched.model.blocks))
    text = TEXT.repeat(LARGE // 2, 1, 1)

    def walk(x: Tensor, steps: range) -> Tensor:
        for step in steps:
            x = x - 0.03 * watched(x, at(step).repeat(LARGE // 2), text)
        return x

    with little_memory(), pytest.warns(UncachedWarning, match="cannot be alloc"):
        x = walk(tokens(batch=LARGE), range(3))
    assert "such calls run uncached" in watched.uncached_reasons
    walk(x, range(3, 6))
    assert watched.kinds == "UUU" + "FFC"


def refuse(*numbers: int) -> None:
    faulty.given.clear()
    faulty.refused[:] = numbers


@pytest.mark.parametrize(
    ("options", "number", "name", "kinds"),
    [
        (STATIC, 1, "full", "U" * STEPS),
        (STATIC, 2, "cached", "FF" + "U" * (STEPS - 2)),
        (DYNAMIC, 1, "probe", "U" * STEPS),
        (DYNAMIC, 2, "full", "U" * STEPS),
        (DYNAMIC, 3, "cached", "FF" + "U" * (STEPS - 2)),
        ({**STATIC, "dynamic": True}, 2, "cached", "U" * STEPS),
    ],
)
def test_a_graph_that_does_not_compile(
    options: dict[str, Any], number: int, name: str, kinds: str
) -> None:
    """From then on the model runs as the inner backend alone has it."""
    refuse(number)
    watched = Watched(inner="refusing", **options)
    says = rf"inner backend 'refusing' cannot compile the {name} graph .*is too hard"
    with pytest.warns(UncachedWarning, match=says):
        watched.run()
    assert watched.kinds == kinds
    assert f"cannot compile the {name} graph" in watched.uncached_reasons
    watched.kinds = ""
    watched.run(2)
    assert watched.kinds == "U" * STEPS
    assert len(faulty.given) == number + 1, "the plain graph compiles once"


@by_form
def test_an_interrupt_inside_a_graph(form: str, options: dict[str, Any]) -> None:
    """The step may be made again, or another run begun."""
    watched = Watched(form, inner="breaking", **options)
    for step, share in itertools.product(SHAPING_STEPS, [0.0, 0.5, 0.98, 1.0]):
        for again in (True, False):
            x = watched.begin(step)
            faulty.Break.share = share
            with pytest.raises(KeyboardInterrupt):
                watched(x, at(step))
            if again:
                watched.run(x=x, first=step)
            watched.check_clean()


@by_form
def test_an_interrupt_at_any_line(form: str, options: dict[str, Any]) -> None:
    """Ctrl-C in the runtime itself, at a line in 41 or 271 behind the first graph."""
    watched = Watched(form, inner="breaking", **options)
    watched.run()
    for step in SHAPING_STEPS:
        for line in itertools.count(1 + step, 41 if form == "whole" else 271):
            x = watched.begin(step)
            with contextlib.suppress(KeyboardInterrupt), InterruptAt(line) as ctrl_c:
                watched.rfc(x, at(step), TEXT)
            if not ctrl_c.reached:
                break
            watched.run(x=x, first=step)
            watched.check_clean()
        assert line > 40
