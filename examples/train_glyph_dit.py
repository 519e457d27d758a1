"""Trains the bundled model, or one like it, from nothing but matplotlib's fonts.

The recipe is the second phase of the one in the model card
(rfc_compile/assets/glyph-dit/README.md), on v-prediction from the start. A couple of
hours on two CPU cores with --compile.

Run: python examples/train_glyph_dit.py --output my-glyph-dit
"""

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
from diffusers import DiTTransformer2DModel, SchedulerMixin
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rfc_compile.tools.measure import glyph_dit

PIXELS: Final = 32
SCALE: Final = 4
FONTS: Final = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
LUMINANCE: Final = np.array([0.299, 0.587, 0.114])
LEAST_CONTRAST: Final = 70.0
PEAK_LEARNING_RATE: Final = 1e-3


def draw_glyph(rng: np.random.Generator, digit: int) -> np.ndarray:
    """Draws `digit` on a gradient; returns (32, 32, 3) uint8."""
    mask = glyph_mask(rng, digit)[..., None]
    background = gradient(rng)
    mean_luminance = background.mean(axis=(0, 1)) @ LUMINANCE
    colour = rng.uniform(0, 255, 3)
    while abs(colour @ LUMINANCE - mean_luminance) < LEAST_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    return (mask * colour + (1 - mask) * background).round().astype(np.uint8)


def glyph_mask(rng: np.random.Generator, digit: int) -> np.ndarray:
    """Draws `digit` in a random font, place and angle; returns (32, 32) in [0, 1]."""
    side = SCALE * PIXELS
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font_file = folder / f"{rng.choice(FONTS)}.ttf"
    font = ImageFont.truetype(str(font_file), int(rng.integers(104, 125)))
    shift = rng.integers(-6, 7, 2)
    image = Image.new("L", (side, side))
    centre = (side / 2 + int(shift[0]), side / 2 + int(shift[1]))
    ImageDraw.Draw(image).text(centre, str(digit), fill=255, font=font, anchor="mm")
    image = image.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    small = image.resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float64) / 255


def gradient(rng: np.random.Generator) -> np.ndarray:
    """Blends two random colours at a random angle; returns (32, 32, 3) in 0..255."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-1 : 1 : PIXELS * 1j, -1 : 1 : PIXELS * 1j]
    position = x * math.cos(angle) + y * math.sin(angle)
    position = (position - position.min()) / np.ptp(position)
    start, end = rng.uniform(0, 255, (2, 3))
    return start + position[..., None] * (end - start)


def make_dataset(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws images (count, 3, 32, 32) uint8 and their classes (count,) int64."""
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, glyph_dit.NUM_CLASSES, count)
    images = np.stack([draw_glyph(rng, int(digit)) for digit in digits])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(digits)


def make_model() -> DiTTransformer2DModel:
    """Builds an untrained model of the bundled one's configuration."""
    config = DiTTransformer2DModel.load_config(glyph_dit.MODEL_FOLDER)
    model = DiTTransformer2DModel.from_config(config)
    zeroed = [block.norm1.linear for block in model.transformer_blocks]
    for linear in (*zeroed, model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


def loss_of(
    model: nn.Module, scheduler: SchedulerMixin, images: Tensor, classes: Tensor
) -> Tensor:
    """Mean squared error of v on `images` (B, 3, 32, 32) uint8 at random times."""
    x0 = images.float() / 127.5 - 1
    noise = torch.randn_like(x0)
    t = torch.randint(0, len(scheduler.betas), (len(x0),), device=x0.device)
    x_t = scheduler.add_noise(x0, noise, t)
    with torch.autocast(x0.device.type, dtype=torch.bfloat16):
        v = model(x_t, timestep=t, class_labels=classes).sample
    return F.mse_loss(v.float(), scheduler.get_velocity(x0, noise, t))


def train(args: Namespace) -> DiTTransformer2DModel:
    """Trains for `args.steps` steps; returns the exponential moving average."""
    torch.manual_seed(args.seed)
    device = glyph_dit.default_device()
    images, classes = (part.to(device) for part in make_dataset(args.images, args.seed))
    model = make_model().to(device).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    forward = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    scheduler = glyph_dit.make_scheduler("ddim", steps=50)
    for step in range(1, args.steps + 1):
        batch = torch.randint(0, len(images), (args.batch,), device=device)
        loss = loss_of(forward, scheduler, images[batch], classes[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        if step % 100 == 0 or step == args.steps:
            print(f"step {step} of {args.steps}: loss {loss.item():.4f}", flush=True)
    return average.module


def main() -> None:
    """Draws the data set, trains, and saves the model in bfloat16."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--images", type=int, default=20_000, help="size of the data")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("glyph-dit"))
    parser.add_argument("--compile", action="store_true", help="compile the model")
    args = parser.parse_args()

    train(args).bfloat16().save_pretrained(args.output)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
