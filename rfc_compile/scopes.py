"""Whose state is whose: one scope per caller, layer and set of shapes.

A graph may be called by several threads, for several resolutions, and, where one
compiled block serves all layers, with other parameters at every call.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rfc_compile.addresses import Addresses, addresses
from rfc_compile.caller import Caller
from rfc_compile.observe import GraphReport
from rfc_compile.passes import StateLayout
from rfc_compile.routes import picker
from rfc_compile.samples import Samples
from rfc_compile.signal import Signal
from rfc_compile.state import Geometry, KeptState
from rfc_compile.trajectories import Branch, Decision, Mismatch, Trajectory

MAX_SCOPES = 8
"""Owners (threads, tasks, names, shapes) whose state one graph keeps; oldest goes."""

CHANGES_IN_A_ROW = 3
"""Steps in a row at which a conditioning input must change to count as varying."""

MANY_SHORT_LIVES = 3
"""Layers that were called once before their weights were freed, to be worth a word."""

MAX_COURSES = 16
"""Kinds of trajectories whose length and decisions one scope remembers; oldest goes."""

Layer = frozenset[int]
"""The ids of the parameters that a call passes."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of the tensors of a call, whatever their order."""

LayerShapes = tuple[Layer, Shapes]
"""A layer and the shapes of the other tensors of a call."""

Start = tuple[int | None, tuple[float, ...]]
"""The number of steps, if told, and the first timesteps of a trajectory."""

Key = tuple[LayerShapes, tuple[Any, ...]]
"""A layer with its shapes, and the numbers that a call passes."""


@dataclass
class Scope:
    """The trajectories of one owner: the running one and the last finished.

    ``layer`` holds the ids of the parameters that the owner's calls pass, ``calls``
    counts those that lead. ``courses`` are the decisions of the last whole trajectory
    of every kind. ``changes`` counts, for conditioning inputs, the steps in a row that
    were refused for them; ``varying`` are those that are no longer compared. Where
    every sample decides for itself, ``samples`` holds their trajectories, and none is
    the running one. Calls that lead hold the ``lock``.
    """

    layer: Layer = frozenset()
    last_used: float = 0.0
    current: Trajectory | None = None
    last: Trajectory | None = None
    lengths: dict[tuple[float, ...], int] = field(default_factory=dict)
    courses: dict[Start, Sequence[Decision]] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    calls: int = 0
    changes: dict[int, int] = field(default_factory=dict)
    varying: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, caller: Caller) -> Trajectory:
        """Start a new trajectory; the state of the one before is freed."""
        if self.current is not None:
            self.current.finish()
            self.last = self.current
            self.learn_from(self.current)
        self.current = Trajectory(
            caller.owner, caller.run, caller.num_steps, caller.announced
        )
        return self.current

    def learn_from(self, ended: Trajectory) -> None:
        """Note how long trajectories of its kind are, and what is decided in them."""
        start, length = tuple(ended.timesteps[:2]), len(ended.timesteps)
        # an abandoned run is shorter than a whole one that began the same way
        _remember(self.lengths, start, max(length, self.lengths.get(start, 0)))
        if len(ended.decisions) >= len(self.earlier(ended)):
            _remember(self.courses, _start(ended), ended.decisions)

    @property
    def running(self) -> list[Trajectory]:
        """The trajectories that have not ended."""
        under_way = [sample.trajectory for sample in self.samples.under_way]
        known = under_way if self.current is None else [self.current, *under_way]
        return [trajectory for trajectory in known if not trajectory.finished]

    @property
    def states(self) -> list[KeptState]:
        """What the branches of these keep."""
        return [branch.state for known in self.running for branch in known.branches]

    @property
    def decisions(self) -> Sequence[Decision]:
        """Those of the running trajectory, or of all samples."""
        return (
            self.samples.decisions if self.current is None else self.current.decisions
        )

    @property
    def used(self) -> bool:
        """Whether a call has been placed in it."""
        return self.current is not None or bool(self.samples.joined)

    def continued(self, caller: Caller) -> Trajectory | None:
        """The running trajectory, None if it has ended or another run has begun."""
        current = self.current
        if current is None or current.finished or current.run != caller.run:
            return None
        return current

    def refusal(
        self, branch: Branch, signal: Signal, full_steps: Sequence[int]
    ) -> Mismatch | None:
        """``branch.mismatch``; a step that goes on shows what does not vary."""
        run = self.current
        told = last = False
        if run is not None and run.tells_all_of(branch):
            told, last = True, branch.step + 2 == self.total(run)
        refused = branch.mismatch(
            signal, full_steps, self.varying, told=told, last=last
        )
        if refused is None and branch.step >= 0 and (self.changes or self.varying):
            self.changes.clear()
            self.varying &= branch.differing(signal)
        return refused

    def learn_varying(self, refused: Mismatch) -> list[int]:
        """Stop comparing what changes at every step; the inputs that are new there."""
        self.changes = {i: self.changes.get(i, 0) + 1 for i in refused.changed}
        new = [i for i, count in self.changes.items() if count == CHANGES_IN_A_ROW]
        self.varying.update(new)
        return new

    def forget(self) -> None:
        """Drop the running trajectory and all that was learnt from earlier ones."""
        if self.current is not None:
            self.current.finish()
        self.current = None
        for learnt in (self.lengths, self.courses, self.changes, self.varying):
            learnt.clear()

    def place(self, branch: Branch, step: int) -> tuple[Hashable, ...]:
        """All that decides about a step of a branch, but for its signal."""
        run = self.current or Trajectory("")
        return (
            step,
            branch.index,
            branch in run.branches,
            len(run.branches),
            len(run.timesteps),
            len(run.decisions),
            self.total(run),
            len(self.earlier(run)),
            tuple(branch.state.full_steps),
            branch.since_full,
        )

    def total(self, trajectory: Trajectory) -> int | None:
        """Steps of a trajectory, told or learnt from one that began the same way."""
        known = self.lengths.get(tuple(trajectory.timesteps[:2]))
        return trajectory.num_steps or known

    def earlier(self, trajectory: Trajectory) -> Sequence[Decision]:
        """What was decided in a trajectory before that began the same way."""
        return self.courses.get(_start(trajectory), ())


class Scopes:
    """The scopes of one graph.

    ``others`` are the positions of the arguments whose shapes tell calls apart,
    ``numbers`` those of the numbers that do. ``examples`` are the arguments that the
    graph was traced with: sizes that are no symbols are the same at every call.
    """

    def __init__(
        self,
        others: Sequence[int],
        numbers: Sequence[int],
        examples: Sequence[Any],
        report: GraphReport,
    ) -> None:
        self._layers: dict[Addresses, Layer] = {}
        self._newest: tuple[Addresses | None, Layer] = None, frozenset()
        self._others = others
        self._numbers = picker(numbers)
        shapes = _shapes([examples[i] for i in others])
        fixed = all(isinstance(size, int) for shape in shapes for size in shape)
        self._shapes = shapes if fixed else None
        self._report = report
        self._scopes: OrderedDict[tuple[str, Key], Scope] = OrderedDict()
        self._lock = threading.Lock()
        self._short_lived = 0
        with _lock:
            _all.add(self)

    def key(self, static: tuple[Tensor, ...], arguments: Sequence[Any]) -> Key:
        """The layer of a call and its shapes; the first call of a layer is noted.

        ``static`` are the parameters and buffers among the arguments.
        """
        same = addresses(static)
        newest, layer = self._newest
        if same != newest:  # most graphs serve one layer only
            layer = self._layers.get(same) or self._new_layer(same, static)
            self._newest = same, layer
        shapes = self._shapes
        if shapes is None:
            shapes = _shapes([arguments[i] for i in self._others])
        return (layer, shapes), self._numbers(arguments)

    def _new_layer(self, same: Addresses, static: Sequence[Tensor]) -> Layer:
        layer = frozenset(map(id, static))
        self._report_short_lives()
        with self._lock:
            self._layers[same] = layer
            if layer not in self._report.layers:
                self._report.layers.add(layer)
                for owner in static:
                    # an id is only good while its owner lives
                    weakref.finalize(owner, self._drop_layer, layer).atexit = False
                    self._report.reads(owner)
        return layer

    def get(self, name: str, key: Key) -> Scope:
        """The scope of an owner's calls with this key."""
        whose = name, key
        with self._lock:
            scope = self._scopes.get(whose)
            if scope is None:
                scope = self._scopes[whose] = Scope(layer=key[0][0])
                while len(self._scopes) > MAX_SCOPES:
                    self._scopes.popitem(last=False)
                    self._report.note(
                        f"more than {MAX_SCOPES} combinations of caller, layer, shapes "
                        "and numbers: the state of the one not used for longest is lost"
                    )
            self._scopes.move_to_end(whose)
            scope.last_used = time.monotonic()
            scope.calls += 1
            return scope

    def take(
        self, name: str, key: Key, slots: Sequence[Geometry], layout: StateLayout
    ) -> Scope | None:
        """Give an owner's scope away to a graph with another layout.

        None, and it is gone, if it holds no run or its state does not have these slots.
        """
        with self._lock:
            scope = self._scopes.pop((name, key), None)
        if scope is None or not scope.used:
            return None
        if any(state.geometry != slots for state in scope.states):
            return None
        for state in scope.states:
            state.layout = layout
        return scope

    def put(self, name: str, key: Key, scope: Scope) -> None:
        """Go on with a scope that another graph gave away."""
        with self._lock:
            self._scopes[name, key] = scope

    def of(self, ids: Set[int] | None) -> list[Scope]:
        """The scopes, of layers that hold one of these parameter ids if given."""
        with self._lock:
            scopes = list(self._scopes.values())
        return [scope for scope in scopes if ids is None or ids & scope.layer]

    def drop(self, ids: Set[int] | None) -> None:
        """Forget the scopes that ``of`` gives, with their state."""
        with self._lock:
            for key, scope in list(self._scopes.items()):
                if ids is None or ids & scope.layer:
                    del self._scopes[key]
                    for trajectory in scope.running:
                        trajectory.finish()

    def _drop_layer(self, layer: Layer) -> None:
        self._report.layers.discard(layer)
        self._newest = None, frozenset()
        # copies: another thread may add to them, and a finalizer must wait for no lock
        for same, known in list(self._layers.items()):
            if known == layer:
                self._layers.pop(same, None)
        for key in [key for key in list(self._scopes) if key[1][0][0] == layer]:
            scope = self._scopes.pop(key, None)
            if scope is not None and scope.calls == 1:
                self._short_lived += 1

    def _report_short_lives(self) -> None:
        if self._short_lived >= MANY_SHORT_LIVES:
            self._report.fall_back(
                "the weights are other tensors at every call: such calls run uncached"
            )


_all: weakref.WeakSet[Scopes] = weakref.WeakSet()
_lock = threading.Lock()  # other threads may compile while one looks through them


def running() -> list[tuple[str, Trajectory]]:
    """Every trajectory that has not ended, of all graphs, with its owner."""
    with _lock:
        known = list(_all)
    return [
        (trajectory.name, trajectory)
        for scopes in known
        for scope in scopes.of(None)
        for trajectory in scope.running
    ]


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    """Note a value as the newest; a process may see new kinds of runs for ever."""
    known.pop(key, None)
    known[key] = value
    if len(known) > MAX_COURSES:
        del known[next(iter(known))]


def _start(trajectory: Trajectory) -> Start:
    return trajectory.num_steps, tuple(trajectory.timesteps[:2])


def _shapes(values: Sequence[Any]) -> Shapes:
    shapes = [tuple(value.shape) for value in values if isinstance(value, Tensor)]
    return tuple(sorted(shapes, key=str))
