"""Trains emoji-flux: a small FLUX that draws emoji from their names.

The pictures come from three npm packages, which `npm` fetches: Twemoji (CC-BY 4.0) and
Noto Emoji (Apache-2.0) as emoji-datasource packs them, with the names (MIT), and
Fluent Emoji (MIT). Hours on two CPU cores.

Run: python examples/train_emoji_flux.py --output my-emoji-flux
Continues after an interruption with --resume.
"""

import json
import shutil
import subprocess
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import training_loop
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from rfc_compile.tools.measure import emoji_flux
from rfc_compile.tools.measure.glyph_dit import default_device
from rfc_compile.tools.measure.word_table import PADDING, WordTable, words_of

PACKAGES: Final = {
    "emoji-datasource-twitter": "16.0.0",
    "emoji-datasource-google": "16.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
}
EMPTY_PROMPTS: Final = 0.1
"""Share of the pictures that are shown without a prompt, for guidance."""
MEAN_LOGIT: Final = 0.3
"""Of the noise level: a little above the middle."""


def fetch(folder: Path) -> Path:
    """Fetches the packages into a folder; returns its node_modules.

    Raises:
        SystemExit: npm is missing or fails.
    """
    modules = folder / "node_modules"
    if all((modules / package / "package.json").exists() for package in PACKAGES):
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(
            "npm is missing: install Node.js, or give --data a folder whose "
            f"node_modules holds {', '.join(PACKAGES)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{package}@{version}" for package, version in PACKAGES.items()]
    command = [npm, "install", "--no-save", "--ignore-scripts", "--prefix", str(folder)]
    result = subprocess.run([*command, *wanted], capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise SystemExit(
            f"npm could not fetch {', '.join(wanted)}: "
            f"{lines[0] if lines else f'exit code {result.returncode}'}"
        )
    return modules


def read_picture(path: Path) -> np.ndarray:
    """A picture on white, (32, 32, 3) uint8."""
    size = (emoji_flux.PIXELS, emoji_flux.PIXELS)
    image = Image.open(path).convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    white = Image.new("RGBA", size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def read_data(modules: Path) -> tuple[Tensor, list[list[str]]]:
    """All pictures (count, 3, 32, 32) uint8, and the words of each.

    Raises:
        SystemExit: the packages hold something else.
    """
    pictures, texts = [], []
    try:
        names = (modules / "emoji-datasource-twitter" / "emoji.json").read_text("utf-8")
        for entry in json.loads(names):
            words = words_of(entry["name"])
            for style, path in _files(modules, entry).items():
                if path.exists():
                    pictures.append(read_picture(path))
                    texts.append([style, *words][: emoji_flux.LENGTH])
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), texts
    except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
        raise SystemExit(
            f"{modules} does not hold the emoji: {error}; delete it, and they are "
            "fetched again"
        ) from error


def _files(modules: Path, entry: dict[str, str]) -> dict[str, Path]:
    """By style; not every style has every emoji."""
    image, code = entry["image"], entry["unified"].lower()
    packs = {style: f"emoji-datasource-{style}" for style in ("twitter", "google")}
    files = {
        style: modules / pack / "img" / style / "64" / image
        for style, pack in packs.items()
    }
    fluent = modules / "@lobehub" / "fluent-emoji-3d" / "assets" / f"{code}.webp"
    return {**files, "fluent": fluent}


def loss_of(
    denoiser: nn.Module, words: WordTable, images: Tensor, tokens: Tensor
) -> Tensor:
    """Mean squared error of the velocity at random noise levels.

    Args:
        denoiser: the FLUX.
        words: the text encoder.
        images: (B, 3, 32, 32) uint8.
        tokens: of the prompts, (B, 10) int64.
    """
    pixels = F.pixel_unshuffle(images.float() / 127.5 - 1, emoji_flux.PATCH)
    clean = pixels.flatten(2).transpose(1, 2)  # tokens (B, 64, 48)
    noise = torch.randn_like(clean)
    sigma = torch.sigmoid(torch.randn(len(clean), device=clean.device) + MEAN_LOGIT)
    shown = torch.rand(len(clean), 1, device=clean.device) >= EMPTY_PROMPTS
    vectors, pooled = words(tokens * shown)
    shared = emoji_flux.EMOJI_FLUX.shared
    with torch.autocast(clean.device.type, dtype=torch.bfloat16):
        velocity = denoiser(
            torch.lerp(clean, noise, sigma.view(-1, 1, 1)),
            timestep=sigma,
            encoder_hidden_states=vectors,
            pooled_projections=pooled,
            **{name: ids.to(clean.device) for name, ids in shared.items()},
        ).sample
    return F.mse_loss(velocity.float(), noise - clean)


def train(args: Namespace) -> None:
    """Fetches the data, trains, and saves model and words in bfloat16."""
    torch.manual_seed(args.seed)
    device = default_device()
    if device.type == "cpu":
        training_loop.use_plain_attention()
    images, texts = read_data(fetch(args.data))
    vocabulary = [PADDING, *sorted({word for text in texts for word in text})]
    words = WordTable(vocabulary, emoji_flux.LENGTH, emoji_flux.WIDTH)
    tokens = words.tokens([" ".join(text) for text in texts]).to(device)
    images = images.to(device)
    denoiser = emoji_flux.EMOJI_FLUX.make()
    training_loop.zero_gates(denoiser)
    model = nn.ModuleDict({"denoiser": denoiser, "words": words}).to(device)

    def loss() -> Tensor:
        batch = torch.randint(0, len(images), (args.batch,), device=device)
        return loss_of(model["denoiser"], model["words"], images[batch], tokens[batch])

    config = {"vocabulary": vocabulary}
    average = training_loop.train(model, loss, args, config).bfloat16()
    average["denoiser"].save_pretrained(args.output)
    save_file(average["words"].state_dict(), args.output / "words.safetensors")
    (args.output / "vocabulary.json").write_text(json.dumps(vocabulary))


def main() -> None:
    """Fetches the data, trains, and saves the model in bfloat16."""
    parser = ArgumentParser(description=main.__doc__)
    training_loop.add_arguments(parser, output="emoji-flux", steps=20_000)
    folder = Path("emoji-data")
    parser.add_argument("--data", type=Path, default=folder, help="packages go here")
    args = parser.parse_args()

    train(args)
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
