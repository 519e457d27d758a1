"""Our configurations, chosen on all models but one and judged on the one left out.

For each model the configuration is taken that is furthest ahead of the best rival on
the other models, every model counting the same; only its numbers on the model left out
are reported. Reads what `python -m benchmarks matrix` has measured.
"""

import statistics
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

from benchmarks.report import Grid, publish
from benchmarks.scores import DEFAULT, OURS, Scores, read_lines, verdicts
from rfc_compile.errors import OptionError

LEAST_MODELS: Final = 2


def choose(scores: Scores, models: Sequence[str]) -> str:
    """The configuration that leads most on these models.

    One that lacks numbers in a cell where another has them is judged on the others.
    """

    def lead(config: str) -> float:
        means = [
            statistics.mean(leads)
            for model in models
            if (leads := scores.leads(scores.cells_of(model), config))
        ]
        return statistics.mean(means) if means else float("-inf")

    return max(scores.configurations, key=lead)


def chosen_without(scores: Scores) -> dict[str, str]:
    """For each model what is chosen on the others."""
    models = scores.models
    if len(models) < LEAST_MODELS or not scores.configurations:
        raise OptionError(
            "nothing can be left out: the matrix has numbers of "
            f"{len(models)} model(s); run python -m benchmarks matrix first"
        )
    return {
        model: choose(scores, [other for other in models if other != model])
        for model in models
    }


def table(scores: Scores, chosen: dict[str, str]) -> Grid:
    """Per model: what was chosen on the others, and how it does on this one."""
    rows = []
    for model, config in chosen.items():
        cells = scores.cells_of(model)
        leads = scores.leads(cells, config)
        lines = [line for cell in cells if (line := scores.ours(cell, config))]
        own = choose(scores, [model])
        best = statistics.mean(scores.leads(cells, own)) if leads else float("nan")
        rows.append(
            [
                model,
                config,
                str(len(leads)),
                f"{statistics.mean(line.psnr for line in lines):.1f}" if lines else "-",
                f"{statistics.mean(leads):+.1f}" if leads else "-",
                f"{min(leads):+.1f}" if leads else "-",
                f"{best:+.1f} ({own})",
            ]
        )
    header = ["left out", f"{OURS} as chosen on the others", "cells", "PSNR dB"]
    header += ["over the best rival", "at least", "its own best choice"]
    return Grid("Chosen on the other models", header, rows)


def run(args: Namespace) -> None:
    """As quick as ever: nothing is measured."""
    scores = Scores(read_lines())
    chosen = chosen_without(scores)
    claims = verdicts(scores, lambda model: chosen.get(model, DEFAULT))
    data = {"chosen": chosen, "verdicts": claims}
    publish("left_out", "Left-out judging", data, [table(scores, chosen)], claims)
