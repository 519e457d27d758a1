"""Where the outcome is written: JSON, JUnit XML, Markdown, a step's summary.

Every path is tried before the work begins; a file is replaced in one step after it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rfc_compile.errors import OptionError
from rfc_compile.io.files import check_writable, make_folder, replace_file
from rfc_compile.tools.checking.outcome import Outcome
from rfc_compile.tools.checking.writers import junit, markdown, record

WRITERS: Final[Mapping[str, Callable[[Outcome], str]]] = {
    "json": record,
    "junit": junit,
    "markdown": markdown,
}
"""By the option that names the file."""

SUMMARY_VARIABLE: Final = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True)
class Reports:
    """The files to write.

    Attributes:
        paths: by name of the writer.
        summary: a file that the Markdown is appended to, None for none.
    """

    paths: Mapping[str, Path]
    summary: Path | None = None

    def prepare(self) -> None:
        """Make the folders, and see that every file can be written."""
        known: dict[Path, str] = {}
        for name, path in self.paths.items():
            same = known.setdefault(path.resolve(), name)
            if same != name:
                raise OptionError(f"arguments --{same} and --{name} name the same file")
            make_folder(path.parent, f"--{name}")
            check_writable(path, f"--{name}")
        if self.summary is not None:
            check_writable(self.summary, "--github-summary")

    def write(self, outcome: Outcome) -> None:
        """Write every file."""
        try:
            for name, path in self.paths.items():
                replace_file(path, WRITERS[name](outcome))
            if self.summary is not None:
                with self.summary.open("a", encoding="utf-8") as file:
                    file.write(markdown(outcome))
        except OSError as error:
            raise OptionError(f"a report cannot be written: {error}") from error


def step_summary() -> Path:
    """The file that GitHub shows as the summary of the step."""
    path = os.environ.get(SUMMARY_VARIABLE)
    if not path:
        raise OptionError(
            f"argument --github-summary: ${SUMMARY_VARIABLE} is not set; leave it out, "
            "or use --markdown FILE outside GitHub Actions"
        )
    return Path(path)
