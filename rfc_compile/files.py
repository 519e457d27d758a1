"""Files that a reader never sees half written."""

from __future__ import annotations

from pathlib import Path

from rfc_compile.errors import OptionError


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file in one step; text is encoded as UTF-8.

    Raises:
        OSError: it cannot be written; what was there before is still there.

    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path, argument: str) -> None:
    """Fail before the work rather than after it; leave no empty file behind.

    Raises:
        OptionError: the file cannot be written; the message names ``argument``.

    """
    existed = path.exists()
    try:
        path.open("a", encoding="utf-8").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise OptionError(f"argument {argument}: {error}") from error
