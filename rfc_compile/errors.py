"""Everything rfc_compile raises or warns with. Few types; each tells what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rfc_compile.torch_internals import PassedThroughByDynamo


class OptionError(PassedThroughByDynamo, ValueError):
    """An unknown option or a value that is not allowed.

    Raised when ``Options`` is built, that is at compile time for options given to
    ``torch.compile``. The message names the option and lists what is allowed.
    """


class TargetError(ValueError):
    """A model, or the way it is sampled, with which nothing can be measured.

    The message names the model and says what is wrong with its images or calls.
    """


class TunedFileError(ValueError):
    """A file of tuned options (``rfc.json``) that cannot be used.

    The message names the file and the place in it (as ``$.options.threshold``), and
    says what is allowed there.
    """


class FingerprintWarning(UserWarning):
    """Tuned options are used with another model or sampler; the text says which."""


class RanksError(RuntimeError):
    """Ranks that share one computation of a model cannot go on together.

    Another one has raised, has ended or waits elsewhere, or has other graphs or calls.
    The message tells which. Raised by every rank that waits for it, after the timeout
    of its process group at the latest.
    """


class CannotCache(Exception):
    """A graph, or a part of it, that rfc leaves to the inner backend.

    Never reaches the user as an exception: the reason becomes one
    ``UncachedWarning`` and a line of ``explain()``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NothingToCache(CannotCache):
    """A graph without anything that looks like a region.

    Expected of some graphs of a forward with graph breaks (an embedding, the output
    projection): there a note, not a warning.
    """


class InnerBackendFailed(CannotCache):
    """The inner backend cannot compile a graph of a step."""


class NoRoomForState(CannotCache):
    """The state of a branch cannot be allocated."""


class InvariantError(AssertionError):
    """A pass left a graph that breaks the invariants of passes/README.md (our bug)."""


class UncachedWarning(UserWarning):
    """A forward, or one step of it, runs without caching; the text says why."""


class BudgetWarning(UserWarning):
    """A wanted number of full steps, or speed-up, cannot be met; the text says why."""


_EXTRAS = {"cache_dit": "bench", "diffusers": "diffusers", "jinja2": "tune"}


def how_to_install(module: str) -> str:
    """The package of a module that is missing, with the extra that brings it."""
    package = module.partition(".")[0]
    extra = _EXTRAS.get(package, "demo")
    return (
        f"{package}: pip install 'rfc-compile[{extra}]', or in a checkout "
        f"pip install -e '.[{extra}]'"
    )


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """How a sentence about an unknown word ends: the nearest, then all of them."""
    allowed = list(known)
    near = difflib.get_close_matches(str(word), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{hint} Allowed: {', '.join(allowed)}"


def one_line(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
