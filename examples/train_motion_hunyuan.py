"""Trains motion-hunyuan: a small HunyuanVideo that draws moving, turning digits.

The clips are made by this script: a digit of DejaVu Sans, which matplotlib ships, goes
left, right, up or down and turns or does not. Two hours on two CPU cores.

Run: python examples/train_motion_hunyuan.py --output my-motion-hunyuan
Continues after an interruption with --resume, from a trained model with --start.
"""

import json
import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import training_loop
from diffusers import HunyuanVideoTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from train_glyph_dit import FONTS, draw_upright

from rfc_compile.tools.measure import motion_hunyuan
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.word_table import WordTable, load_words

EMPTY_PROMPTS: Final = 0.1
"""Share of the clips that are shown without a prompt, for guidance."""
TRAVEL: Final = 0.4
"""Of a digit in a clip, as a share of the frame's width."""
ZOOM: Final = 1.25
"""Width of the frame, of the square that a digit is drawn in."""
SHIFT: Final = 0.7
"""Of the noise levels trained on: frames that are alike show through much noise."""
TURN: Final = math.pi / 2
"""Of a digit that turns, in a clip."""
WAYS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TURNS: Final = {"straight": 0.0, "clockwise": 1.0, "anticlockwise": -1.0}


def upright_digits() -> Tensor:
    """Every digit, (10, 64, 64) in [0, 1]."""
    masks = [draw_upright(digit, FONTS[0], 64) for digit in range(10)]
    return torch.from_numpy(np.array(masks)).float()


def draw_prompts(count: int) -> list[str]:
    """Random prompts."""
    kinds = (motion_hunyuan.DIGITS, motion_hunyuan.DIRECTIONS, motion_hunyuan.TURNS)
    chosen = [torch.randint(len(kind), (count,)).tolist() for kind in kinds]
    rows = zip(*chosen, strict=True)
    return [
        " ".join(kind[i] for kind, i in zip(kinds, row, strict=True)) for row in rows
    ]


def make_clips(digits: Tensor, prompts: list[str]) -> Tensor:
    """Clips (B, 3, 8, 24, 24) in [-1, 1] of the prompts.

    Args:
        digits: see `upright_digits`.
        prompts: digit, direction and turn.
    """
    _, frames, side, _ = motion_hunyuan.CLIP_SHAPE
    time = torch.linspace(-0.5, 0.5, frames)
    count = len(prompts)
    words = [prompt.split() for prompt in prompts]
    way = torch.tensor([WAYS[word[1]] for word in words]).float()
    turn = torch.tensor([TURNS[word[2]] for word in words]).view(-1, 1)
    angle = TURN * turn * time + 0.2 * torch.randn(count, 1)
    place = 2 * TRAVEL * way[:, :, None] * time + 0.1 * torch.randn(count, 2, 1)
    chosen = torch.tensor([int(word[0]) for word in words])
    masks = digits[chosen]
    grids = F.affine_grid(
        _poses(angle, place).flatten(0, 1),
        [count * frames, 1, side, side],
        align_corners=False,
    )
    repeated = masks.repeat_interleave(frames, 0).unsqueeze(1)
    moved = F.grid_sample(repeated, grids, align_corners=False)
    alpha = moved.view(count, 1, frames, side, side)
    ground = torch.rand(count, 3, 1, 1, 1)
    ink = (ground + 0.5 + 0.3 * (torch.rand(count, 3, 1, 1, 1) - 0.5)) % 1
    return torch.lerp(ground, ink, alpha) * 2 - 1


def _poses(angle: Tensor, place: Tensor) -> Tensor:
    """From frames to digits: angles (B, T), places (B, 2, T) -> (B, T, 2, 3)."""
    cos, sin = angle.cos() * ZOOM, angle.sin() * ZOOM
    turned = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))
    shift = -turned @ place.transpose(1, 2).unsqueeze(-1)
    return torch.cat([turned, shift], -1)


def loss_of(
    denoiser: nn.Module, words: WordTable, clips: Tensor, tokens: Tensor
) -> Tensor:
    """Mean squared error of the velocity at random noise levels.

    Args:
        denoiser: the HunyuanVideo.
        words: the text encoder.
        clips: (B, 3, 8, 24, 24) in [-1, 1].
        tokens: of the prompts, (B, 3) int64.
    """
    noise = torch.randn_like(clips)
    sigma = torch.sigmoid(torch.randn(len(clips), device=clips.device) + SHIFT)
    shown = torch.rand(len(clips), 1, device=clips.device) >= EMPTY_PROMPTS
    inputs = motion_hunyuan.text_inputs(words, tokens * shown)
    with torch.autocast(clips.device.type, dtype=torch.bfloat16):
        velocity = denoiser(
            torch.lerp(clips, noise, sigma.view(-1, 1, 1, 1, 1)),
            timestep=sigma * 1000,
            **inputs,
        ).sample
    return F.mse_loss(velocity.float(), noise - clips)


def train(args: Namespace) -> None:
    """Trains, and saves model and words in bfloat16."""
    torch.manual_seed(args.seed)
    device = default_device()
    if device.type == "cpu":
        training_loop.use_plain_attention()
    denoiser = motion_hunyuan.MOTION_HUNYUAN.make()
    training_loop.zero_gates(denoiser)
    if args.start:
        begun = HunyuanVideoTransformer3DModel.from_pretrained(args.start)
        training_loop.start_from(denoiser, begun.state_dict())
    vocabulary = motion_hunyuan.VOCABULARY
    words = WordTable(vocabulary, motion_hunyuan.LENGTH, motion_hunyuan.WIDTH)
    if args.start:
        words = load_words(args.start, motion_hunyuan.LENGTH, motion_hunyuan.WIDTH)
        words.requires_grad_(True).train()
    model = nn.ModuleDict({"denoiser": denoiser, "words": words}).to(device)
    digits = upright_digits()

    def loss() -> Tensor:
        prompts = draw_prompts(args.batch)
        clips = make_clips(digits, prompts).to(device)
        tokens = words.tokens(prompts).to(device)
        return loss_of(model["denoiser"], words, clips, tokens)

    config = {"vocabulary": list(vocabulary)}
    average = training_loop.train(model, loss, args, config).bfloat16()
    average["denoiser"].save_pretrained(args.output)
    save_file(average["words"].state_dict(), args.output / "words.safetensors")
    (args.output / "vocabulary.json").write_text(json.dumps(vocabulary))


def main() -> None:
    """Makes the clips, trains, and saves the model in bfloat16."""
    parser = ArgumentParser(description=main.__doc__)
    training_loop.add_arguments(parser, output="motion-hunyuan", steps=12_000)
    add = parser.add_argument
    add("--start", type=Path, help="folder of a model to begin with")
    parser.set_defaults(batch=16)
    args = parser.parse_args()

    train(args)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
