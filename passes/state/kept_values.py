"""Which values of the regions are kept, how, and for how many full steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rfc_compile.estimators.base import Estimator
from rfc_compile.estimators.step_signal import signal_order
from rfc_compile.passes.analysis.records import Region
from rfc_compile.passes.state.ring_storage import Storage, storage_for
from rfc_compile.passes.state.state_layout import Ring


@dataclass(frozen=True)
class StateOptions:
    """How the values of regions are kept.

    Attributes:
        dtype: of kept inputs and outputs; None for their own.
        per_sample: whether every sample of a batch has coefficients of its own.
    """

    estimator: Estimator
    dtype: torch.dtype | None = None
    per_sample: bool = False

    def of_input(self, node: fx.Node, watched: fx.Node) -> Storage:
        """The storage of an input; of the watched one for the signal, too."""
        kept = self.estimator.inputs_kept
        if node is watched:  # the signal reads it as it is
            return Storage(max(kept, signal_order(self.estimator.order) + 1))
        return storage_for(node.meta["val"], kept, self.dtype)

    def of_output(self, node: fx.Node) -> Storage:
        """The storage of an output."""
        kept = self.estimator.outputs_kept
        return storage_for(node.meta["val"], kept, self.dtype)


def input_ring(node: fx.Node) -> str:
    """Name of the storage that keeps an input of regions."""
    return f"input.{node.name}"


def own_ring(region: Region, what: str, position: int) -> str:
    """Name of the storage of an ``output``, or of its ``statistics``."""
    return f"{region.name}.{what}_{position}"


def rings_of(
    regions: Sequence[Region],
    latents: Sequence[fx.Node],
    watched: fx.Node,
    state_options: StateOptions,
    fake_mode: Any,
) -> tuple[Ring, ...]:
    """The state of a graph: its latents, and what the estimator needs of every region.

    Inputs that regions share are kept once.
    """
    with fake_mode:
        rings = [Ring(f"latent.{node.name}", 1, node.meta["val"]) for node in latents]
        storage = state_options.of_input(watched, watched)
        rings += _ring(input_ring(watched), watched, storage)
        seen = {watched}
        for region in regions:
            for node in region.inputs:
                if node not in seen:
                    storage = state_options.of_input(node, watched)
                    rings += _ring(input_ring(node), node, storage)
                    seen.add(node)
            for position, node in enumerate(region.outputs):
                name = own_ring(region, "output", position)
                rings += _ring(name, node, state_options.of_output(node))
                if state_options.estimator.statistics:
                    example = _statistics(node.meta["val"], state_options.estimator)
                    name = own_ring(region, "statistics", position)
                    rings.append(Ring(name, 1, example))
    return tuple(rings)


def _ring(name: str, node: fx.Node, storage: Storage) -> list[Ring]:
    if not storage.length:
        return []
    return [Ring(name, storage.length, storage.example(node.meta["val"]))]


def _statistics(value: Tensor, estimator: Estimator) -> Tensor:
    return torch.empty(value.shape[0], estimator.statistics, device=value.device)
