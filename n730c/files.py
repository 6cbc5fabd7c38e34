"""Where an output file may go, and how it is written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from n730c.errors import N730Error, UsageError

try:
    import fcntl
except ImportError:  # Windows: two builds at the same time are not kept apart
    fcntl = None  # type: ignore[assignment]


def destination(path: Path, start: bytes, kind: str, option: str) -> Path:
    """``path``, or what it links to, if a new file or an older one of the same kind is there and can be written.

    A file of the kind begins with ``start``; anything else (a device, a pipe, a folder, another file) is left alone.
    Raises UsageError, which names ``kind`` and the ``option`` that chose the path.
    """
    hint = f"Name another file with {option}."
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"cannot write {path}", expected="a file in an existing folder", hint=hint)
    if path.is_symlink():
        path = path.resolve()  # the link keeps pointing where it did
    if path.exists() and not _replaceable(path, start):
        raise UsageError(
            f"will not overwrite {path}", expected=f"a new file or an older {kind}", found="something else", hint=hint
        )
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"cannot write {path}",
            expected="a folder that can be written to",
            found=f"{path.parent}, which cannot",
            hint=hint,
        )
    return path


def _replaceable(path: Path, start: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) in (start, b"")


def locked(file: IO[Any]) -> bool:
    """Lock an open file for this process, as long as it has it open; False if another has it, or the file is gone."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return Path(file.name).exists()


@contextlib.contextmanager
def system_errors(
    what: str, *, expected: str = "", hint: str = "", kind: type[N730Error] = UsageError
) -> Iterator[None]:
    """What the system refuses within becomes an error of ours: ``kind``, with the system's reason as what was found."""
    try:
        yield
    except OSError as error:
        raise kind(what, expected=expected, found=error.strerror or str(error), hint=hint) from error


def dump_text(folder: Path | None, name: str, text: str) -> None:
    """Write ``text`` to a file in ``folder`` (``build --dump``), made if need be; None: nothing. Raises UsageError."""
    if folder is None:
        return
    with system_errors(
        f"cannot write the dump to {folder}",
        expected="a folder with room that can be written to",
        hint="Name another folder with --dump.",
    ):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text.encode())


def write_page(path: Path, page: str) -> None:
    """Write an HTML page where ``--report`` says. Raises UsageError."""
    where = destination(path, b"<!DOCTYPE html>", "page", "--report")
    with system_errors(f"cannot write {path}", hint="Name another file with --report."):
        write_whole(where, page.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave what was there. Raises OSError."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
