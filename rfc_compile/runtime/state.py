"""The state of one CFG branch, and the coefficients of its next step."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfc_compile.errors import NoRoomForState
from rfc_compile.estimators.step_weights import coefficients_tensor, newton_coefficients
from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.graph_inputs import GraphInputs, picker
from rfc_compile.runtime.parameter_versions import ParameterVersion
from rfc_compile.torch_internals import size_expression

SizeOf = Callable[[object], int]

_address = Tensor.data_ptr


@functools.lru_cache(maxsize=1024)  # the same distances come again and again
def _weights_tensor(
    distances: tuple[int, ...],
    times: tuple[float, ...] | None,
    width: int,
    device: torch.device,
    trend: float,
) -> Tensor:
    """``distances`` are the indices of the kept full steps, counted from this one."""
    taylor, valid = coefficients_tensor(0, distances, width)
    if times is not None:
        taylor = newton_coefficients(times[0], times[1:], width) or taylor
    taylor = [trend * weight for weight in taylor]
    with torch.inference_mode(mode=False):
        return torch.tensor([taylor, valid], dtype=torch.float32, device=device)


class Geometry(NamedTuple):
    """Shape, dtype and device of a slot."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@functools.cache
def memory_of(device: torch.device) -> float:
    """All memory of a device in bytes; infinite where the system does not tell."""
    module = torch.get_device_module(device)
    try:
        if hasattr(module, "mem_get_info"):
            return float(module.mem_get_info(device)[1])
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, RuntimeError, ValueError):
        return math.inf


def geometry_of(layout: StateLayout, size_of: SizeOf) -> list[Geometry]:
    """That of every slot of a layout, for sizes of a call."""
    return [
        Geometry(
            torch.Size(map(size_of, ring.example.shape)),
            ring.example.dtype,
            ring.device,
        )
        for ring in layout.rings
        for _ in range(ring.length)
    ]


class BranchState:
    """The rings of state tensors of one branch, passed to the graphs newest first.

    ``unused`` are the rings that no graph of this branch reads: they stay empty.
    ``computed_with`` is the version of the parameters that the values come from,
    ``trend`` the share of the changes between full steps that predictions go on with.
    """

    def __init__(
        self,
        layout: StateLayout,
        size_of: SizeOf,
        unused: Collection[int] = (),
        computed_with: ParameterVersion = (),
    ) -> None:
        self.layout = layout
        self.computed_with = computed_with
        self._width = layout.weights.shape[1]
        self._device = layout.device
        self.full_steps: list[int] = []
        self.trend = 1.0
        ring_of = [i for i, ring in enumerate(layout.rings) for _ in range(ring.length)]
        geometry = zip(geometry_of(layout, size_of), ring_of, strict=True)
        try:
            slots = tuple([_empty_slot(like, i in unused) for like, i in geometry])
        except RuntimeError as error:  # of every allocator
            raise NoRoomForState(
                "the state of a branch cannot be allocated, cache_dtype or "
                "granularity='stack' would make it less "
                f"({str(error).splitlines()[0]})"
            ) from error
        self.bytes = sum(slot.nbytes for slot in slots)
        self._one_place_on = picker(layout.one_place_on)
        self._hold(slots, tuple(map(_address, slots)))

    @property
    def geometry(self) -> list[Geometry]:
        """That of every slot: whether another graph's state fits."""
        return [Geometry(x.shape, x.dtype, x.device) for x in self.slots]

    def unusable(self, weights: ParameterVersion, report: GraphReport) -> str | None:
        """Why it cannot be continued with these parameters; None if it can."""
        if self.computed_with != weights:
            return "weights"
        if tuple(map(_address, self.slots)) == self._addresses:
            return None
        report.fall_back(
            "tensors of the state were freed or moved by other code: the step runs "
            "uncached and begins a new history"
        )
        return "lost_state"

    def weights(self, step: int, times: tuple[float, ...] | None = None) -> Tensor:
        """The (2, M) weights of a step, on the device of the state.

        ``times`` are those of this step and of the kept full steps, newest first;
        without them, time is the index of the step.
        """
        distances = tuple([full - step for full in self.full_steps])
        given = self._width, self._device, self.trend
        return _weights_tensor(distances, times, *given)

    def pool(
        self,
        arguments: Sequence[Any],
        step: int,
        times: tuple[float, ...] | None = None,
    ) -> GraphInputs:
        """What the graphs of a step pick their inputs from; ``times`` as above."""
        return GraphInputs(arguments, self.slots, [self.weights(step, times)])

    def remember(self, latents: Sequence[Tensor]) -> None:
        """Keep the latents of a call, to compare the next call's with."""
        for slot, latent in zip(self.slots, latents, strict=False):
            slot.copy_(latent)

    def forget(self) -> list[int]:
        """Clear the history while a full step overwrites it; returns it."""
        kept, self.full_steps = self.full_steps, []
        return kept

    def record(self, step: int, history: Sequence[int]) -> None:
        """The slots written last are now the newest, from this step."""
        turned = self._one_place_on
        self._hold(turned(self.slots), turned(self._addresses))
        self.full_steps = [step, *history][: self._width + 1]

    def kept(self, name: str) -> list[Tensor]:
        """The kept values of an input or output by name, newest first, in float32.

        Fewer than the slots while there were fewer full steps; none if it is not kept.
        """
        slots = iter(self.slots)
        rings = {
            ring.name: list(islice(slots, ring.length)) for ring in self.layout.rings
        }
        return [x.float() for x in rings.get(name, [])[: len(self.full_steps)]]

    def _hold(self, slots: tuple[Tensor, ...], addresses: tuple[int, ...]) -> None:
        # nothing can interrupt an assignment: the two always fit together
        self.slots, self._addresses = slots, addresses


def _empty_slot(like: Geometry, unused: bool) -> Tensor:
    with torch.inference_mode(mode=False):  # writable in and out of inference mode
        shape = (0,) if unused else like.shape
        return torch.zeros(shape, dtype=like.dtype, device=like.device)


class SizeBinding:
    """Binds the size symbols of a graph to the sizes of its arguments."""

    def __init__(self, layout: StateLayout, examples: Sequence[Any]) -> None:
        shapes: list[Sequence[Any]] = [ring.example.shape for ring in layout.rings]
        self._static = all(isinstance(size, int) for shape in shapes for size in shape)
        self._where: list[tuple[Any, int, int | None]] = []
        for position, example in enumerate(examples):
            if isinstance(example, torch.SymInt):
                self._where.append((size_expression(example), position, None))
            elif isinstance(example, torch.Tensor):
                sizes: Sequence[Any] = example.shape
                self._where += [
                    (size_expression(size), position, dim)
                    for dim, size in enumerate(sizes)
                    if isinstance(size, torch.SymInt)
                ]

    def bind(self, arguments: Sequence[Any]) -> Callable[[Any], int]:
        """A function from sizes of the traced graph to numbers for this call."""
        if self._static:
            return int
        values = {
            symbol: arguments[i] if dim is None else arguments[i].shape[dim]
            for symbol, i, dim in self._where
            if symbol.is_symbol
        }

        def size(symbolic: Any) -> int:
            if isinstance(symbolic, int):
                return symbolic
            return int(size_expression(symbolic).xreplace(values))

        return size
