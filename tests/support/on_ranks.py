"""Scenarios in real processes that form one group of torch.distributed, on gloo."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

import rfc_compile

Scenario = Callable[[int, dict[str, Any]], None]
"""Takes its rank and what one process has found; fails by an exception."""

TIMEOUT = datetime.timedelta(minutes=5)
"""Of a collective; a rank whose scenario has failed lets the others wait so long."""


def run_on_ranks(
    count: int, scenarios: Sequence[Scenario], expected: dict[str, Any], folder: Path
) -> dict[str, str]:
    """Run the scenarios on so many ranks: for each rank and scenario, what went wrong.

    Nothing (an empty text) where it passed; the first failure ends all.
    """
    torch.save(expected, folder / "expected")
    multiprocessing.spawn(_run, args=(count, scenarios, folder), nprocs=count)
    outcomes: dict[str, str] = {}
    for rank in range(count):
        outcomes |= torch.load(folder / f"rank_{rank}")
    return outcomes


def _run(rank: int, count: int, scenarios: Sequence[Scenario], folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=count, timeout=TIMEOUT
    )
    expected = torch.load(folder / "expected", weights_only=False)
    names = [f"{scenario.__name__} on rank {rank}" for scenario in scenarios]
    outcomes = dict.fromkeys(names, "not run")
    for name, scenario in zip(names, scenarios, strict=True):
        torch._dynamo.reset()
        rfc_compile.reset()
        try:
            scenario(rank, expected)
            distributed.barrier()
        except Exception:  # the others wait for this rank in vain: that is all
            outcomes[name] = traceback.format_exc()
            break
        outcomes[name] = ""
    torch.save(outcomes, folder / f"rank_{rank}")
    distributed.destroy_process_group()


def everyone(value: Any) -> list[Any]:
    """A value of every rank, by rank."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
