"""The pipeline: every pass is seen, and those that may be left out are."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from capture import zoo_capture
from models import Stack, build, timesteps, tokens
from torch import fx

from rfc_compile.passes.fx_utils import aten
from rfc_compile.passes.pipeline import OPTIONAL_PASSES
from rfc_compile.passes.rewrites.small_matmuls import MOST_ROWS
from rfc_compile.runtime.registry import dispatchers_of
from rfc_compile.torch_internals import invoke_subgraph

MATMULS = (aten.mm.default, aten.addmm.default)


class Deep(Stack):
    """Enough blocks to be folded."""

    depth = 4


def cached_graph(disabled: Sequence[str]) -> fx.GraphModule:
    """The cached graph of a model, handed to inductor but not compiled."""
    options = {
        "schedule": "mask",
        "full_steps": [0],
        "granularity": "module",
        "min_coverage": 0.0,
        "disable_passes": disabled,
    }
    torch._dynamo.reset()
    model = torch.compile(build(Deep), backend="rfc", options=options)
    with torch.no_grad():
        model(tokens(), timesteps(9))
    (dispatcher,) = dispatchers_of(model)
    return dispatcher.graphs["cached"].gm


def calls(gm: fx.GraphModule) -> list[fx.Node]:
    """Those of the graph and of its folded blocks."""
    modules = [module for module in gm.modules() if isinstance(module, fx.GraphModule)]
    return [node for each in modules for node in each.graph.nodes]


@pytest.mark.slow
@pytest.mark.parametrize(
    "disabled", [[], ["small_matmuls"], ["fold_repeats"], list(OPTIONAL_PASSES)]
)
def test_a_pass_that_is_disabled_is_left_out(
    disabled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rfc_compile"):
        gm = cached_graph(disabled)
    matmuls = [node for node in calls(gm) if node.target in MATMULS]
    of_few_rows = [n for n in matmuls if n.meta["val"].shape[0] <= MOST_ROWS]
    assert bool(of_few_rows) == ("small_matmuls" in disabled)
    folded = any(node.target is invoke_subgraph for node in calls(gm))
    assert folded == ("fold_repeats" not in disabled)
    logged = [text for text in caplog.messages if text.startswith("passes left out")]
    assert logged == ([f"passes left out: {', '.join(disabled)}"] if disabled else [])


def test_every_graph_is_shown_in_the_order_of_the_pipeline() -> None:
    captured = zoo_capture("Small")
    assert list(captured.stages) == [
        "dynamo",
        "functionalize",
        "outline",
        "conditional",
        "hoist_predicate",
        "probe",
        "full",
        "cached",
    ]
