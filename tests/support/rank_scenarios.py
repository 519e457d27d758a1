"""What ranks do together: each function runs on every rank of one real group.

``expected`` holds what one process draws, by ``rank_drawing.single_process``.
"""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from comparing import WAN
from denoising import LABELS, compiled, run, small_glyph, steps_of
from diffusers import ContextParallelConfig
from on_ranks import everyone
from rank_drawing import (
    GUIDED,
    MANY_LABELS,
    RCS,
    STATIC,
    STEPS,
    WAN_OPTIONS,
    Drawn,
    assert_same,
    decisions_of,
    drawn,
    exchanged,
    guided,
    meetings,
    split,
    walked,
)
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import rfc_compile
from rfc_compile import RanksError, UncachedWarning


def data_parallel(rank: int, expected: dict[str, Any]) -> None:
    """Batches of different sizes: no rank meets another, each draws its own."""
    model = compiled(**RCS)
    with meetings() as met:
        image = run(model, seed=rank, labels=MANY_LABELS[rank], steps=STEPS)
    assert not met.called
    wanted = (expected["rcs"][0], expected["three"])[rank]
    assert decisions_of(model) == wanted[1]
    assert torch.allclose(image, wanted[0], atol=1e-4)


def tensor_parallel(rank: int, expected: dict[str, Any]) -> None:
    """Megatron's split: one meeting a step, and cached steps skip the sums."""
    mesh = init_device_mesh("cpu", (2,))
    model = compiled(split(small_glyph(), mesh), **RCS)
    with meetings() as met:
        assert_same(drawn(model), expected["rcs"][0])
    assert met.call_count == STEPS
    assert max(call.args[1].nbytes for call in met.call_args_list) <= 24
    assert exchanged(model) == {"probe": 0, "full": 4, "cached": 0}
    assert "the 2 ranks that share" in str(rfc_compile.explain(model))
    assert not rfc_compile.explain(model).uncached_reasons
    assert_same(drawn(model), expected["rcs"][0])


def tensor_parallel_static(rank: int, expected: dict[str, Any]) -> None:
    """A static schedule is looked at, too: NaN on one rank concerns both."""
    mesh = init_device_mesh("cpu", (2,))
    model = compiled(split(small_glyph(), mesh), **STATIC)
    with meetings() as met:
        assert_same(drawn(model), expected["static"])
    assert met.call_count == STEPS
    assert exchanged(model) == {"probe": 0, "full": 4, "cached": 0}


def context_parallel(rank: int, expected: dict[str, Any]) -> None:
    """Ulysses as diffusers does it; the whole model, then block by block."""
    for form in ("wan", "wan blocks"):
        model = WAN.model()
        with mock.patch.object(torch.accelerator, "device_count", return_value=1):
            model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        with torch.no_grad():  # the first call warns, which would break the graph
            model(**WAN.first_call(), return_dict=False)
        if form == "wan":
            model = torch.compile(model, backend="rfc", options=WAN_OPTIONS)
        else:
            model.compile_repeated_blocks(backend="rfc", options=WAN_OPTIONS)
        rfc_compile.reset()
        assert_same(walked(model), expected[form])
        if form == "wan":
            held = exchanged(model)
            assert held["full"] > held["cached"] == 1, "the output is gathered"


def sharded_weights(rank: int, expected: dict[str, Any]) -> None:
    """FSDP gathers weights around the blocks, in full and cached steps alike."""
    model = WAN.model()
    mesh = init_device_mesh("cpu", (2,))
    model.compile_repeated_blocks(backend="rfc", options=WAN_OPTIONS)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    with meetings() as met:
        assert_same(walked(model), expected["wan blocks"])
    assert not met.called
    assert "sharded between calls" in str(rfc_compile.explain(model))


def guidance_parallel(rank: int, expected: dict[str, Any]) -> None:
    """The prompt on one rank, its absence on the other: each branch by itself."""
    image, decisions = guided(compiled(**GUIDED), rank)
    wanted, together = expected["guided"]
    assert torch.allclose(image, wanted, atol=1e-4)
    both = everyone([(step, full, why) for step, _, full, why in decisions])
    assert both[0] != both[1]
    for branch, found in enumerate(both):
        assert found == [(s, full, why) for s, b, full, why in together if b == branch]


def steps_together(model: Any, rank: int, **settings: Any) -> Iterator[Tensor]:
    """Every rank draws one of the two images that one process draws in a batch."""
    own = slice(rank % 2, rank % 2 + 1)
    return steps_of(model, seed=rank % 2, labels=LABELS[own], steps=STEPS, **settings)


def drawn_together(model: Any, rank: int) -> Drawn:
    *_, image = steps_together(model, rank)
    return image, decisions_of(model)


def one_decision(rank: int, expected: dict[str, Any]) -> None:
    """A process group is given: the worst image of all ranks decides for all."""
    short = distributed.new_group(timeout=datetime.timedelta(seconds=60))
    model = compiled(**RCS, process_group=short)
    batch, decisions = expected["rcs"][0]
    wanted = batch[rank : rank + 1], decisions
    assert_same(drawn_together(model, rank), wanted)
    not_a_number(model, rank, wanted)
    another_prompt(model, rank, wanted)
    one_reset(model, rank, wanted)
    one_raises(model, rank, short)


def kinds(model: Any) -> list[str]:
    """The reasons of a run, the same on all ranks."""
    reasons = [decision.reason for decision in rfc_compile.stats(model).decisions]
    assert everyone(reasons) == [reasons] * distributed.get_world_size()
    return reasons


def assert_as_before(found: Drawn, wanted: Drawn) -> None:
    """The same run, though its first step may have another reason to be full."""
    assert found[1][0][2]
    assert_same((found[0], found[1][1:]), (wanted[0], wanted[1][1:]))


def not_a_number(model: Any, rank: int, wanted: Drawn) -> None:
    """NaN on one rank: all compute that step in full, and the next run is clean."""
    whole = list(steps_together(model, rank))
    sick = STEPS // 2

    calls = itertools.count()

    def denoise(x: Tensor, **call: Tensor) -> Any:
        broken = next(calls) == sick and rank == 1
        return model(x * float("nan") if broken else x, **call)

    with pytest.warns(UncachedWarning, match="NaN or Inf"):
        images = list(steps_together(denoise, rank))
    assert torch.equal(images[sick - 1], whole[sick - 1])
    assert bool(images[-1].isfinite().all()) == (rank == 0)
    assert "non_finite" in kinds(model)
    assert_as_before(drawn_together(model, rank), wanted)


def another_prompt(model: Any, rank: int, wanted: Drawn) -> None:
    """Another prompt on one rank begins a fresh branch on all."""
    labels, calls = LABELS[rank : rank + 1], itertools.count()

    def denoise(x: Tensor, **call: Tensor) -> Any:
        late = next(calls) >= STEPS // 2
        call["class_labels"] = labels + 1 if rank == 1 and late else labels
        return model(x, **call)

    *_, image = steps_together(denoise, rank)
    reasons = kinds(model)
    assert len(reasons) == STEPS
    assert reasons.index("conditioning") == STEPS // 2
    assert image.isfinite().all()
    assert_as_before(drawn_together(model, rank), wanted)


def one_reset(model: Any, rank: int, wanted: Drawn) -> None:
    """One rank has lost its state: all see it, and begin a new run."""
    for step, _ in enumerate(steps_together(model, rank)):
        if step == STEPS // 2 and rank == 1:
            rfc_compile.reset(model)
    assert len(kinds(model)) == STEPS - STEPS // 2 - 1
    assert "took a call for different steps" in str(rfc_compile.explain(model))
    assert_as_before(drawn_together(model, rank), wanted)


def one_raises(model: Any, rank: int, group: Any) -> None:
    """A rank that raises does not come: the other one says so in time."""
    group.set_timeout(datetime.timedelta(seconds=2))
    start = time.monotonic()

    def denoise(x: Tensor, **call: Tensor) -> Any:
        if rfc_compile.stats(model).steps == STEPS // 2 and rank == 1:
            raise ZeroDivisionError
        return model(x, **call)

    with pytest.raises(RanksError if rank == 0 else ZeroDivisionError) as raised:
        list(steps_together(denoise, rank))
    assert time.monotonic() - start < 30
    if rank == 0:
        assert "rank 0 did not hear from the 2 ranks" in str(raised.value)


def different_graphs(rank: int, expected: dict[str, Any]) -> None:
    """Other collectives on one rank: an error on both, before the first of them."""
    mesh = init_device_mesh("cpu", (2,))
    model = split(small_glyph(), mesh)
    model.transformer_blocks = model.transformer_blocks[: 2 - rank]
    model = compiled(model)
    with pytest.raises(RanksError, match="have different graphs"):
        next(steps_of(model))


TWO = [
    data_parallel,
    tensor_parallel,
    tensor_parallel_static,
    context_parallel,
    sharded_weights,
    guidance_parallel,
    one_decision,
    different_graphs,
]


def two_replicas(rank: int, expected: dict[str, Any]) -> None:
    """Two pairs of ranks, each with a seed of its own: every pair decides alone."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "tensor"))
    model = compiled(split(small_glyph(), mesh["tensor"]), **RCS)
    image, decisions = drawn(model, seed=rank // 2)
    wanted = expected["rcs"][rank // 2]
    assert decisions == wanted[1]
    assert torch.allclose(image, wanted[0], atol=1e-4)


def two_groups(rank: int, expected: dict[str, Any]) -> None:
    """The same pairs with one image each, that decide together: two meetings."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "tensor"))
    split_model = split(small_glyph(), mesh["tensor"])
    model = compiled(split_model, **RCS, process_group=mesh["replica"].get_group())
    batch, decisions = expected["rcs"][0]
    with meetings() as met:
        replica = rank // 2
        found = drawn_together(model, replica)
    assert_same(found, (batch[replica : replica + 1], decisions))
    assert met.call_count == 2 * STEPS


FOUR = [two_replicas, two_groups]
