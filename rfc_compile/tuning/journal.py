"""The study file: one line per thing measured, so that a stopped search goes on.

The search is deterministic. Told to resume, it runs from its start and finds in the
file what was measured before; a line that was cut off in the middle is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rfc_compile.errors import OptionError
from rfc_compile.files import replace_file
from rfc_compile.json_files import JSON


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

        Args:
            path: the file; None keeps nothing.
            study: what the numbers depend on: model, sampler, seeds, environment.
            resume: whether to go on.

        Raises:
            OptionError: the file is of another study, or cannot be read or written.

        """
        journal = cls(path)
        if path is None:
            return journal
        try:
            if resume and path.exists():
                journal._read(path, study)
            lines = [json.dumps({"study": study})]
            lines += [f'{{"key": {k}, "value": {json.dumps(v)}}}' for k, v in journal]
            replace_file(path, "".join(f"{line}\n" for line in lines))
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"study file: {error}") from error
        return journal

    def __iter__(self) -> Iterator[tuple[str, JSON]]:
        """Pairs of key and value."""
        return iter(self._known.items())

    def __len__(self) -> int:
        """How many things were measured."""
        return len(self._known)

    def get(self, key: Mapping[str, object]) -> JSON:
        """What was measured; None if nothing was."""
        return self._known.get(_text(key))

    def add(self, key: Mapping[str, object], value: JSON) -> None:
        """Note a measurement; it is in the file when this returns."""
        self._known[_text(key)] = value
        if self._path is not None:
            line = f'{{"key": {_text(key)}, "value": {json.dumps(value)}}}\n'
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)

    def _read(self, path: Path, study: Mapping[str, JSON]) -> None:
        first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        try:
            earlier = json.loads(first)["study"]
            differing = [n for n in study if earlier.get(n) != _plain(study[n])]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise OptionError(
                f"{path} is no study of `rfc-compile tune`: delete it, or tune without "
                "--resume"
            ) from error
        if differing:
            name = differing[0]
            raise OptionError(
                f"{path}: {name} was {earlier.get(name)!r} and is {study[name]!r}: "
                "only the same study can be resumed"
            )
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # written when the process was killed
                continue
            self._known[_text(record["key"])] = record["value"]


def _text(key: Mapping[str, object]) -> str:
    return json.dumps(key, sort_keys=True)


def _plain(value: JSON) -> JSON:
    plain: JSON = json.loads(json.dumps(value))
    return plain
