"""The models that nothing was chosen on: sampled, trained, cached with no option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rfc_compile
from rfc_compile.tools.measure.metrics import psnr

with pytest.MonkeyPatch.context() as patch:  # the benchmarks are not installed
    patch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks.cells import DIFFUSION, FLOW, cells_of
    from benchmarks.unseen import UNSEEN
    from benchmarks.unseen.train import DRAW, loss_of

STEPS = 28


@pytest.mark.parametrize("name", UNSEEN)
def test_with_no_option_it_is_cached_and_close(name: str) -> None:
    trained = UNSEEN[name]
    model = trained.load()
    wanted = trained.sample(model, [0, 1], seed=3, steps=STEPS)
    net: Any = torch.compile(
        trained.load(), backend="rfc", dynamic=False, options={"inner": "eager"}
    )
    with rfc_compile.trajectory("run", num_steps=STEPS):
        drawn = trained.sample(net, [0, 1], seed=3, steps=STEPS)
    known = rfc_compile.stats(net)
    assert known is not None
    assert known.nfc <= 0.6 * STEPS
    flat = (x.flatten(2, -2) if x.ndim == 5 else x for x in (drawn, wanted))
    assert psnr(*flat).mean() > 33


@pytest.mark.parametrize("name", UNSEEN)
def test_it_learns_what_it_predicts(name: str) -> None:
    """Less of the training loss than the mean of the data would leave."""
    torch.manual_seed(0)
    labels = torch.randint(len(UNSEEN[name].examples), (32,))
    samples = DRAW[name](labels)
    assert samples.shape[1:] == UNSEEN[name].latent_shape
    assert samples.abs().max() <= 1.5
    trained, untrained = UNSEEN[name].load(), UNSEEN[name].make()
    with torch.no_grad():
        losses = [loss_of(name, net, samples, labels) for net in (trained, untrained)]
    assert losses[0] < 0.6 * losses[1]


@pytest.mark.parametrize("name", UNSEEN)
def test_the_matrix_has_its_samplers(name: str) -> None:
    samplers = {cell.sampler for cell in cells_of(name)}
    kind = FLOW if "euler_shift3" in UNSEEN[name].schedulers else DIFFUSION
    assert samplers == {*kind} & {*UNSEEN[name].schedulers}
