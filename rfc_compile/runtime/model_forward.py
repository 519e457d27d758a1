"""One call of a model may run several graphs: the first decides, the others follow.

    first graph with a region      leads: finds the branch, decides, is recorded
    every other graph or layer     follows: same decision and branch, state of its own;
                                   one with the timestep none that is without

Where a model is compiled block by block, or breaks into several graphs, no graph sees
the whole call. A graph takes part in the running one if its layer has not run yet and
it is given a tensor of that call: a result (the stream), or an argument that is new in
it (the timestep's embedding; a prompt or a label may be shared by models). A layer that
has run takes part again if all its tensors belong to that call. Calls of a graph that
has had no followers for a while are not tracked.

To the sampler a broken forward is one model: the last graph that returns something
shaped like the leading graph's latent answers it. Which one that is shows when the
second forward begins.
"""

from __future__ import annotations

import itertools
import operator
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from rfc_compile.runtime.call_context import CallContext, current_context
from rfc_compile.runtime.guidance_branch import GuidanceBranch
from rfc_compile.runtime.latent_pair import copies_of_tensors, find_latent_pair
from rfc_compile.runtime.noise_level import on_axis
from rfc_compile.runtime.ranks import Ranks
from rfc_compile.runtime.session import LayerKey
from rfc_compile.runtime.step import PlacedStep
from rfc_compile.runtime.trajectory import Trajectory

MAX_OWNERS = 64
"""Threads, tasks and names whose running call is kept; the oldest is evicted."""

MAX_RUNS_OF_A_LAYER = 64
"""Runs of one layer in a call, each with state of its own; one more is a new call."""

graph_numbers = itertools.count()
"""Of the graphs, in the order in which they are compiled."""

_NEVER = -1, -1

Answered = Callable[..., Sequence[Any]]
"""Takes the graph that answers the latent, its outputs, and whether the forward is
``over``; returns what the caller is given."""


class ModelForward:
    """What the leading graph of a forward passes to its followers.

    Attributes:
        leader: the serial number of the graph that leads.
        branch: the CFG branch; its ``followers`` hold the state of the other graphs.
        keep: whether values of a full step may be kept (not after broken inputs).
        ranks: those that the leader decides with, None if by itself.
        number: of the call, counted by owner.
        timed: whether the leading graph is given the timestep.
        layered: whether another layer that computes the same has continued it.
        answered: takes what answers the latent, None where nobody waits for it.

    ``over`` is set once a later call has been made that was not tracked.
    ``_given`` holds the numbers of the first and the last call that were given a
    tensor, ``_results`` that of the last call which it is a result of.
    """

    def __init__(
        self,
        call: PlacedStep,
        trajectory: Trajectory,
        leader: int,
        ranks: Ranks | None,
        computes: Hashable,
        timed: bool,
        *,
        full: bool,
        keep: bool,
    ) -> None:
        self.over = False
        self.leader = leader
        self.context = call.context
        self._branch = weakref.ref(call.branch)
        self.step = call.step
        self._trajectory = weakref.ref(trajectory)
        self.full = full
        self.keep = keep
        self.ranks = ranks
        self.computes = computes
        self.timed = timed
        self.layered = False
        self._layers: dict[LayerKey, int] = {}
        self._resumed = False
        self.number = 0
        self._given: Any = WeakTensorKeyDictionary()
        self._results: Any = WeakTensorKeyDictionary()
        self._latents: Sequence[Any] = ()
        self._answered_by: Hashable = None
        self._newest_answer: tuple[Hashable, Sequence[Any]] = (None, ())
        self._answering: Sequence[Any] = ()
        self.answered: Answered | None = None

    def expect(
        self, latents: Sequence[Any], answered_by: Hashable, answered: Answered
    ) -> None:
        """Pass on the outputs of the graph that answers these latents.

        ``answered_by`` is the graph that did so last time. Where it does not run, as it
        was compiled anew, the last one that can is taken when the forward is over.
        """
        self._latents, self._answered_by = latents, answered_by
        self.answered = answered

    def finish(self) -> None:
        """The forward is over: another one of its owner begins."""
        answered, self.answered = self.answered, None
        found, self._newest_answer = self._newest_answer, (None, ())
        self._latents = self._answering = ()
        if answered is not None:
            answered(*found, over=True)

    def comes_after(self, before: ModelForward) -> None:
        """Take over what is known of the tensors of its owner's previous call."""
        self._resumed = before.over
        self.number = before.number + 1
        self._given, self._results = before._given, before._results

    def _answers(self, results: Sequence[Any]) -> bool:
        if self.answered is None:
            return False
        return find_latent_pair(self._latents, results) is not None

    @property
    def branch(self) -> GuidanceBranch | None:
        """The branch, None once its trajectory has ended."""
        return self._branch()

    def times(self, full_steps: Sequence[int]) -> tuple[float, ...] | None:
        """The time of this step and of these full ones before, if known."""
        run = self._trajectory()
        if run is None:
            return None
        times = [run.times[at] for at in (self.step, *full_steps)]
        return on_axis(run.process, times)

    def includes(
        self, layer: LayerKey, arguments: Iterable[Any], *, by_results: bool
    ) -> bool:
        """Whether a graph that is called now takes part in this call.

        ``by_results``: only if it is given a result of the call. A whole model shares
        new arguments (latent, timestep) with another one in the same step.
        """
        if self.branch is None:
            return False
        runs = self.occurrence(layer)
        if runs and (by_results or runs >= MAX_RUNS_OF_A_LAYER):
            return False
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if runs:
            return self._holds(tensors)
        return any(
            self._results.get(tensor) == self.number
            or (not by_results and self._first_given(tensor) == self.number)
            for tensor in tensors
        )

    def _first_given(self, tensor: Tensor) -> int:
        first, _ = self._given.get(tensor, _NEVER)
        return int(first)

    def _holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether all are known here, a result among them: not so at the next step."""
        results = [self._results.get(tensor) == self.number for tensor in tensors]
        given = (self._given.get(tensor, _NEVER) for tensor in tensors)
        known = (last == self.number for _, last in given)
        return any(results) and all(map(operator.or_, results, known))

    def occurrence(self, layer: LayerKey) -> int:
        """How often a layer has run in this call."""
        return self._layers.get(layer, 0)

    def has_run(self, layer: LayerKey) -> bool:
        """Whether a layer has run in this call, with tensors of any shapes."""
        return any(ids == layer[0] for ids, _ in self._layers)

    def add(
        self,
        graph: Hashable,
        layer: LayerKey,
        arguments: Sequence[Any],
        results: Sequence[Any],
    ) -> Sequence[Any]:
        """A graph has run with these tensors (its parameters left out).

        Returns what it is to return.
        """
        self._layers[layer] = self.occurrence(layer) + 1
        # calls that were not noted may have been given any of them
        new = self.number - self._resumed
        for value in arguments:
            if isinstance(value, Tensor):
                first, _ = self._given.get(value, (new, self.number))
                self._given[value] = first, self.number
        return self._add_results(graph, arguments, results)

    def add_uncached(
        self, graph: Hashable, arguments: Iterable[Any], results: Sequence[Any]
    ) -> Sequence[Any]:
        """A graph without regions has run: part of this call if given a result."""
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if any(self._results.get(tensor) == self.number for tensor in tensors):
            return self._add_results(graph, tensors, results)
        return results

    def _add_results(
        self, graph: Hashable, arguments: Iterable[Any], results: Sequence[Any]
    ) -> Sequence[Any]:
        streams = [own for own in self._answering if isinstance(own, Tensor)]
        if streams and any(own is value for own in streams for value in arguments):
            self._newest_answer, self._answering = (None, ()), ()  # it was a stream
        if self._answers(results):
            if self._answered_by != graph:
                self._newest_answer = graph, copies_of_tensors(results)
                self._answering = results
            else:
                answered, self.answered = self.answered, None
                assert answered is not None
                results = answered(graph, results, over=False)
        for value in results:
            if isinstance(value, Tensor):
                self._results[value] = self.number
        return results


_running: OrderedDict[str, ModelForward] = OrderedDict()
_lock = threading.Lock()


def running(context: CallContext) -> ModelForward | None:
    """The call that a context is in, or made last."""
    call = _running.get(context.owner)
    if call is None or call.over or call.context != context:
        return None
    return call


def newest(owner: str) -> int:
    """The number of the forward that an owner has begun last; -1 before the first."""
    call = _running.get(owner)
    return -1 if call is None else call.number


def leave(owner: str) -> None:
    """End the call of an owner: the next one has no followers."""
    call = _running.get(owner)
    if call is not None:
        call.over = True


def add_uncached(
    graph: int, arguments: Iterable[Any], results: Sequence[Any]
) -> Sequence[Any]:
    """A graph without regions has run; returns what it is to return."""
    call = running(current_context())
    return results if call is None else call.add_uncached(graph, arguments, results)


def finish(owner: str) -> None:
    """Another forward of an owner begins."""
    call = _running.get(owner)
    if call is not None and call.answered is not None:
        call.finish()


def begin(call: ModelForward) -> None:
    """A graph leads a new call."""
    owner = call.context.owner
    with _lock:
        before = _running.get(owner)
        if before is not None:
            call.comes_after(before)
        _running[owner] = call
        _running.move_to_end(owner)
        while len(_running) > MAX_OWNERS:
            _running.popitem(last=False)
