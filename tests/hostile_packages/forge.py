"""A package taken apart so that a test can put any lie into it, and put together again with checksums that fit."""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple

import xxhash

from n730c.artifacts import PIECE, StepOp
from n730c.dtypes import round_up
from n730c.package import layout as lay
from n730c.package.layout import Kind

RECORDS: dict[Kind, tuple[Struct, type[Any]]] = {
    Kind.TENSORS: (lay.TENSOR, lay.TensorRecord),
    Kind.SEGMENTS: (lay.SEGMENT, lay.SegmentRecord),
    Kind.BUFFERS: (lay.BUFFER, lay.BufferRecord),
    Kind.CACHES: (lay.CACHE, lay.CacheRecord),
    Kind.STEPS: (lay.STEP, lay.StepRecord),
    Kind.PROGRAM: (lay.PROGRAM, lay.ProgramRecord),
    Kind.PLANS: (lay.PLAN, lay.PlanRecord),
    Kind.PLACEMENTS: (lay.PLACEMENT, lay.PlacementRecord),
    Kind.SCHEDULE: (lay.EVENT, lay.EventRecord),
    Kind.KERNELS: (lay.KERNEL, lay.KernelRecord),
}
U64 = (1 << 64) - 1


class Entry(NamedTuple):
    """One line of the section table."""

    number: int
    reserved: int
    offset: int
    size: int
    hash: int


class Forge:
    """``sections`` and ``weights`` are free to be changed; ``build`` makes offsets, sizes and checksums fit them."""

    def __init__(self, package: bytes) -> None:
        table = lay.SECTION.iter_unpack(package[lay.HEADER.size : lay.SECTION_TABLE_END])
        self.sections: dict[Kind, bytearray] = {}
        end = 0
        for kind, (_, _, offset, size, _) in zip(Kind, table, strict=True):
            end = offset + size
            self.sections[kind] = bytearray(package[offset:end])
        self.first_segment = round_up(end, lay.HEADER_BYTES)
        self.weights = bytearray(package[self.first_segment :])

    def count(self, kind: Kind) -> int:
        return len(self.sections[kind]) // lay.LIMITS[kind].record

    def offset(self, kind: Kind) -> int:
        """Where a section starts in the file that ``build`` would make."""
        end = lay.HEADER_BYTES
        for other in Kind:
            start = round_up(end, lay.SECTION_ALIGN)
            if other is kind:
                break
            end = start + len(self.sections[other])
        return start

    def record(self, kind: Kind, index: int) -> Any:
        struct, record = RECORDS[kind]
        return record._make(struct.unpack_from(self.sections[kind], index * struct.size))

    def edit(self, kind: Kind, index: int, /, **fields: Any) -> Forge:
        """Change fields of one record."""
        struct, _ = RECORDS[kind]
        struct.pack_into(self.sections[kind], index * struct.size, *self.record(kind, index)._replace(**fields))
        return self

    def poke(self, kind: Kind, offset: int, data: bytes) -> Forge:
        """Overwrite bytes of one section."""
        self.sections[kind][offset : offset + len(data)] = data
        return self

    def replace(self, kind: Kind, data: bytes) -> Forge:
        self.sections[kind] = bytearray(data)
        return self

    def step(self, op: StepOp, nth: int = 0) -> int:
        """Index of the nth step with this op."""
        found = [i for i in range(self.count(Kind.STEPS)) if self.record(Kind.STEPS, i).op == op]
        return found[nth]

    def rehash_segments(self) -> Forge:
        """Make the segments' checksums fit ``weights``."""
        at = 0
        sums = b""
        for i in range(self.count(Kind.SEGMENTS)):
            segment = bytes(self.weights[at : at + self.record(Kind.SEGMENTS, i).size])
            pieces = (segment[start : start + PIECE] for start in range(0, len(segment), PIECE))
            sums += b"".join(map(xxhash.xxh3_64_digest, pieces))
            at += len(segment)
        return self.replace(Kind.SUMS, sums)

    def build(self) -> bytes:
        """The file. Segments' offsets move along with the sections; what is wrong with them stays wrong."""
        offsets = {kind: self.offset(kind) for kind in Kind}
        last = max(Kind)
        end = offsets[last] + len(self.sections[last])
        first_segment = round_up(end, lay.HEADER_BYTES)
        for i in range(self.count(Kind.SEGMENTS)):
            moved = self.record(Kind.SEGMENTS, i).offset + first_segment - self.first_segment
            self.edit(Kind.SEGMENTS, i, offset=moved & U64)
        self.first_segment = first_segment
        out = bytearray(first_segment)
        lay.HEADER.pack_into(
            out, 0, lay.MAGIC, *lay.VERSION, lay.HEADER_BYTES, first_segment + len(self.weights), lay.SECTION_COUNT, 0
        )
        for i, (kind, data) in enumerate(self.sections.items()):
            out[offsets[kind] : offsets[kind] + len(data)] = data
            entry = Entry(kind, 0, offsets[kind], len(data), xxhash.xxh3_64_intdigest(bytes(data)))
            lay.SECTION.pack_into(out, lay.HEADER.size + i * lay.SECTION.size, *entry)
        return reseal(bytes(out + self.weights))


def reseal(package: bytes) -> bytes:
    """The same bytes with a header checksum that fits."""
    digest = xxhash.xxh3_64_digest(package[: lay.HEADER_HASHED])
    return package[: lay.HEADER_HASHED] + digest + package[lay.HEADER_BYTES :]


def in_header(package: bytes, offset: int, data: bytes) -> bytes:
    """Overwrite bytes of the header and make its checksum fit."""
    return reseal(package[:offset] + data + package[offset + len(data) :])


def in_section_table(package: bytes, kind: Kind, **fields: int) -> bytes:
    """Change fields of one line of the section table and make the header's checksum fit."""
    offset = lay.HEADER.size + (kind - 1) * lay.SECTION.size
    entry = Entry._make(lay.SECTION.unpack_from(package, offset))._replace(**fields)
    return in_header(package, offset, lay.SECTION.pack(*entry))
