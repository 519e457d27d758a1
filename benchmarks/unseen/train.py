"""Trains the unseen models: `python -m benchmarks.unseen.train [NAME ...]`.

Nine minutes each on one CPU core. Needs scikit-learn.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.unseen import UNSEEN, data
from rfc_compile.tools.measure.schedulers import diffusion_schedulers

DRAW: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "sd3-digits": data.digits,
    "pixart-photographs": data.photographs,
    "series-transformer": data.series,
}
LEARNING_RATE: Final = 1e-3
WARMUP_STEPS: Final = 100
WITHOUT_LABEL: Final = 0.1
"""Share of the samples, for guidance."""
BATCHES: Final = 50
"""That are drawn at once."""


def train(name: str, *, minutes: float, batch: int) -> None:
    """Train for so long, and save the average of the weights in bfloat16."""
    torch.manual_seed(0)
    trained = UNSEEN[name]
    model = trained.make()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99))
    begun, step, part = time.process_time(), 0, 0.0
    while part < 1:
        if step % BATCHES == 0:
            labels = torch.randint(len(trained.examples), (batch * BATCHES,))
            samples = DRAW[name](labels)
        rows = slice(step % BATCHES * batch, (step % BATCHES + 1) * batch)
        loss = loss_of(name, model, samples[rows], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = LEARNING_RATE * min(1, step / WARMUP_STEPS) * (1 - part)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        average.update_parameters(model)
        step, part = step + 1, (time.process_time() - begun) / (60 * minutes)
        if step % 250 == 0:
            print(
                f"{name}: step {step}, {part:.0%}: loss {loss.item():.4f}", flush=True
            )
    saved: Any = average.module.bfloat16()
    saved.save_pretrained(trained.folder)


def loss_of(name: str, model: Any, samples: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of what the model predicts at random noise levels."""
    trained = UNSEEN[name]
    noise = torch.randn_like(samples)
    shape = (-1, *(1 for _ in trained.latent_shape))
    inputs, empty = trained.encode(labels)
    hidden = torch.rand(len(labels)) < WITHOUT_LABEL
    for key in inputs:
        inputs[key][hidden] = empty[key][hidden]
    if "euler_shift3" in trained.schedulers:
        sigma = torch.sigmoid(torch.randn(len(samples)))
        noisy = torch.lerp(samples, noise, sigma.view(shape))
        time, target = sigma * 1000, noise - samples
    else:
        time = torch.randint(1000, (len(samples),))
        scheduler: Any = diffusion_schedulers("epsilon")["ddpm"](1000)
        noisy = scheduler.add_noise(samples, noise, time)
        target = noise if name == "pixart-photographs" else samples
    return F.mse_loss(model(noisy, timestep=time, **inputs).sample, target)


def main() -> None:
    """Train the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *UNSEEN], default=[])
    parser.add_argument(
        "--minutes", type=float, default=9, help="of processor time, for each"
    )
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    for name in args.names or UNSEEN:
        train(name, minutes=args.minutes, batch=args.batch)


if __name__ == "__main__":
    main()
