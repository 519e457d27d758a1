"""Serves requests that join and leave a batch, as inference engines do.

Every call of the model denoises whatever requests are under way, each at a timestep of
its own. With `per_sample=True` each row of the batch is computed in full or predicted
by its own course: a request becomes what it is alone, whatever else is served.

Run: python examples/serving.py [--inner inductor|aot_eager|eager] [--blocks 12]

Shape suffixes: B batch, C channels, H height, W width.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import rfc_compile
from rfc_compile.tools.measure import glyph_dit, metrics


class Request:
    """One image to draw; it joins before the call `joins` of the model."""

    def __init__(self, label: int, joins: int, steps: int) -> None:
        self.label, self.joins, self.steps = label, joins, steps
        self.sampler = glyph_dit.make_scheduler("ddim", steps)
        self.x_1CHW = glyph_dit.initial_noise(1, seed=label)
        self.done = 0

    @property
    def timestep(self) -> Tensor:
        """That of its next step, 0-dimensional."""
        return self.sampler.timesteps[self.done]

    def take(self, v_1CHW: Tensor) -> None:
        """Goes on by a step with the model's prediction."""
        self.x_1CHW = self.sampler.step(v_1CHW, self.timestep, self.x_1CHW).prev_sample
        self.done += 1


@torch.no_grad()
def serve(model: Callable[..., Any], requests: Sequence[Request]) -> int:
    """Draws all requests; returns the number of calls that it took."""
    call = 0
    while any(request.done < request.steps for request in requests):
        batch = [r for r in requests if r.joins <= call and r.done < r.steps]
        v_BCHW = model(
            torch.cat([request.x_1CHW for request in batch]),
            timestep=torch.stack([request.timestep for request in batch]),
            class_labels=torch.tensor([request.label for request in batch]),
        ).sample
        for request, v_1CHW in zip(batch, v_BCHW.split(1), strict=True):
            request.take(v_1CHW)
        call += 1
    return call


def main() -> None:
    """Serves five requests with rfc, and compares them with uncached ones."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--inner", default="inductor", help="inner backend")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of the model")
    args = parser.parse_args()

    model = glyph_dit.load_glyph_dit()
    model.transformer_blocks = model.transformer_blocks[: args.blocks]
    plan = [(3, 0, 20), (8, 0, 20), (5, 4, 30), (0, 9, 20), (7, 9, 30)]
    expected = [Request(*request) for request in plan]
    serve(model, expected)

    options = {"per_sample": True, "inner": args.inner}
    compiled = torch.compile(model, backend="rfc", options=options, dynamic=True)
    requests = [Request(*request) for request in plan]
    calls = serve(compiled, requests)

    statistics = rfc_compile.stats(compiled)
    for request, reference, sample in zip(
        requests, expected, statistics.samples, strict=True
    ):
        images = request.x_1CHW.clamp(-1, 1), reference.x_1CHW.clamp(-1, 1)
        (psnr,) = metrics.psnr(*images)
        print(
            f"digit {request.label}, joined at call {request.joins}: {sample.nfc} of "
            f"{request.steps} steps in full, PSNR {psnr:.1f} dB"
        )
    rows = len(statistics.decisions)
    print(f"{calls} calls, {statistics.nfc} of {rows} rows computed in full")


if __name__ == "__main__":
    main()
