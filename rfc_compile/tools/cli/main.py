"""The command `rfc-compile`.

A subcommand is a module of this package named in `COMMANDS`, with two functions:
`add_arguments(parser)` and `run(args) -> exit code`. Only the module of the command
that runs is imported. The first needs no extra, so that `--help` always works.

Exit codes: 0 ok, 1 a limit was missed, 2 usage, 130 interrupted.
"""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

from rfc_compile.errors import (
    OptionError,
    TargetError,
    TunedFileError,
    did_you_mean,
    how_to_install,
)
from rfc_compile.tools.cli.quiet import quiet
from rfc_compile.version import __version__

COMMANDS: Final = {
    "analyse": "measure how well the outputs of regions are predicted",
    "bench": "compare this package with every rival on the same models",
    "check": "judge options by limits, for CI: images, work, memory, time",
    "demo": "draw images with the bundled model, with and without caching",
    "inspect": "show what would be cached of a model, without its weights",
    "tune": "search for the options that are fast or close enough",
}

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""As a shell reports a process that Ctrl-C ended."""


class _Parser(ArgumentParser):
    """Reports a bad argument in one line; knows the options it was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options: list[str] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *names: Any, **kwargs: Any) -> Any:
        """Note the names of an option, then as ever."""
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **kwargs)

    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def parse(argv: Sequence[str]) -> Namespace:
    """The arguments; only the named command gets its own, and is imported.

    Raises:
        SystemExit: with code 2 for bad arguments, 0 after `--help` and `--version`.
    """
    parser = _Parser(
        prog="rfc-compile",
        description="Caches attention and MLP regions of diffusion transformers.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    _add_verbose(parser, False)
    command = next((arg for arg in argv if not arg.startswith("-")), None)
    if command is not None and command not in COMMANDS:
        parser.error(f"no command {command!r}{did_you_mean(command, COMMANDS)}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = parser
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == command:
            chosen = subparser
            module = import_module(f"rfc_compile.tools.cli.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
            _add_verbose(subparser, SUPPRESS)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = did_you_mean(unknown[0].partition("=")[0], chosen.options)
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _add_verbose(parser: ArgumentParser, default: object) -> None:
    words = "show what other libraries log and warn of"
    parser.add_argument("--verbose", action="store_true", default=default, help=words)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: of the process); returns the exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        with quiet(args.verbose):
            exit_code: int = args.run(args)
    except (OptionError, TargetError, TunedFileError) as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rfc_compile"):
            raise
        message = f"needs {how_to_install(error.name)}"
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    else:
        return exit_code
    print(f"rfc-compile {args.command}: error: {message}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE
