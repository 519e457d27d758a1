"""How the scenarios of several ranks draw, and what one process draws."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import torch
from comparing import WAN
from denoisers.base import flat
from denoising import LABELS, compiled, run
from on_ranks import everyone
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import rfc_compile
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.tools.measure.glyph_dit import (
    EMPTY_CLASS,
    initial_noise,
    make_scheduler,
)
from rfc_compile.torch_internals import collectives

RCS = {"threshold": 0.3, "warmup": 2}
STATIC = {"granularity": "module", "schedule": "interval", "interval": 3, "warmup": 2}
STEPS = 20
MANY_LABELS = (LABELS, torch.tensor([1, 4, 7]))
"""Labels of data parallel ranks: batches of different sizes."""

GUIDED = {**RCS, "corrector": "off"}
"""A rank does not see what the other branch returned: its run is named, and it does not
know what it owes."""

Drawn = tuple[Tensor, list[Any]]
"""An image, and the decisions on the way to it."""


def single_process() -> dict[str, Any]:
    """What the scenarios expect, drawn here without torch.distributed."""
    rcs, static = compiled(**RCS), compiled(**STATIC)
    wan, blocks = WAN.model(), WAN.model()
    blocks.compile_repeated_blocks(backend="rfc", options=WAN_OPTIONS)
    return {
        "rcs": [drawn(rcs, seed=seed) for seed in range(2)],
        "three": drawn(rcs, seed=1, labels=MANY_LABELS[1]),
        "static": drawn(static),
        "guided": guided(compiled(**GUIDED)),
        "wan": walked(torch.compile(wan, backend="rfc", options=WAN_OPTIONS)),
        "wan blocks": walked(blocks),
    }


WAN_OPTIONS = {
    **RCS,
    "corrector": "off",
    "inner": "eager",
    "min_coverage": 0.0,
    "estimator": "taylor",
}
"""``subspace`` would fit the tokens of each rank by themselves. Where the sequence is
split, what a full step repays is not that of one process."""


def decisions_of(model: Any) -> list[tuple[int, int, bool, str]]:
    """Of the last run; why its first step is full depends on what ran before."""
    decided = rfc_compile.stats(model).decisions
    return [(d.step, d.branch, d.full, d.reason if d.step else "") for d in decided]


def drawn(model: Any, **settings: Any) -> Drawn:
    image = run(model, steps=STEPS, **settings)
    return image, decisions_of(model)


def walked(model: Any) -> Drawn:
    *_, (_, result) = WAN.walk(functools.partial(model, return_dict=False))
    return flat(result), decisions_of(None)


def assert_same(found: Drawn, expected: Drawn) -> None:
    """The same decisions, and the same image within rounding, on every rank."""
    assert found[1] == expected[1]
    assert everyone(found[1]) == [found[1]] * distributed.get_world_size()
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    assert {True, False} == {full for _, _, full, _ in found[1]}


def meetings() -> Any:
    """Counts the collectives that decisions take."""
    return mock.patch.object(
        distributed, "all_gather", side_effect=distributed.all_gather
    )


def exchanged(model: Any) -> dict[str, int]:
    """How many collectives the graphs of a model hold, by name."""
    (dispatcher,) = dispatchers_of(model)
    return {name: len(collectives(g.gm)) for name, g in dispatcher.graphs.items()}


def split(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Tensor parallel: heads and hidden units on several ranks."""
    columns, rows = ColwiseParallel(), RowwiseParallel()
    for block in model.transformer_blocks:
        plan = {f"attn1.to_{name}": columns for name in "qkv"}
        plan |= {"attn1.to_out.0": rows, "ff.net.0.proj": columns, "ff.net.2": rows}
        parallelize_module(block, mesh, plan)
        block.attn1.heads //= mesh.size()
    return model


def guided(model: Any, rank: int | None = None) -> Drawn:
    """Guidance by two calls a step, or by one on each of two ranks."""
    sampler = make_scheduler("ddim", STEPS)
    x = initial_noise(len(LABELS), 0)
    labels = [LABELS, torch.full_like(LABELS, EMPTY_CLASS)]
    own = labels if rank is None else [labels[rank]]
    for t in sampler.timesteps:
        at = t.expand(len(LABELS))
        with torch.no_grad(), rfc_compile.trajectory("guided", num_steps=STEPS):
            parts = [model(x, timestep=at, class_labels=y).sample for y in own]
            if rank is not None:
                (part,) = parts
                parts = [torch.empty_like(x) for _ in labels]
                distributed.all_gather(parts, part)
            cond, empty = parts
            x = sampler.step(cond + (cond - empty), t, x).prev_sample
    return x, decisions_of(model)
