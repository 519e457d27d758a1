"""The study file: one line per thing measured, so that a stopped search resumes.

    {"schema": 1, "study": {...}}
    {"key": {"trial": {...}, "seed": 0}, "value": {...}}

The search is deterministic. With --resume it runs from its start and finds in the
file what was measured before; a last line that was cut off in the middle is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from rfc_compile.errors import OptionError
from rfc_compile.io.files import read_text, replace_file
from rfc_compile.io.json_files import JSON, Unexpected, parse_json
from rfc_compile.io.schema import check_names, check_schema, object_at

T = TypeVar("T")

SCHEMA: Final = 1
"""Version of the file's form; a reader refuses later ones."""

MOST_BYTES: Final = 64 << 20
"""Of the file; that of a long search has a few hundred thousand."""


class Journal:
    """What was measured so far, by what it was measured of."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, JSON] = {}

    @classmethod
    def open(
        cls, path: Path | None, study: Mapping[str, JSON], *, resume: bool
    ) -> Journal:
        """A new study, or an earlier one if it is to go on and there is one.

        ``study`` is what the numbers depend on: model, sampler, seeds, environment. A
        ``path`` of None keeps nothing.
        """
        journal = cls(path)
        if path is None:
            return journal
        try:
            if resume and path.exists():
                journal._read(path, study)
            lines = [json.dumps({"schema": SCHEMA, "study": study})]
            lines += [f'{{"key": {k}, "value": {json.dumps(v)}}}' for k, v in journal]
            replace_file(path, "".join(f"{line}\n" for line in lines))
        except (OSError, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(f"study file: {error}") from error
        return journal

    def __iter__(self) -> Iterator[tuple[str, JSON]]:
        return iter(self._known.items())

    def __len__(self) -> int:
        return len(self._known)

    def get(
        self, key: Mapping[str, object], read: Callable[[str, JSON], T]
    ) -> T | None:
        """What was measured; None if nothing was.

        ``read`` makes it of its place in the file and its value there.
        """
        text = _text(key)
        if text not in self._known:
            return None
        try:
            return read("$.value", self._known[text])
        except Unexpected as error:
            raise OptionError(f"{self._path}: {error} (of {text})") from error

    def add(self, key: Mapping[str, object], value: JSON) -> None:
        """Note a measurement; it is in the file when this returns.

        One that is not finite is not: it is measured again.
        """
        self._known[_text(key)] = _plain(value)
        if self._path is not None:
            try:
                text = json.dumps(value, allow_nan=False)
            except ValueError:
                return
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f'{{"key": {_text(key)}, "value": {text}}}\n')

    def _read(self, path: Path, study: Mapping[str, JSON]) -> None:
        first, *lines = read_text(path, MOST_BYTES).splitlines() or [""]
        try:
            self._check_study(path, first, study)
            for place, line in enumerate(lines, start=2):
                try:
                    record = object_at("$", parse_json(line))
                    check_names("$", record, ("key", "value"), ("key", "value"))
                    self._known[_text(object_at("$.key", record["key"]))] = record[
                        "value"
                    ]
                except Unexpected as error:
                    if place <= len(lines):  # the last one may have been cut off
                        raise Unexpected(f"line {place}: {error}") from error
        except Unexpected as error:
            raise OptionError(
                f"{path} is no study of `rfc-compile tune` ({error}): delete it, or "
                "tune without --resume"
            ) from error

    @staticmethod
    def _check_study(path: Path, line: str, study: Mapping[str, JSON]) -> None:
        header = object_at("$", parse_json(line))
        check_schema(header.get("schema"), SCHEMA, "begin the study anew")
        check_names("$", header, ("schema", "study"), ("study",))
        earlier = object_at("$.study", header["study"])
        check_names("$.study", earlier, study, ())
        for name, value in study.items():
            if earlier.get(name) != _plain(value):
                raise OptionError(
                    f"{path}: {name} was {earlier.get(name)!r} and is {value!r}: only "
                    "the same study can be resumed"
                )


def _text(key: Mapping[str, object]) -> str:
    return json.dumps(key, sort_keys=True)


def _plain(value: JSON) -> JSON:
    plain: JSON = json.loads(json.dumps(value))
    return plain
