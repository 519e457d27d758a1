"""Turns the checkpoint of a training, finished or not, into a model's folder.

The running average, or with `--newest` the newest weights, for a training too short
to average over, become bfloat16 safetensors beside the configuration. A contact sheet
of the model's examples shows how far it came.

Run: python examples/export_checkpoint.py emoji-flux my.training.pt my-emoji-flux
"""

import shutil
from argparse import ArgumentParser
from pathlib import Path
from typing import Final

import torch
from matplotlib.image import imsave
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from rfc_compile.errors import OptionError
from rfc_compile.tools.measure.bundled_models import MODELS

COLUMNS: Final = 8
GAP_PIXELS: Final = 2
ZOOM: Final = 3
STEPS: Final = 28


def read_weights(path: Path, part: str) -> dict[str, Tensor]:
    """The `average` or the `model` of a checkpoint, in bfloat16, by the model's names.

    Raises:
        SystemExit: the file is no checkpoint.
    """
    try:
        found = torch.load(path, weights_only=True)[part]
    except (OSError, RuntimeError, KeyError) as error:
        raise SystemExit(f"{path} is no checkpoint of a training: {error}") from error
    return {
        name.removeprefix("module."): value.bfloat16().contiguous()
        for name, value in found.items()
        if name != "n_averaged"
    }


def export(name: str, checkpoint: Path, part: str, output: Path) -> None:
    """Writes weights, configuration, and the words where the model has some.

    Raises:
        SystemExit: the checkpoint is of another model.
    """
    weights = read_weights(checkpoint, part)
    parts: dict[str, dict[str, Tensor]] = {"denoiser": {}, "words": {}}
    for key, value in weights.items():
        part, _, rest = key.partition(".")
        if part in parts:
            parts[part][rest] = value
        else:
            parts["denoiser"][key] = value
    folder = MODELS[name].folder
    model = MODELS[name].make().bfloat16()
    try:
        model.load_state_dict(parts["denoiser"])
    except RuntimeError as error:
        raise SystemExit(f"{checkpoint} is not of {name}: {error}") from error
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    if parts["words"]:
        save_file(parts["words"], output / "words.safetensors")
        if output.resolve() != folder:
            shutil.copy(folder / "vocabulary.json", output)


def save_sheet(path: Path, images: Tensor, columns: int) -> None:
    """Writes images (B, C, H, W) in [-1, 1], so many in a row, every pixel three times.

    The last row is filled up with white.
    """
    missing = -len(images) % columns
    around = (GAP_PIXELS, GAP_PIXELS, 0, 0, 0, 0, 0, missing)
    filled = pad(((images + 1) / 2).clamp(0, 1), around, value=1.0)
    rows = filled.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # R, H, B, W, C
    pixels = rows.flatten(2, 3).flatten(0, 1)
    imsave(path, pixels.repeat_interleave(ZOOM, 0).repeat_interleave(ZOOM, 1).numpy())


def draw_sheet(name: str, folder: Path, count: int) -> None:
    """Writes `sheet.png`: images in rows of eight, or clips a row each."""
    trained = MODELS[name]
    model = trained.load(folder=folder)
    drawn = trained.sample(model, trained.conditions(count), seed=0, steps=STEPS)
    columns = COLUMNS
    if drawn.ndim == 5:
        columns = drawn.shape[2]
        drawn = drawn.transpose(1, 2).flatten(0, 1)
    save_sheet(folder / "sheet.png", drawn, columns)


def main() -> None:
    """Converts a checkpoint."""
    parser = ArgumentParser(description=main.__doc__)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--newest", action="store_true", help="not the average")
    parser.add_argument("--drawn", type=int, default=24, help="on the sheet")
    args = parser.parse_args()
    part = "model" if args.newest else "average"
    export(args.model, args.checkpoint, part, args.output)
    try:
        draw_sheet(args.model, args.output, args.drawn)
    except OptionError as error:  # the first weights of a model that is not bundled
        print(f"no contact sheet: {error}")
    print(f"saved {args.output}")


if __name__ == "__main__":
    main()
