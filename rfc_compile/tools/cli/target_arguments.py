"""Arguments that name a model, its sampler and its calls."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rfc_compile.errors import OptionError
from rfc_compile.io.files import read_text
from rfc_compile.io.json_files import JSON, MOST_BYTES
from rfc_compile.tools.cli.arguments import DTYPES, add_named_values, number, whole
from rfc_compile.tools.measure.target import (
    BUNDLED,
    Settings,
    Target,
    drawn_again,
    resolve_target,
)


def add_target_arguments(parser: ArgumentParser, *, option: bool = False) -> None:
    """Adds what names a target, and how it is sampled, to a command.

    The target is the command's own argument, or the option `--target`.
    """
    add = parser.add_argument
    words = (
        f"{BUNDLED} (default), the folder of a pipeline of diffusers, or "
        "package.module:factory, which returns (model, sample)"
    )
    if option:
        again = "; else, with its settings, that of the tuned file"
        add("--target", help=words + again)
    else:
        add("target", nargs="?", default=BUNDLED, help=words)
    add("--steps", type=whole, help="denoising steps")
    add("--sampler", help="scheduler: of the bundled model, or a class of diffusers")
    add("--guidance", type=number, help="guidance scale")
    add(
        "--images",
        type=whole,
        help="per seed, of the bundled model (default: 4)",
    )
    add("--prompt", action="append", default=[], help="of a pipeline; may be repeated")
    add("--prompts-file", type=Path, help="a prompt a line")
    call = "an argument of the pipeline's call, as height=512 or class_labels=[3,7]"
    add_named_values(parser, "--call", call)
    add("--dtype", choices=DTYPES, help="of a pipeline's folder (default: float32)")


def target_of(args: Namespace, drawn: Mapping[str, JSON] | None = None) -> Target:
    """The target that a command was given, else that of a tuned file (``drawn``).

    Settings that are given go before those of the file.
    """
    prompts = list(args.prompt)
    if args.prompts_file is not None:
        try:
            lines = read_text(args.prompts_file, MOST_BYTES).splitlines()
        except (OSError, ValueError) as error:
            raise OptionError(f"argument --prompts-file: {error}") from error
        prompts += [line.strip() for line in lines if line.strip()]
    spec, settings = args.target or BUNDLED, Settings()
    if args.target is None and drawn is not None:
        spec, settings = drawn_again(drawn)
    names = ("steps", "sampler", "guidance", "images", "dtype")
    given = {name: vars(args)[name] for name in names}
    given |= {"prompts": tuple(prompts), "call": dict(args.call)}
    chosen = {
        name: value for name, value in given.items() if value not in (None, (), {})
    }
    return resolve_target(spec, replace(settings, **chosen))
