"""The command `rfc-compile`.

A subcommand is a module of this package named in `COMMANDS`, with two functions:
`add_arguments(parser)` and `run(args) -> exit code`. Only the module of the command
that runs is imported, so each may need extras of its own.

Exit codes: 0 ok, 1 a limit was missed, 2 usage.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from rfc_compile.errors import OptionError, TargetError, TunedFileError

COMMANDS: Final = {
    "analyse": "measure how well the outputs of regions are predicted",
    "bench": "compare this package with every rival on the same models",
    "check": "judge options by limits, for CI: images, work, memory, time",
    "demo": "draw images with the bundled model, with and without caching",
    "inspect": "show what would be cached of a model, without its weights",
    "tune": "search for the options that are fast or close enough",
}

_MODULES: Final = {"tune": "tuning.command"}
"""Where a command is that has no module of its own name: `rfc_compile.tune` is taken by
the function."""

EXIT_USAGE: Final = 2


class _Parser(ArgumentParser):
    """Reports a bad argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def build_parser(command: str | None) -> ArgumentParser:
    """Builds the parser; only `command` gets its arguments, and is imported."""
    parser = _Parser(
        prog="rfc-compile",
        description="Caches attention and MLP regions of diffusion transformers.",
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == command:
            module = import_module(f"rfc_compile.{_MODULES.get(name, name)}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: of the process); returns the exit code.

    Raises:
        SystemExit: with code 2 for bad arguments, 0 after `--help`.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = next((arg for arg in argv if arg in COMMANDS), None)
    try:
        args = build_parser(command).parse_args(argv)
        exit_code: int = args.run(args)
    except (OptionError, TargetError, TunedFileError) as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rfc_compile"):
            raise
        message = f"needs {error.name}: pip install 'rfc-compile[demo]'"
    else:
        return exit_code
    print(f"rfc-compile {command}: error: {message}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE
