"""Scenarios in real processes that form one group of torch.distributed, on gloo."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable, Mapping, Sequence
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
    groups: Mapping[int, Sequence[Scenario]], expected: dict[str, Any], folder: Path
) -> dict[str, str]:
    """Run scenarios on so many ranks: for each rank and scenario, what went wrong.

    Nothing (an empty text) where it passed; the first failure ends its group.
    """
    torch.save(expected, folder / "expected")
    multiprocessing.spawn(_fork, args=(groups, folder), nprocs=1)
    outcomes: dict[str, str] = {}
    for count in groups:
        for rank in range(count):
            outcomes |= torch.load(folder / f"rank_{rank}_of_{count}")
    return outcomes


def _fork(_: int, groups: Mapping[int, Sequence[Scenario]], folder: Path) -> None:
    """Import everything once, in a process that has no threads yet, for all ranks."""
    for count, scenarios in groups.items():
        arguments = (count, scenarios, folder)
        multiprocessing.start_processes(
            _run, args=arguments, nprocs=count, start_method="fork"
        )


def _run(rank: int, count: int, scenarios: Sequence[Scenario], folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store_of_{count}"
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
    torch.save(outcomes, folder / f"rank_{rank}_of_{count}")
    distributed.destroy_process_group()


def everyone(value: Any) -> list[Any]:
    """A value of every rank, by rank."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
