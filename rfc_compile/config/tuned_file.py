"""The file ``rfc.json``: tuned options, what was measured with them, and on what.

    {"schema": 1, "options": {...}, "measured": {...}, "fingerprint": {...}}

Nothing in it is executed; unexpected content is refused with its place in the file.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import nn

from rfc_compile.config.fingerprint import Fingerprint, shape_name
from rfc_compile.config.options import Options
from rfc_compile.errors import FingerprintWarning, OptionError, TunedFileError
from rfc_compile.io.files import replace_file
from rfc_compile.io.json_files import JSON, Unexpected, field_of, read_json, shown
from rfc_compile.io.schema import check_fields, check_schema, made_of, object_at

SCHEMA: Final = 1
"""Version of the file format; later ones are refused."""


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
        recompiles: compilations of code that was compiled before.
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
class Tuned:
    """Options that were found by measuring.

    Attributes:
        options: for ``torch.compile(model, backend="rfc", options=...)``.
        measured: the results with them; None for options written by hand.
        fingerprint: the model and the sampler they were measured with.
        drawn: ``target`` and settings that `rfc-compile check` draws with again; None
            where they are not known.
        schema: version of the file's form.
    """

    options: Mapping[str, JSON]
    measured: Measured | None
    fingerprint: Fingerprint
    drawn: Mapping[str, JSON] | None = field(default=None, kw_only=True)
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
        record = {"schema": self.schema, **asdict(self)}
        if self.drawn is None:
            del record["drawn"]
        return record

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
        """The inverse of ``record``."""
        try:
            return _tuned(record)
        except Unexpected as error:
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
        from rfc_compile.config.fingerprint import known_of

        tuned.warn_if_other(**known_of(model))
    return TunedOptions(tuned)


def _warn(differences: Sequence[str]) -> None:
    warnings.warn(
        f"rfc_compile: options tuned on something else: {'; '.join(differences)}. "
        "Expect another speed-up and quality, or tune again",
        FingerprintWarning,
        stacklevel=4,
    )


def _tuned(record: Any) -> Tuned:
    if not isinstance(record, dict):
        raise Unexpected("must be an object with schema, options, ...")
    check_schema(record.get("schema"), SCHEMA, "tune again with this version")
    check_fields("$", record, Tuned)
    measured = record["measured"]
    return Tuned(
        options=_checked_options(object_at("$.options", record["options"])),
        measured=None
        if measured is None
        else made_of(Measured, "$.measured", measured),
        fingerprint=made_of(Fingerprint, "$.fingerprint", record["fingerprint"]),
        drawn=object_at("$.drawn", record["drawn"]) if "drawn" in record else None,
    )


def _checked_options(options: dict[str, JSON]) -> dict[str, JSON]:
    check_fields("$.options", options, Options)
    try:
        Options.from_mapping(options)
    except OptionError as error:
        named = re.match(r"\w+(?==)", str(error))
        place = f"$.options.{named[0]}" if named else "$.options"
        raise Unexpected(f"{place}: {error}") from error
    _check_inner_options(options.get("inner_options", {}))
    return options


def _check_inner_options(options: JSON) -> None:
    """Only numbers, true and false: a text may name a program to run."""
    for name, value in object_at("$.options.inner_options", options).items():
        if not isinstance(value, int | float):
            raise Unexpected(
                f"{field_of('$.options.inner_options', name)} is {shown(value)}; "
                "allowed in a file: a number, true or false; give others in code"
            )
