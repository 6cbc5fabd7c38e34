"""The compiler's validator: FORMAT.md, section 5, in its order. The runtime has another one, written apart from this.

A package is untrusted: sizes are compared with the real file before anything is read or allocated by them, all
arithmetic is in Python's unbounded integers, and no check is worse than n log n in the bytes of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from n730c.artifacts import PIECE
from n730c.chat_format import validate_chat
from n730c.dtypes import round_up
from n730c.errors import PackageError
from n730c.package import layout as lay
from n730c.package.check_plans import check_plans
from n730c.package.check_steps import check_program, check_steps
from n730c.package.check_tables import (
    check_buffers,
    check_caches,
    check_images,
    check_kernels,
    check_meta,
    check_segments,
    check_tensors,
)
from n730c.package.layout import Kind
from n730c.tokenizer_validate import validate_tokenizer


class Extent(NamedTuple):
    """A section in the file."""

    offset: int
    size: int
    hash: int


class Checked(NamedTuple):
    """A package whose front (everything before the first segment) was found to be right."""

    extents: dict[Kind, Extent]
    sections: dict[Kind, bytes]
    file_bytes: int


def validate(source: Path | str | BinaryIO, full: bool = False) -> None:
    """Raise PackageError with the code that FORMAT.md gives unless the package is right.

    ``full`` also reads every segment and checks its checksum and its padding (``verify``).
    """
    with opened(source) as file:
        checked = check_front(file)
        if full:
            _check_segment_bytes(file, checked.sections)


@contextmanager
def opened(source: Path | str | BinaryIO) -> Iterator[BinaryIO]:
    """The file open for reading; whatever the system says against it becomes E_OPEN."""
    try:
        if isinstance(source, (str, Path)):
            with Path(source).open("rb") as file:
                yield file
        else:
            yield source
    except OSError as error:
        raise PackageError(
            "E_OPEN", f"cannot read {source}: {error.strerror or error}", hint="Check the name and the permissions."
        ) from error


def check_front(file: BinaryIO) -> Checked:
    """All checks but those of the segments' bytes; ``file`` is seekable. Raises PackageError, OSError."""
    file_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    extents = _check_header(file.read(lay.HEADER_BYTES), file_bytes)
    end = max(extent.offset + extent.size for extent in extents.values())
    first_segment = round_up(end, lay.HEADER_BYTES)
    front = memoryview(_read(file, 0, min(first_segment, file_bytes)))
    views = {kind: front[extent.offset : extent.offset + extent.size] for kind, extent in extents.items()}
    starts = [extent.offset for extent in extents.values()]
    for (kind, extent), after in zip(extents.items(), (*starts[1:], first_segment), strict=True):
        padding = bytes(front[extent.offset + extent.size : after])
        if padding.count(0) != len(padding):
            raise PackageError("E_SECTION", f"padding after section {kind.name}", expected="zeros")
    for kind, extent in extents.items():
        found = xxhash.xxh3_64_intdigest(views[kind])
        if found != extent.hash:
            raise PackageError(
                "E_SECTION_CHECKSUM",
                f"section {kind.name} is damaged",
                expected=f"XXH3 {extent.hash:016x}",
                found=f"{found:016x}",
                hint="Copy or build the file again.",
            )
    sections = {kind: bytes(view) for kind, view in views.items()}
    _check_sections(sections, first_segment, file_bytes)
    return Checked(extents, sections, file_bytes)


def _check_sections(sections: dict[Kind, bytes], first_segment: int, file_bytes: int) -> None:
    check_meta(sections[Kind.META])
    segment_count = len(sections[Kind.SEGMENTS]) // lay.SEGMENT.size
    kernel_count = len(sections[Kind.KERNELS]) // lay.KERNEL.size
    tensors = check_tensors(sections[Kind.TENSORS], sections[Kind.NAMES], segment_count)
    segments = check_segments(
        sections[Kind.SEGMENTS], len(sections[Kind.SUMS]) // lay.SUM.size, tensors, first_segment, file_bytes
    )
    buffers = check_buffers(sections[Kind.BUFFERS])
    caches = check_caches(sections[Kind.CACHES])
    program = lay.ProgramRecord._make(lay.PROGRAM.unpack(sections[Kind.PROGRAM]))
    steps = check_steps(sections[Kind.STEPS], tensors, buffers, caches, kernel_count, program)
    check_program(program, steps, buffers)
    check_plans(sections, segments, tensors, buffers, caches, steps, program)
    kernels = check_kernels(sections[Kind.KERNELS], steps, tensors)
    check_images(sections[Kind.IMAGES], sections[Kind.CODE], len(kernels))
    wrong = validate_tokenizer(sections[Kind.TOKENIZER], program.vocab)
    if wrong is not None:
        raise PackageError("E_TOKENIZER", wrong)
    wrong = validate_chat(sections[Kind.CHAT])
    if wrong is not None:
        raise PackageError("E_CHAT", wrong)


def _check_header(header: bytes, file_bytes: int) -> dict[Kind, Extent]:
    """Checks up to the section table."""
    if len(header) >= 8 and header[:8] != lay.MAGIC:
        raise PackageError("E_MAGIC", "not an .n730 package", expected=lay.MAGIC.hex(), found=header[:8].hex())
    if len(header) < lay.HEADER_BYTES:
        raise PackageError("E_TRUNCATED", "the header is cut", expected="4096 bytes", found=str(len(header)))
    found = xxhash.xxh3_64_digest(header[: lay.HEADER_HASHED])
    if found != header[lay.HEADER_HASHED :]:
        expected = header[lay.HEADER_HASHED :].hex()
        raise PackageError("E_HEADER_CHECKSUM", "the header is damaged", expected=f"XXH3 {expected}", found=found.hex())
    _, major, minor, header_bytes, size, count, zero = lay.HEADER.unpack_from(header)
    if (major, minor) != lay.VERSION:
        raise PackageError(
            "E_VERSION", "version of the package", expected="1.0", found=f"{major}.{minor}", hint="Update n730c."
        )
    reserved = header[lay.SECTION_TABLE_END : lay.HEADER_HASHED]
    if (header_bytes, count, zero) != (lay.HEADER_BYTES, lay.SECTION_COUNT, 0) or any(reserved):
        raise PackageError("E_HEADER", "header size, section count or reserved bytes", found=f"{header_bytes}, {count}")
    if file_bytes > size:
        raise PackageError("E_HEADER", "the file is longer than it says", expected=str(size), found=str(file_bytes))
    if file_bytes < size:
        raise PackageError("E_TRUNCATED", "the file is cut", expected=f"{size} bytes", found=str(file_bytes))
    return _check_section_table(header, file_bytes)


def _check_section_table(header: bytes, file_bytes: int) -> dict[Kind, Extent]:
    extents: dict[Kind, Extent] = {}
    counts: dict[Kind, int] = {}
    end = lay.HEADER_BYTES
    table = header[lay.HEADER.size : lay.SECTION_TABLE_END]
    for kind, (number, zero, offset, size, digest) in zip(Kind, lay.SECTION.iter_unpack(table), strict=True):
        if (number, zero) != (kind, 0):
            raise PackageError(
                "E_SECTION", f"entry of section {kind.name}", expected=f"kind {kind}", found=f"{number}, {zero}"
            )
        if offset != round_up(end, lay.SECTION_ALIGN):
            expected = str(round_up(end, lay.SECTION_ALIGN))
            raise PackageError("E_SECTION", f"offset of section {kind.name}", expected=expected, found=str(offset))
        limit = lay.LIMITS[kind]
        count, rest = divmod(size, limit.record)
        if rest or not limit.least <= count <= limit.most:
            expected = f"{limit.least} … {limit.most} records of {limit.record} bytes"
            raise PackageError("E_SECTION", f"size of section {kind.name}", expected=expected, found=f"{size} bytes")
        end = offset + size
        if end > file_bytes:
            raise PackageError("E_SECTION", f"section {kind.name} ends behind the file", found=f"{end} > {file_bytes}")
        extents[kind] = Extent(offset, size, digest)
        counts[kind] = count
    for kind, expected_count in (
        (Kind.PLACEMENTS, counts[Kind.PLANS] * counts[Kind.SEGMENTS]),
        (Kind.OFFSETS, counts[Kind.PLANS] * (counts[Kind.BUFFERS] + counts[Kind.CACHES])),
    ):
        if counts[kind] != expected_count:
            raise PackageError(
                "E_SECTION", f"records of section {kind.name}", expected=str(expected_count), found=str(counts[kind])
            )
    return extents


def _check_segment_bytes(file: BinaryIO, sections: dict[Kind, bytes]) -> None:
    """Every piece's checksum and the padding in it; one pass over the file, piece by piece."""
    tensors = list(map(lay.TensorRecord._make, lay.TENSOR.iter_unpack(sections[Kind.TENSORS])))
    sums = [value for (value,) in lay.SUM.iter_unpack(sections[Kind.SUMS])]
    dirty: PackageError | None = None
    for index, segment in enumerate(map(lay.SegmentRecord._make, lay.SEGMENT.iter_unpack(sections[Kind.SEGMENTS]))):
        mine = tensors[segment.first_tensor : segment.first_tensor + segment.tensor_count]
        starts = [t.offset for t in mine[1:]] + [segment.size]
        gaps = [(t.offset + t.size, start) for t, start in zip(mine, starts, strict=True)]
        gaps.insert(0, (0, mine[0].offset))
        gap = 0
        for piece, at in enumerate(range(0, segment.size, PIECE)):
            chunk = _read(file, segment.offset + at, min(PIECE, segment.size - at))
            found = xxhash.xxh3_64_intdigest(chunk)
            expected = sums[segment.first_sum + piece]
            if found != expected:
                raise PackageError(
                    "E_SEGMENT_CHECKSUM",
                    f"segment {index} is damaged at byte {segment.offset + at} of the file",
                    expected=f"XXH3 {expected:016x}",
                    found=f"{found:016x}",
                    hint="Copy or build the file again.",
                )
            while gap < len(gaps) and gaps[gap][0] < at + len(chunk):
                first, last = gaps[gap]
                padding = chunk[max(first - at, 0) : max(last - at, 0)]
                if padding.count(0) != len(padding) and dirty is None:
                    dirty = PackageError("E_PADDING", f"padding in segment {index}", expected="zeros")
                if last > at + len(chunk):
                    break  # goes on in the next chunk
                gap += 1
    if dirty is not None:
        raise dirty


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """Exactly these bytes; the file was measured before, so fewer mean that it shrinks under our hands."""
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise PackageError("E_TRUNCATED", "the file became shorter while it was read")
    return data
