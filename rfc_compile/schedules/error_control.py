"""Error control, as in a multistep solver of an ODE: the default.

    full  <=>  the debt of the cached steps since the last full one would pass ``tol``,
               or the relative error of the step's own output its bound

The debt is what the predictions' errors add up to in the latent, relative to its norm
(``Curvature``). It is estimated from the curvature of the last full outputs and
the sampler's own weights, so one tolerance gives about the same error of the image on
every model. Cached steps need no signal. Intervals grow slowly, because past curvature
says little about the curvature far ahead; where full steps repay nothing (masks,
overlapping windows, solvers of order 3), they are no longer than those of an even
spread. Of the first interval nothing is known: it is that of as many full steps spread
evenly over the noise level. Where that is not known, or the model predicts noise, whose
errors at the start grow most, the first two steps are full.

Where fresh noise or edits leave the latents unexplained, full steps are spread evenly
(``even``), and the error of the last one's own prediction stands for those that follow.
Where the sampler is not observed, they are spread evenly. With ``min_psnr``, which
needs the debt, every step is full in both.

A guidance branch that is not called at every step has other full steps than the rest,
and its errors do not cancel: all branches are full where it is called or may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rfc_compile.graph_report import GraphReport
from rfc_compile.schedules.base import (
    CACHED,
    FULL,
    Position,
    Schedule,
    ScheduleOptions,
)
from rfc_compile.schedules.even import Even
from rfc_compile.schedules.promise import psnr_of

NOT_FORETOLD = "not_foretold"
"""The reason of full steps with ``min_psnr`` where the error cannot be estimated."""

SKIPPED = "skipped"
"""The reason of full steps where a guidance branch skips steps."""

LONGEST_INTERVAL = 6

OUTPUT_ERROR = 1.77
"""Largest relative error of a predicted output, times the root of the tolerance. An
error made at high noise counts little in the latent at first and grows until the end;
this bounds it."""

GROWTH = 1.5
"""An interval is at most this many times the last one."""


class ErrorControl(Schedule):
    """A full step where the debt of a cached run would pass the tolerance."""

    name = "error_control"
    static = True
    measures = True
    by_noise = True

    def __init__(
        self, options: ScheduleOptions, report: GraphReport | None = None
    ) -> None:
        super().__init__(options, report)
        self._even = Even(options, report)
        self._tolerance = options.largest_debt
        self._largest_output_error = OUTPUT_ERROR * math.sqrt(self._tolerance)

    def expected_psnr(self, debts: Sequence[float]) -> float | None:
        """By the tolerance, which says more than the debts."""
        return psnr_of(self._tolerance) if debts else None

    def decide(self, position: Position) -> tuple[float, str]:
        """Full where one more cached step would owe too much."""
        since = position.since_full
        if position.skips:  # errors of branches with other full steps do not cancel
            return FULL, SKIPPED
        if position.last_interval is None:  # a curvature needs two full steps
            if position.noise_level is None or position.noisy:
                return FULL, self.name
            return self._even.decide(position)
        curvature = position.curvature
        explained = curvature is not None and bool(curvature.nodes)
        if position.noisy and explained:  # measured before the noise
            return FULL, self.name
        if self.options.min_psnr is not None and not explained:
            return FULL, NOT_FORETOLD
        if curvature is None:
            return self._even.decide(position)
        longest = min(LONGEST_INTERVAL, math.ceil(GROWTH * position.last_interval))
        if curvature.unpaid:
            longest = min(longest, self._even.interval(position))
        times, process = position.times, position.process
        if process is not None and process.by_level:  # else a call less
            times = position.places
        times = times[-since - 1 :]
        owed, own = curvature.debt(times), curvature.output_error(times[-1])
        due = since + 1 >= longest or owed > self._tolerance
        if due or own > self._largest_output_error:
            return FULL, self.name
        return (CACHED, self.name) if explained else self._even.decide(position)
