"""model_region: the whole forward as one region."""

from __future__ import annotations

import pytest
from capture import capture
from joined_stacks import Halved, Hints, Joined, Returned, Skips, check_full_steps
from models import Stack, build, timesteps, tokens
from torch import Tensor

from rfc_compile.passes.analysis.flops import is_expensive
from rfc_compile.passes.analysis.records import module_path


@pytest.mark.parametrize("model", [Returned, Skips, Hints, Joined, Halved])
def test_the_model_is_one_region_whatever_lies_between(model: type[Stack]) -> None:
    """Every result is kept, and a cached step computes nothing that is expensive."""
    call = (tokens(), timesteps(9), tokens(5))
    captured = capture(build(model), *call, granularity="model", estimator="taylor")
    (region,) = captured.found.regions.found
    assert (region.kind, region.bases) == ("model", ())
    assert len(region.outputs) == (2 if model is Returned else 1)
    assert not captured.found.regions.merge_refusals
    assert captured.whole is not None
    left = [n for n in captured.whole.cached.gm.graph.nodes if is_expensive(n)]
    paths = {module_path([node]) for node in left}
    assert not {path for path in paths if path.startswith("blocks.1")}, paths
    check_full_steps(captured)


class Counted(Stack):
    """The index of the largest value is returned as well: it cannot be predicted."""

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        result = super().forward(x, t, text)
        return result, result.argmax(-1)


class Summed(Stack):
    """One number of the whole batch is returned as well."""

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        result = super().forward(x, t, text)
        return result, result.square().mean()


@pytest.mark.parametrize("model", [Counted, Summed])
def test_results_that_cannot_be_predicted_leave_the_stack(model: type[Stack]) -> None:
    captured = capture(build(model), tokens(), timesteps(9), granularity="model")
    regions = captured.found.regions
    assert [region.kind for region in regions.found] == ["stack"]
    assert "is no batch of numbers" in regions.merge_refusals[0]
