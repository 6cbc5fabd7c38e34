"""Write a package: weights streamed tensor by tensor, tables and header last, the finished file renamed into place."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import xxhash

from n730c.artifacts import PIECE, KernelImage, Plan, Program, segment_layout
from n730c.dtypes import round_up
from n730c.errors import InvalidIR, UsageError
from n730c.files import locked
from n730c.package import layout as lay
from n730c.package.encode import encode_sections, segment_table, sum_table
from n730c.package.layout import Kind
from n730c.package.validate import validate

Progress = Callable[[int, int], None]

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_package(
    path: Path | str,
    program: Program,
    plans: Sequence[Plan],
    images: Sequence[KernelImage],
    tensor_bytes: Callable[[int], bytes],
    tokenizer: bytes,
    chat: bytes,
    meta: Mapping[str, Any],
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the package to ``path``, or leave nothing behind.

    ``tensor_bytes(id)`` gives the ``program.tensors[id].size`` bytes of one tensor as FORMAT.md lays them out; it is
    called once a tensor, in order, and one result at a time is held. ``progress(done, total)`` counts the file's bytes.
    The same arguments give the same bytes. The logits are what the last step writes. What was written is checked by
    ``validate`` before it gets its name, and by ``check``, which is given the file as it is called until then.
    Raises UsageError (no space, no such folder), InvalidIR or PackageError (the arguments contradict each other or
    FORMAT.md), and whatever ``tensor_bytes`` and ``check`` raise.
    """
    path = Path(path)
    sections = encode_sections(program, plans, images, tokenizer, chat, meta)
    offsets, end = _section_offsets(sections)
    first_segment = round_up(end, lay.HEADER_BYTES)
    total = first_segment + sum(segment.size for segment in program.segments)
    if path.is_dir():
        raise UsageError(f"cannot write {path}", expected="the name of a file", found="a folder")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"cannot write {path}", expected="an existing folder", hint="Create the folder first.")
    free = shutil.disk_usage(path.absolute().parent).free
    if free < total:
        raise _no_space(path, total, free)
    try:
        with _signals_raise(), _temporary(path) as (temporary, file):
            sums = _write_segments(file, first_segment, total, program, tensor_bytes, progress)
            sections[Kind.SEGMENTS] = segment_table(program, first_segment)
            sections[Kind.SUMS] = sum_table(sums)
            file.seek(0)
            file.write(_front(sections, offsets, first_segment, total))
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress(total, total)
            validate(temporary)
            if check is not None:
                check(temporary)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _no_space(path, total, shutil.disk_usage(path.absolute().parent).free) from error
        raise UsageError(
            f"cannot write {path}",
            expected="a folder that can be written to",
            found=error.strerror or str(error),
            hint="Name another file with -o.",
        ) from error


def package_size(
    program: Program,
    plans: Sequence[Plan],
    images: Sequence[KernelImage],
    tokenizer: bytes,
    chat: bytes,
    meta: Mapping[str, Any],
) -> int:
    """Bytes of the file that ``write_package`` would write."""
    end = _section_offsets(encode_sections(program, plans, images, tokenizer, chat, meta))[1]
    return round_up(end, lay.HEADER_BYTES) + sum(segment.size for segment in program.segments)


def _no_space(path: Path, needed: int, free: int) -> UsageError:
    return UsageError(
        f"no space to write {path}",
        expected=f"{needed} bytes",
        found=f"{free} bytes free" + (" but a lower limit on the size of a file" if free >= needed else ""),
        hint="Free some space, or write to another disk with -o.",
    )


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, where they would end the process on the spot."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    changed = []
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, stop)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``path`` that takes its name at the end, or is removed whatever happens.

    If the process is killed, the next that writes to ``path`` removes it.
    """
    name = f".{path.name[:200]}."
    for left in path.absolute().parent.glob(f"{glob.escape(name)}{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            if locked(file):  # nobody is at it
                left.unlink()
    while True:
        temporary = path.absolute().with_name(f"{name}{secrets.token_hex(4)}.tmp")
        made = temporary.open("xb")
        if locked(made):
            break
        made.close()  # another process took it for one that was left
    try:
        with made as file:
            yield temporary, file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name, too, survives a power cut
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_segments(
    file: BinaryIO,
    start: int,
    total: int,
    program: Program,
    tensor_bytes: Callable[[int], bytes],
    progress: Progress | None,
) -> list[int]:
    """Write all segments from ``start`` on; returns the XXH3 of each piece."""
    sums: list[int] = []
    file.seek(start)
    done = start
    for segment in program.segments:
        pieces = _PieceSums()
        ids = range(segment.first_tensor, segment.first_tensor + segment.tensor_count)
        at = 0
        places, size = segment_layout([program.tensors[i] for i in ids])
        if size != segment.size:
            raise InvalidIR(
                f"segment at tensor {segment.first_tensor}", expected=f"{size} bytes", found=str(segment.size)
            )
        for i, place in zip(ids, places, strict=True):
            tensor = program.tensors[i]
            try:
                data = tensor_bytes(i)
            except OSError as error:  # of the source, not of the package
                raise UsageError(f"cannot read tensor {tensor.name}: {error.strerror or error}") from error
            if len(data) != tensor.size:
                raise InvalidIR(f"tensor {tensor.name}", expected=f"{tensor.size} bytes", found=str(len(data)))
            for part in (bytes(place - at), data):
                pieces.update(part)
                file.write(part)
            at = place + len(data)
            del data, part  # or two tensors would be held while the next one is made
            if progress is not None:
                progress(done + at, total)
        padding = bytes(size - at)
        pieces.update(padding)
        file.write(padding)
        sums += pieces.end()
        done += size
    return sums


class _PieceSums:
    """The XXH3 of each piece of one segment, from parts of any size."""

    def __init__(self) -> None:
        self.sums: list[int] = []
        self.digest = xxhash.xxh3_64()
        self.filled = 0  # bytes of the piece that is open

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            part = view[: PIECE - self.filled]
            self.digest.update(part)
            self.filled += len(part)
            view = view[len(part) :]
            if self.filled == PIECE:
                self._close()

    def end(self) -> list[int]:
        if self.filled:
            self._close()
        return self.sums

    def _close(self) -> None:
        self.sums.append(self.digest.intdigest())
        self.digest.reset()
        self.filled = 0


def _front(sections: Mapping[Kind, bytes], offsets: Mapping[Kind, int], first_segment: int, total: int) -> bytes:
    """Everything before the first segment: header, section table, sections, padding."""
    front = bytearray(first_segment)
    lay.HEADER.pack_into(front, 0, lay.MAGIC, *lay.VERSION, lay.HEADER_BYTES, total, lay.SECTION_COUNT, 0)
    for i, kind in enumerate(Kind):
        data = sections[kind]
        front[offsets[kind] : offsets[kind] + len(data)] = data
        where = lay.HEADER.size + i * lay.SECTION.size
        lay.SECTION.pack_into(front, where, kind, 0, offsets[kind], len(data), xxhash.xxh3_64_intdigest(data))
    digest = xxhash.xxh3_64_digest(bytes(front[: lay.HEADER_HASHED]))  # canonical form: big-endian
    front[lay.HEADER_HASHED : lay.HEADER_BYTES] = digest
    return bytes(front)


def _section_offsets(sections: Mapping[Kind, bytes]) -> tuple[dict[Kind, int], int]:
    offsets, end = {}, lay.HEADER_BYTES
    for kind in Kind:
        offsets[kind] = round_up(end, lay.SECTION_ALIGN)
        end = offsets[kind] + len(sections[kind])
    return offsets, end
