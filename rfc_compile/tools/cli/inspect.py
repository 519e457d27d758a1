"""`rfc-compile inspect`: what would be cached of a model, without its weights.

Prints the regions, what they cover and what they cost, refusals and graph breaks; the
same as JSON; a picture of the residual streams. A model is a folder or a hub id of
diffusers, of which only the config is read, or a function of the user's that makes one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from rfc_compile.config.options import Options
from rfc_compile.errors import OptionError, one_line
from rfc_compile.io.files import check_writable
from rfc_compile.report.drawing import drawing
from rfc_compile.report.numbers import in_words
from rfc_compile.tools.cli.arguments import DTYPES, add_named_values, whole
from rfc_compile.tools.inspection.dry_run import DryRun, dry_run
from rfc_compile.tools.measure.factory import call_factory, is_factory

_PICTURES: Final = (".svg", ".png", ".pdf")

Inputs = Mapping[str, Any] | Sequence[Any]

_SIZES: Final = {
    "batch": "samples in one call",
    "height": "of the latent, in its own cells (often an 8th of the pixels)",
    "width": "of the latent, in its own cells",
    "frames": "of the latent (often a 4th of the video's); length of an audio latent",
    "text-tokens": "of the prompt",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the arguments of the command to `parser`."""
    add = parser.add_argument
    add(
        "model",
        help="a folder or hub id of a model or pipeline of diffusers, or "
        "package.module:factory, which returns (model, inputs)",
    )
    for name, meaning in _SIZES.items():
        add(f"--{name}", type=whole, help=f"{meaning}; not for a factory")
    add("--dtype", choices=DTYPES, help="of weights and inputs (default: bfloat16)")
    words = "an option of the backend, as estimator=taylor"
    add_named_values(parser, "--options", words)
    add("--json", action="store_true", help="print JSON")
    add(
        "--graph",
        type=Path,
        metavar="FILE",
        help="draw the residual streams: .svg, .png or .pdf",
    )


def run(args: Namespace) -> int:
    """Inspects, prints and draws; returns the exit code."""
    options = Options.from_mapping(dict(args.options))
    if args.graph is not None:
        _check_picture(args.graph)
    model, inputs = _model_and_inputs(args)
    try:
        with _silent_torch():
            found = dry_run(model, inputs, options)
    except Exception as error:
        raise OptionError(_failure(args, model, inputs, error)) from error
    print(_json(model, inputs, found) if args.json else _text(model, inputs, found))  # noqa: T201
    if args.graph is not None:
        _draw(args.graph, found, type(model).__name__)
        print(f"Written: {args.graph}", file=sys.stderr)  # noqa: T201
    return 0


def _check_picture(path: Path) -> None:
    """The file can be drawn and written; said before the model is built."""
    if path.suffix not in _PICTURES:
        allowed = ", ".join(_PICTURES)
        raise OptionError(f"--graph {path}: give a file that ends in {allowed}")
    check_writable(path, "--graph")
    drawing("explanation_plot")


def _draw(path: Path, found: DryRun, name: str) -> None:
    plot = drawing("explanation_plot")
    plot.save(plot.explanation_figure(found.explanation, name), path)


def _model_and_inputs(args: Namespace) -> tuple[nn.Module, Inputs]:
    sizes = {name.replace("-", "_"): None for name in _SIZES}
    given = {n: vars(args)[n] for n in sizes if vars(args)[n] is not None}
    if is_factory(args.model):
        if given or args.dtype:
            raise OptionError("sizes and --dtype are not for a factory, which chooses")
        return _made_by_factory(args.model)
    from rfc_compile.tools.inspection.model_from_config import build_from_config
    from rfc_compile.tools.inspection.model_inputs import make_inputs

    dtype = getattr(torch, args.dtype or "bfloat16")
    model = build_from_config(args.model, dtype)
    return model, make_inputs(model, given, dtype)


def _made_by_factory(target: str) -> tuple[nn.Module, Inputs]:
    """What the user's `package.module:factory` returns, checked."""
    made = call_factory(target)
    if not (
        isinstance(made, tuple)
        and len(made) == 2
        and isinstance(made[0], nn.Module)
        and isinstance(made[1], dict | tuple)
    ):
        raise OptionError(
            f"{target} must return (model, inputs): a module, and a dict of keyword "
            "arguments or a tuple"
        )
    return made


def _failure(
    args: Namespace, model: nn.Module, inputs: Inputs, error: Exception
) -> str:
    shapes = ", ".join(f"{name} {_shape(x)}" for name, x in _named(inputs).items())
    advice = "; give package.module:factory with inputs of yours"
    return (
        f"the forward of {type(model).__name__} fails: {_forward_error(error)} "
        f"(inputs: {shapes}){'' if ':' in args.model else advice}"
    )


def _text(model: nn.Module, inputs: Inputs, found: DryRun) -> str:
    facts, share = _facts(model), found.explanation.block_coverage
    shapes = (f"{name} {_shape(x)}" for name, x in _named(inputs).items())
    return "\n".join(
        (
            f"{facts['model']}, {in_words(facts['parameters'])} parameters, "
            f"{facts['dtype']}",
            f"inputs: {', '.join(shapes)}",
            str(found.explanation),
            f"{share:.1%} of the repeated blocks' FLOPs inside regions",
        )
    )


def _json(model: nn.Module, inputs: Inputs, found: DryRun) -> str:
    explained = asdict(found.explanation)
    del explained["maps"]  # of a run, and this is none
    record = {
        **_facts(model),
        "inputs": {name: _shape(x) for name, x in _named(inputs).items()},
        "flops": sum(report.flops for report in found.reports),
        "cache_bytes": found.explanation.cache_bytes,
        **explained,
    }
    return json.dumps(record, indent=1)


def _facts(model: nn.Module) -> dict[str, Any]:
    parameters = list(model.parameters())
    dtypes = [str(p.dtype).removeprefix("torch.") for p in parameters]
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": max(dict.fromkeys(dtypes), key=dtypes.count, default=""),
    }


def _named(inputs: Inputs) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {str(i): x for i, x in enumerate(inputs)}


def _shape(value: Any) -> Any:
    """The shape of a tensor; containers keep their form, numbers their value."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {str(name): _shape(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_shape(x) for x in value]
    return value if isinstance(value, int | float | str | None) else repr(value)


def _forward_error(error: Exception) -> str:
    """What went wrong: one part of Dynamo's long message."""
    found = re.search(r"got (\w+)\(['\"](.*?)['\"]\)", str(error), re.DOTALL)
    return ": ".join(found.groups()) if found else one_line(error)


@contextmanager
def _silent_torch() -> Iterator[None]:
    """No log of what the report says anyway, unless the user asked for logs."""
    loggers = [
        logging.getLogger(f"torch.{name}") for name in ("_dynamo", "_subclasses")
    ]
    levels = [logger.level for logger in loggers]
    if "TORCH_LOGS" not in os.environ:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
