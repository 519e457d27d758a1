"""The file ``rfc.json``: tuned options, what was measured with them, and on what.

    {"schema": 1, "options": {...}, "measured": {...}, "fingerprint": {...}}

It is data: nothing in it is executed, and whatever is not expected is refused by its
place in the file.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from torch import Tensor, nn

from rfc_compile.config import Options
from rfc_compile.errors import FingerprintWarning, OptionError, TunedFileError
from rfc_compile.files import replace_file

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

SCHEMA: Final = 1
"""Version of the file's form; a reader refuses later ones."""

MOST_BYTES: Final = 1 << 20
"""Of a file; a real one has a few thousand."""


@dataclass(frozen=True)
class Measured:
    """One setting against the uncached images of the same seeds.

    Attributes:
        nfc: full computations of a run, mean over seeds and CFG branches.
        steps: calls of the model for one CFG branch of a run.
        psnr: mean over the images, in dB; 120 where they are identical.
        psnr_min: of the worst image, in dB.
        ssim: mean over the images, at most 1; None for images too small for it.
        images: number of images compared.
        state_bytes: kept between steps, for all CFG branches of a run, in bytes.
        graph_breaks: counted by Dynamo.
        recompiles: compilations of code that had been compiled before.
        seconds: median of a run, compilation not in it; None where it was not timed.
        uncached_seconds: the same of the model under the inner backend alone.
        speedup: median of the quotients of runs that take turns.

    """

    nfc: float
    steps: int
    psnr: float
    psnr_min: float
    ssim: float | None
    images: int
    state_bytes: int
    graph_breaks: int
    recompiles: int
    seconds: float | None = None
    uncached_seconds: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Fingerprint:
    """What options were tuned on; a value that is not known stands as None.

    Attributes:
        model: the class of the model, its parameters, and its config's fields.
        sampler: name of the sampler or scheduler.
        steps: denoising steps.
        torch: version.
        rfc_compile: version.

    """

    model: Mapping[str, JSON]
    sampler: str | None = None
    steps: int | None = None
    torch: str | None = None
    rfc_compile: str | None = None

    def differences(self, other: Fingerprint) -> list[str]:
        """How another model or sampler differs, a field a line; versions do not count.

        Only what is known of both is compared.
        """
        pairs = {
            f"model.{name}": (self.model.get(name), other.model.get(name))
            for name in (*self.model, *(set(other.model) - set(self.model)))
        }
        pairs["sampler"] = (self.sampler, other.sampler)
        pairs["steps"] = (self.steps, other.steps)
        return [
            f"{name} is {new!r}, tuned with {old!r}"
            for name, (old, new) in pairs.items()
            if old is not None and new is not None and old != new
        ]


@dataclass(frozen=True)
class Tuned:
    """Options that were found by measuring.

    Attributes:
        options: for ``torch.compile(model, backend="rfc", options=...)``.
        measured: what they gave; None for options that were written by hand.
        fingerprint: the model and the sampler they were measured with.
        schema: version of the file's form.

    """

    options: Mapping[str, JSON]
    measured: Measured | None
    fingerprint: Fingerprint
    schema: int = field(default=SCHEMA, kw_only=True)

    def save(self, path: str | Path) -> None:
        """Write the file in one step.

        Raises:
            OSError: it cannot be written.

        """
        text = json.dumps(self.record(), indent=1, allow_nan=False)
        replace_file(Path(path), text + "\n")

    def record(self) -> dict[str, Any]:
        """What ``save`` writes."""
        return {"schema": self.schema, **asdict(self)}

    @classmethod
    def read(cls, path: str | Path) -> Tuned:
        """What ``save`` wrote.

        Raises:
            TunedFileError: the file cannot be read or holds something unexpected; the
                message names the place in it.

        """
        return cls.from_record(read_json(path), path)

    @classmethod
    def from_record(cls, record: Any, path: str | Path) -> Tuned:
        """What ``record`` gave, read from a file.

        Raises:
            TunedFileError: it holds something unexpected; the message names the file
                and the place in it.

        """
        try:
            return _tuned(record)
        except _Unexpected as error:
            raise TunedFileError(f"{path}: {error}") from error

    def warn_if_other(self, model: Mapping[str, JSON], **known: Any) -> list[str]:
        """Warn once if these are not the model and sampler of the fingerprint.

        Args:
            model: as ``model_fingerprint`` gives it.
            known: ``sampler`` and ``steps`` where they are known.

        Returns:
            The differences.

        """
        found = self.fingerprint.differences(Fingerprint(model, **known))
        if found:
            _warn(found)
        return found


class TunedOptions(dict[str, Any]):
    """Options of a file, with the fingerprint of what they were tuned on."""

    def __init__(self, tuned: Tuned) -> None:
        super().__init__(tuned.options)
        self.fingerprint = tuned.fingerprint

    def warn_if_foreign(self, inputs: Sequence[Any]) -> None:
        """Warn if a graph reads a parameter of a shape that the tuned model lacks."""
        known = self.fingerprint.model.get("shapes")
        if not isinstance(known, list):
            return
        for x in inputs:
            if isinstance(x, nn.Parameter) and shape_name(x) not in known:
                _warn([f"model.shapes has {shape_name(x)!r}, tuned with {known!r}"])
                return


def shape_name(x: Tensor) -> str:
    """A shape in a word: ``128x512``."""
    return "x".join(map(str, x.shape))


def load(path: str | Path, model: Any = None) -> dict[str, Any]:
    """The options of a file that ``rfc-compile tune`` wrote.

        options = rfc_compile.load("rfc.json")
        model = torch.compile(model, backend="rfc", options=options)

    Args:
        path: the file.
        model: what the options are for, a model or a pipeline of diffusers, compiled
            or not; if it is not the one they were tuned on, a ``FingerprintWarning``
            says in which field it differs. A pipeline's scheduler is compared too.
            Without it, a model whose parameters have other shapes is noticed when it
            is compiled.

    Raises:
        TunedFileError: the file is malformed, too large, of a later schema or holds
            an unknown field.

    """
    tuned = Tuned.read(path)
    if model is not None:
        from rfc_compile.fingerprints import known_of

        tuned.warn_if_other(**known_of(model))
    return TunedOptions(tuned)


def _warn(differences: Sequence[str]) -> None:
    warnings.warn(
        f"rfc_compile: options tuned on something else: {'; '.join(differences)}. "
        "Expect another speed-up and quality, or tune again",
        FingerprintWarning,
        stacklevel=4,
    )


def read_json(path: str | Path) -> Any:
    """The value in a file of JSON.

    Raises:
        TunedFileError: the file cannot be read, is too large or is not JSON.

    """
    try:
        return _parse(Path(path))
    except _Unexpected as error:
        raise TunedFileError(f"{path}: {error}") from error


class _Unexpected(Exception):
    """A place in the file and what is wrong with it."""


def _parse(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _Unexpected(f"$ has {size} bytes; allowed: up to {MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _Unexpected(f"cannot be read: {error}") from error
    try:
        return json.loads(
            text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise _Unexpected(
            f"$ is not JSON ({error}); write it again with `rfc-compile tune`"
        ) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _no_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands twice in one object")
    return dict(pairs)


def _tuned(record: Any) -> Tuned:
    if not isinstance(record, dict):
        raise _Unexpected("$ must be an object with schema, options, ...")
    schema = record.get("schema")
    if type(schema) is not int or schema < 1:
        raise _Unexpected(f"$.schema is {_short(schema)}; allowed: {SCHEMA}")
    if schema > SCHEMA:
        raise _Unexpected(
            f"$.schema is {schema}, and this version of rfc_compile reads up to "
            f"{SCHEMA}: upgrade rfc_compile, or tune again with this version"
        )
    _check_names("$", record, Tuned)
    measured, options = record["measured"], _object("$.options", record["options"])
    return Tuned(
        options=_checked_options(options),
        measured=None if measured is None else _measured(measured),
        fingerprint=_fingerprint(record["fingerprint"]),
    )


def _checked_options(options: dict[str, JSON]) -> dict[str, JSON]:
    _check_names("$.options", options, Options)
    try:
        Options.from_mapping(options)
    except OptionError as error:
        named = re.match(r"\w+(?==)", str(error))
        place = f"$.options.{named[0]}" if named else "$.options"
        raise _Unexpected(f"{place}: {error}") from error
    return options


def _measured(value: JSON) -> Measured:
    record = _object("$.measured", value)
    _check_names("$.measured", record, Measured)
    for item in fields(Measured):
        number, place = record.get(item.name), f"$.measured.{item.name}"
        if number is None and "None" in str(item.type):
            continue
        whole = str(item.type) == "int"
        right = type(number) is int or (type(number) is float and not whole)
        if not right or not math.isfinite(number):  # type: ignore[arg-type]
            kind = "a whole number" if whole else "a number"
            raise _Unexpected(f"{place} is {_short(number)}; allowed: {kind}")
    return Measured(**record)  # type: ignore[arg-type]


def _fingerprint(value: JSON) -> Fingerprint:
    record = _object("$.fingerprint", value)
    _check_names("$.fingerprint", record, Fingerprint)
    _object("$.fingerprint.model", record["model"])
    for name in ("sampler", "torch", "rfc_compile"):
        _check_kind(f"$.fingerprint.{name}", record.get(name), str, "a string")
    _check_kind("$.fingerprint.steps", record.get("steps"), int, "a whole number")
    return Fingerprint(**record)  # type: ignore[arg-type]


def _check_kind(place: str, value: JSON, kind: type, words: str) -> None:
    if value is not None and type(value) is not kind:
        raise _Unexpected(f"{place} is {_short(value)}; allowed: {words} or null")


def _object(place: str, value: JSON) -> dict[str, JSON]:
    if not isinstance(value, dict):
        raise _Unexpected(f"{place} is {_short(value)}; allowed: an object")
    return value


def _check_names(place: str, record: Mapping[str, JSON], kind: type) -> None:
    """Every field is known, and those without a default are there."""
    known = {item.name: item for item in fields(kind)}
    for name in record:
        if name not in known:
            raise _Unexpected(
                f"{place}.{name} is not known; allowed: {', '.join(known)}"
            )
    for name, item in known.items():
        optional = item.default is not MISSING or item.default_factory is not MISSING
        if name not in record and not optional:
            raise _Unexpected(f"{place}.{name} is missing")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
