"""The sessions of a graph: one per caller, layer and set of shapes.

A graph may be called by several threads, for several resolutions, and, if one compiled
block serves all layers, with different parameters. The hundreds of parameters of a call
are identified by the bytes of their tuple, which is faster than by their ids.
"""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set
from typing import Any

from torch import Tensor

from rfc_compile.graph_report import GraphReport
from rfc_compile.passes.state.state_layout import StateLayout
from rfc_compile.runtime.graph_inputs import picker
from rfc_compile.runtime.kept_attributes import KeptAttributes
from rfc_compile.runtime.session import (
    IDLE_CALLS,
    LayerKey,
    ParameterIds,
    Session,
    Shapes,
)
from rfc_compile.runtime.state import Geometry
from rfc_compile.runtime.trajectory import Trajectory

MAX_SCOPES = 8
"""Sessions whose state one graph keeps; the oldest is evicted."""

MANY_SHORT_LIVES = 3
"""Layers called once before their weights were freed, after which that is reported."""

MAX_KEPT = 2
"""Values of a layer's attributes that are kept, one for each guidance branch."""

MAX_KEPT_BYTES = 2**26
"""Of all that a graph keeps."""

ParameterTuple = tuple[int, ...]
"""Ids of the parameters and buffers of a call, in order."""

Kept = tuple[KeptAttributes, ParameterIds]
"""Attributes of a layer, and its name."""

Addresses = bytes | tuple[int, ...]
"""Equal for tuples of the same live objects."""

_POINTER = ctypes.sizeof(ctypes.c_void_p)


def _packed(values: tuple[Any, ...]) -> bytes:
    """The array of pointers that CPython's tuple ends with."""
    return ctypes.string_at(id(values) + tuple.__basicsize__, _POINTER * len(values))


def _ids(values: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(map(id, values))


def _is_array_of_pointers() -> bool:
    """Whether this Python stores a tuple like that."""
    pair = object(), object()
    pointers = [id(value).to_bytes(_POINTER, "little") for value in pair]
    return tuple.__itemsize__ == _POINTER and _packed(pair) == b"".join(pointers)


addresses: Callable[[tuple[Any, ...]], Addresses] = (
    _packed if _is_array_of_pointers() else _ids
)
"""The identity of the objects in a tuple."""

Key = tuple[LayerKey, tuple[Any, ...]]
"""A layer with its shapes, and the numbers that a call passes."""


class SessionTable:
    """The sessions of one graph.

    ``attributes`` says of every tensor of modules whether it is neither parameter nor
    buffer. ``others`` are the positions of the arguments whose shapes are part of the
    key, ``numbers`` those of the numbers in it. ``examples`` are the arguments that the
    graph was traced with: sizes that are no symbols are the same at every call.
    """

    def __init__(
        self,
        attributes: Sequence[bool],
        others: Sequence[int],
        numbers: Sequence[int],
        examples: Sequence[Any],
        report: GraphReport,
    ) -> None:
        self._layers: dict[Addresses, ParameterIds] = {}
        self._newest: tuple[Addresses | None, ParameterIds] = None, frozenset()
        self._attributes = attributes
        self._kept: dict[ParameterTuple, list[Kept]] = {}
        self._accepted: KeptAttributes | None = None
        self._others = others
        self._numbers = picker(numbers)
        shapes = _shapes([examples[i] for i in others])
        fixed = all(isinstance(size, int) for shape in shapes for size in shape)
        self._shapes = shapes if fixed else None
        self._report = report
        self._sessions: OrderedDict[tuple[str, Key], Session] = OrderedDict()
        self._lock = threading.Lock()
        self._short_lived = self._calls = 0
        with _lock:
            _all.add(self)

    def key(self, static: tuple[Tensor, ...], arguments: Sequence[Any]) -> Key:
        """The layer of a call and its shapes; registers a new layer.

        ``static`` are the parameters and buffers among the arguments.
        """
        same = addresses(static)
        newest, layer = self._newest
        if same != newest:  # most graphs serve one layer only
            known = self._layers.get(same)
            layer = known or self._layer_of(same, static)
            if known is not None:
                self._newest = same, layer
        shapes = self._shapes
        if shapes is None:
            shapes = _shapes([arguments[i] for i in self._others])
        return (layer, shapes), self._numbers(arguments)

    def _layer_of(self, same: Addresses, static: Sequence[Tensor]) -> ParameterIds:
        """A new layer, or one whose attributes are made anew with the same values."""
        found = KeptAttributes.of(static, self._attributes)
        if not found.tensors or not found.parameters:
            return self._new_layer(same, static)
        known = self._kept.get(found.parameters, [])
        for kept, layer in known:
            if kept.equals(found):
                self._accepted = found  # alive, so that no other gets its address
                self._newest = same, layer
                return layer
        layer = self._new_layer(same, static)
        others = [kept for pairs in self._kept.values() for kept, _ in pairs]
        if found.bytes + sum(kept.bytes for kept in others) <= MAX_KEPT_BYTES:
            self._kept[found.parameters] = [*known, (found, layer)][-MAX_KEPT:]
        return layer

    def _new_layer(self, same: Addresses, static: Sequence[Tensor]) -> ParameterIds:
        layer = frozenset(map(id, static))
        self._report_short_lives()
        with self._lock:
            self._layers[same] = layer
            self._newest = same, layer
            if layer not in self._report.layers:
                self._report.layers.add(layer)
                for owner in static:
                    # an id is only good while its owner lives
                    drop: weakref.WeakMethod[Any] = weakref.WeakMethod(self._drop_layer)
                    weakref.finalize(owner, _call, drop, layer).atexit = False
                    self._report.reads(owner)
        return layer

    def get(self, name: str, key: Key) -> Session:
        """The session of an owner's calls with this key."""
        whose = name, key
        with self._lock:
            session = self._sessions.get(whose)
            if session is None:
                session = self._sessions[whose] = Session(self._report, layer=key[0][0])
                while len(self._sessions) > MAX_SCOPES:
                    _, lost = self._sessions.popitem(last=False)
                    if lost.running:
                        self._report_lost(lost)
                    lost.forget()
            self._sessions.move_to_end(whose)
            session.last_used = time.monotonic()
            self._calls += 1
            session.gap = self._calls - session.placed if session.calls else 1
            session.placed = self._calls
            session.calls += 1
            return session

    def take(
        self, name: str, key: Key, slots: Sequence[Geometry], layout: StateLayout
    ) -> Session | None:
        """Hand an owner's session over to a graph with another layout.

        None, and it is dropped, if it has no run or its state has other slots.
        """
        with self._lock:
            session = self._sessions.pop((name, key), None)
        if session is None or not session.used:
            return None
        if any(state.geometry != slots for state in session.states):
            session.forget()
            return None
        for state in session.states:
            state.layout = layout
        return session

    def put(self, name: str, key: Key, session: Session) -> Session:
        """Continue a session that another graph handed over."""
        with self._lock:
            self._sessions[name, key] = session
        return session

    def of(self, ids: Set[int] | None) -> list[Session]:
        """The sessions, of layers that hold one of these parameter ids if given."""
        with self._lock:
            sessions = list(self._sessions.values())
        return [session for session in sessions if ids is None or ids & session.layer]

    def drop(self, ids: Set[int] | None) -> None:
        """Drop the sessions that ``of`` gives, with their state."""
        self._kept, self._accepted, self._newest = {}, None, (None, frozenset())
        with self._lock:
            for key, session in list(self._sessions.items()):
                if ids is None or ids & session.layer:
                    del self._sessions[key]
                    for trajectory in session.running:
                        trajectory.finish()

    def _drop_layer(self, layer: ParameterIds) -> None:
        self._report.layers.discard(layer)
        self._newest = None, frozenset()
        self._accepted = None
        for parameters, pairs in list(self._kept.items()):
            self._kept[parameters] = [pair for pair in pairs if pair[1] != layer]
        # copies: another thread may add to them, and a finalizer must wait for no lock
        for same, known in list(self._layers.items()):
            if known == layer:
                self._layers.pop(same, None)
        for key in [key for key in list(self._sessions) if key[1][0][0] == layer]:
            session = self._sessions.pop(key, None)
            if session is not None:
                session.forget()
                self._short_lived += session.calls == 1

    def _report_lost(self, session: Session) -> None:
        text = (
            f"more than {MAX_SCOPES} combinations of caller, layer, shapes and numbers"
        )
        owners = {name for name, _ in self._sessions}
        if len(owners) > 1:
            if self._calls - session.placed > IDLE_CALLS * session.gap:
                return  # callers that draw one after the other: its run was over
            self._report.fall_back(
                f"{text}: the run of the one not used for longest begins anew, with "
                f"full steps (let at most {MAX_SCOPES} callers draw at a time)"
            )
        elif any(run.step > 0 for run in session.runs) or session.samples.joined:
            self._report.note(
                f"{text}: the state of the one not used for longest is lost"
            )
        else:
            self._report.fall_back(
                f"{text}, one of them called once: a first step is full (is a number "
                "that counts the steps given to the model? pass it as a tensor)"
            )

    def _report_short_lives(self) -> None:
        if self._short_lived >= MANY_SHORT_LIVES:
            self._report.fall_back(
                "the weights, or what the module keeps between calls (a cache of keys "
                "and values), are other tensors at every call: such calls run uncached"
            )


_all: weakref.WeakSet[SessionTable] = weakref.WeakSet()
_lock = threading.Lock()  # other threads may compile while one looks through them


def running() -> list[tuple[Session, Trajectory]]:
    """Every trajectory that has not ended, of all graphs."""
    with _lock:
        known = list(_all)
    return [
        (session, trajectory)
        for sessions in known
        for session in sessions.of(None)
        for trajectory in session.running
    ]


def _call(method: weakref.WeakMethod[Any], layer: ParameterIds) -> None:
    """Call a method of an object that may be gone."""
    alive = method()
    if alive is not None:
        alive(layer)


def _shapes(values: Sequence[Any]) -> Shapes:
    shapes = [tuple(value.shape) for value in values if isinstance(value, Tensor)]
    return tuple(sorted(shapes, key=str))
