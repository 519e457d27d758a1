"""The dispatchers by model, and the run that ran most recently."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Protocol

from torch import nn

from rfc_compile.compiler.inner_graphs import LazyGraph
from rfc_compile.config.options import Options
from rfc_compile.graph_report import (
    GraphReport,
    all_reports,
    reports_of,
    tensor_ids,
)
from rfc_compile.runtime.session import Session


class Dispatcher(Protocol):
    """What reports and tools use of a dispatcher."""

    report: GraphReport
    graphs: dict[str, LazyGraph]
    options: Options
    seconds: float

    def sessions(self, of: Set[int] | None = None) -> list[Session]:
        """The sessions, of layers that hold one of these parameter ids if given."""

    def reset(self, of: Set[int] | None = None) -> None:
        """Drop trajectories and their state; compiled graphs stay."""

    def decide_by(self, options: Options) -> None:
        """Follow the schedule of these options from the next run on."""


def dispatchers_of(model: nn.Module | None) -> list[Dispatcher]:
    """The dispatchers of a model's graphs, of all graphs for None."""
    return _dispatchers_of(reports_of(model))


def dispatchers_with(layer: Set[int]) -> list[Dispatcher]:
    """The dispatchers that have been called with just these parameters, by id."""
    return _dispatchers_of([r for r in all_reports() if layer in r.layers])


def _dispatchers_of(reports: Iterable[GraphReport]) -> list[Dispatcher]:
    references = [report.dispatcher for report in reports]
    alive = [reference() for reference in references if reference is not None]
    return [dispatcher for dispatcher in alive if dispatcher is not None]


def newest_run(
    model: nn.Module | None, ids: frozenset[int] | None = None
) -> tuple[Session, Dispatcher] | None:
    """The session that ran most recently, and the dispatcher that led it.

    The model's ``tensor_ids`` may be given where they are known.
    """
    ids = tensor_ids(model) if ids is None else ids
    running = [
        (session.last_used, position, session, dispatcher)
        for position, dispatcher in enumerate(_dispatchers_of(reports_of(model, ids)))
        for session in dispatcher.sessions(ids)
    ]
    return max(running, key=lambda entry: entry[:2])[2:] if running else None


def reset(model: nn.Module | None = None) -> None:
    """Drop the cached state of a model (None: of all); compiled graphs stay."""
    ids = tensor_ids(model)
    for dispatcher in _dispatchers_of(reports_of(model, ids)):
        dispatcher.reset(ids)
