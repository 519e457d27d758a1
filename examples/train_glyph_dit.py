"""Trains the bundled digits, or models like them, from nothing but matplotlib's fonts.

`--prediction v` is the second phase of glyph-dit's recipe (its card is in
rfc_compile/assets/glyph-dit), `--prediction epsilon` is DiT's own form, with learned
variance, as glyph-dit-epsilon. A couple of hours on two CPU cores.

Run: python examples/train_glyph_dit.py --output my-glyph-dit
Continues after an interruption with --resume.
"""

import math
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import matplotlib
import numpy as np
import torch
import training_loop
from diffusers import DiTTransformer2DModel
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from rfc_compile.tools.measure import glyph_dit

PIXELS: Final = 32
SCALE: Final = 4
FONTS: Final = ("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold")
LUMINANCE: Final = np.array([0.299, 0.587, 0.114])
LEAST_CONTRAST: Final = 70.0
VARIANCE_WEIGHT: Final = 1e-3


def draw_glyph(rng: np.random.Generator, digit: int) -> np.ndarray:
    """Draws `digit` on a gradient; returns (32, 32, 3) uint8."""
    mask = glyph_mask(rng, digit)[..., None]
    background = gradient(rng)
    mean_luminance = background.mean(axis=(0, 1)) @ LUMINANCE
    colour = rng.uniform(0, 255, 3)
    while abs(colour @ LUMINANCE - mean_luminance) < LEAST_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    return (mask * colour + (1 - mask) * background).round().astype(np.uint8)


def draw_upright(digit: int, font: str, side: int) -> np.ndarray:
    """A digit in the middle of a square, (side, side) in [0, 1]."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    image = Image.new("L", (side, side))
    face = ImageFont.truetype(str(path), int(0.9 * side))
    middle = (side / 2, side / 2)
    ImageDraw.Draw(image).text(middle, str(digit), fill=255, font=face, anchor="mm")
    return np.asarray(image, dtype=np.float64) / 255


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


def make_model(prediction: str) -> DiTTransformer2DModel:
    """Builds an untrained model of the bundled ones' configuration."""
    config = dict(DiTTransformer2DModel.load_config(glyph_dit.MODEL_FOLDER))
    if prediction == "epsilon":
        config["out_channels"] = 2 * config["in_channels"]
    model = DiTTransformer2DModel.from_config(config)
    zeroed = [block.norm1.linear for block in model.transformer_blocks]
    for linear in (*zeroed, model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


@dataclass(frozen=True)
class Noising:
    """The forward process; numbers by time, (1000,)."""

    kept: Tensor
    """Share of the image's variance at a time."""

    def at(self, values: Tensor, t: Tensor) -> Tensor:
        """The numbers of the times (B,), as (B, 1, 1, 1)."""
        return values[t].view(-1, 1, 1, 1)

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The images (B, 3, 32, 32) at their times."""
        return self.at(self.kept.sqrt(), t) * x0 + self.at(self.unkept, t) * noise

    @property
    def unkept(self) -> Tensor:
        """Standard deviation of the noise."""
        return (1 - self.kept).sqrt()

    def velocity(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a v-prediction is to be."""
        return self.at(self.kept.sqrt(), t) * noise - self.at(self.unkept, t) * x0

    def divergence(self, share: Tensor, error: Tensor, t: Tensor) -> Tensor:
        """How far a step back in time is from the true one, (B, 3, 32, 32), in nats.

        Args:
            share: of the range of log variances, 0 for the least, 1 for the largest.
            error: of the image that the step believes in.
            t: times (B,).
        """
        before = F.pad(self.kept[:-1], (1, 0), value=1.0)
        beta = 1 - self.kept / before
        least = (beta * (1 - before) / (1 - self.kept)).clamp(min=1e-20)
        least = torch.cat([least[1:2], least[1:]])
        true = self.at(least.log(), t)
        log_variance = share * self.at(beta.log(), t) + (1 - share) * true
        weight = before.sqrt() * beta / (1 - self.kept)
        off = (self.at(weight, t) * error).square() * (-log_variance).exp()
        return 0.5 * (log_variance - true + (true - log_variance).exp() - 1 + off)


def loss_of(
    model: nn.Module, noising: Noising, images: Tensor, classes: Tensor
) -> Tensor:
    """Mean squared error on `images` (B, 3, 32, 32) uint8 at random times.

    A model of twice the channels predicts the noise and the variance, which is learned
    by a small share of the variational bound that leaves the mean alone.
    """
    x0 = images.float() / 127.5 - 1
    noise = torch.randn_like(x0)
    t = torch.randint(0, len(noising.kept), (len(x0),), device=x0.device)
    x_t = noising.noisy(x0, noise, t)
    with torch.autocast(x0.device.type, dtype=torch.bfloat16):
        out = model(x_t, timestep=t, class_labels=classes).sample.float()
    if out.shape == x0.shape:
        return F.mse_loss(out, noising.velocity(x0, noise, t))
    epsilon, variance = out.chunk(2, dim=1)
    scale = noising.at(noising.unkept / noising.kept.sqrt(), t)
    error = scale * (noise - epsilon.detach())
    bound = noising.divergence((variance + 1) / 2, error, t)
    return F.mse_loss(epsilon, noise) + VARIANCE_WEIGHT * bound.clamp(max=1e3).mean()


def train(args: Namespace) -> nn.Module:
    """Trains for `args.steps` steps; returns the exponential moving average."""
    torch.manual_seed(args.seed)
    device = glyph_dit.default_device()
    if device.type == "cpu":
        training_loop.use_plain_attention()
    images, classes = (part.to(device) for part in make_dataset(args.images, args.seed))
    model = make_model(args.prediction).to(device).train()
    if args.start:
        weights = DiTTransformer2DModel.from_pretrained(args.start).state_dict()
        training_loop.start_from(model, weights)
    forward = torch.compile(model) if args.compile else model
    scheduler = glyph_dit.make_scheduler("ddim", steps=50)
    noising = Noising(scheduler.alphas_cumprod.to(device))

    def loss() -> Tensor:
        batch = torch.randint(0, len(images), (args.batch,), device=device)
        return loss_of(forward, noising, images[batch], classes[batch])

    config = {"prediction": args.prediction, "images": args.images}
    return training_loop.train(model, loss, args, config)


def main() -> None:
    """Draws the data set, trains, and saves the model in bfloat16."""
    parser = ArgumentParser(description=main.__doc__)
    training_loop.add_arguments(parser, output="glyph-dit", steps=8000)
    add = parser.add_argument
    add("--prediction", choices=("v", "epsilon"), default="v")
    add("--images", type=int, default=20_000, help="size of the data")
    add("--start", type=Path, help="folder of weights to begin with, where they fit")
    add("--compile", action="store_true", help="compile the model")
    args = parser.parse_args()

    train(args).bfloat16().save_pretrained(args.output)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
