"""Which values of the regions are kept, and for how many full steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from rfc_compile.estimators import Estimator
from rfc_compile.passes.graph import tensor_of
from rfc_compile.passes.layout import Ring
from rfc_compile.passes.outline import OutlinedRegion


def input_ring(node: fx.Node) -> str:
    """Name of the ring that keeps an input of regions."""
    return f"input.{node.name}"


def rings_of(
    calls: Sequence[tuple[fx.Node, OutlinedRegion]],
    estimator: Estimator,
    watched: fx.Node,
    watched_length: int,
    fake_mode: Any,
) -> tuple[Ring, ...]:
    """What the estimator keeps of every region; ``watched`` at least for the signal.

    Inputs that regions share are kept once.
    """
    rings: dict[str, Ring] = {}

    def add(name: str, length: int, node: fx.Node) -> None:
        value = tensor_of(node)
        assert value is not None
        if length:
            with fake_mode:
                example = torch.empty(
                    value.shape, dtype=value.dtype, device=value.device
                )
            rings[name] = Ring(name, length, example)

    add(input_ring(watched), max(estimator.inputs_kept, watched_length), watched)
    for _, region in calls:
        for node in region.inputs:
            if input_ring(node) not in rings:
                add(input_ring(node), estimator.inputs_kept, node)
        for position, node in enumerate(region.outputs):
            name = f"{region.name}.output_{position}"
            add(name, estimator.outputs_kept, node)
            if estimator.statistics:
                groups = node.meta["val"].shape[0]
                with fake_mode:
                    example = torch.empty(
                        groups, estimator.statistics, device=node.meta["val"].device
                    )
                name = f"{region.name}.statistics_{position}"
                rings[name] = Ring(name, 1, example)
    return tuple(rings.values())
