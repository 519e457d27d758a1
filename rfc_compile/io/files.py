"""Files: never half written, and read only as far as they are as large as expected."""

from __future__ import annotations

from pathlib import Path

from rfc_compile.errors import OptionError


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most ``most`` bytes.

    Counts the bytes read, since the size of a pipe is not known.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most} bytes, which are allowed")
    return data.decode("utf-8")


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file in one step; text is encoded as UTF-8.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    part = _part(path)
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_section(path: Path, start: str, end: str, content: str, most: int) -> None:
    """Replace what stands between two lines of a file of at most ``most`` bytes.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: it lacks one of the lines, or is larger.
    """
    before, begun, rest = read_text(path, most).partition(f"{start}\n")
    _, ended, after = rest.partition(f"{end}\n")
    if not begun or not ended:
        raise ValueError(f"{path} lacks the line {end if begun else start}")
    replace_file(path, f"{before}{begun}{content}\n{ended}{after}")


def check_writable(path: Path, argument: str) -> None:
    """Fail before the work rather than after it; leave no empty file behind.

    Raises:
        OptionError: the file cannot be written, or not replaced; the message names
            ``argument``.
    """
    if not path.name:
        raise OptionError(f"argument {argument}: {str(path)!r} is no file")
    try:
        for file in (path, _part(path)):
            existed = file.exists()
            file.open("a", encoding="utf-8").close()
            if not existed:
                file.unlink()
    except OSError as error:
        raise OptionError(f"argument {argument}: {error}") from error


def make_folder(path: Path, argument: str) -> None:
    """Make a folder, with those that it is in.

    Raises:
        OptionError: it cannot be made; the message names ``argument``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"argument {argument}: {error}") from error


def _part(path: Path) -> Path:
    """Where a file is written before it takes the place of another."""
    return path.with_name(f"{path.name}.part")
