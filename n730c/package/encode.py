"""The sections of a package as bytes; ``read.py`` is the way back."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from n730c.artifacts import NONE, PIECE, KernelImage, Plan, Program, segment_layout
from n730c.dtypes import round_up
from n730c.errors import InvalidIR
from n730c.package import layout as lay
from n730c.package.layout import Kind


def encode_sections(
    program: Program,
    plans: Sequence[Plan],
    images: Sequence[KernelImage],
    tokenizer: bytes,
    chat: bytes,
    meta: Mapping[str, Any],
) -> dict[Kind, bytes]:
    """All sections; SEGMENTS and SUMS have their sizes but not yet their bytes (``segment_table``, ``sum_table``).

    Raises InvalidIR if a value does not fit its field.
    """
    if not program.steps:
        raise InvalidIR("the program has no steps")
    try:
        return _sections(program, plans, images, tokenizer, chat, meta)
    except struct.error as error:
        raise InvalidIR(f"a number does not fit its field in the package: {error}") from error


def _sections(
    program: Program,
    plans: Sequence[Plan],
    images: Sequence[KernelImage],
    tokenizer: bytes,
    chat: bytes,
    meta: Mapping[str, Any],
) -> dict[Kind, bytes]:
    names = [tensor.name.encode() for tensor in program.tensors]
    return {
        Kind.META: json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(),
        Kind.NAMES: b"".join(names),
        Kind.TENSORS: _tensor_table(program, names),
        Kind.SEGMENTS: bytes(lay.SEGMENT.size * len(program.segments)),
        Kind.BUFFERS: b"".join(lay.BUFFER.pack(b.kind, b.scope, 0, b.width, 0) for b in program.buffers),
        Kind.CACHES: b"".join(
            lay.CACHE.pack(c.kv_heads, c.head_dim, c.window, c.format, bytes(3)) for c in program.caches
        ),
        Kind.STEPS: _step_table(program),
        Kind.PROGRAM: lay.PROGRAM.pack(program.head_first, program.steps[-1].out, program.vocab, bytes(20)),
        Kind.PLANS: _plan_table(plans),
        Kind.PLACEMENTS: b"".join(
            lay.PLACEMENT.pack(p.tier, p.device, 0, 0, p.offset) for plan in plans for p in plan.placements
        ),
        Kind.OFFSETS: b"".join(
            lay.OFFSET.pack(offset) for plan in plans for offset in (*plan.buffer_offsets, *plan.cache_offsets)
        ),
        Kind.SCHEDULE: b"".join(lay.EVENT.pack(e.action, 0, e.a, e.b, e.c) for plan in plans for e in plan.schedule),
        Kind.KERNELS: b"".join(lay.KERNEL.pack(k.op, k.format, 0, k.rows, k.cols, bytes(20)) for k in program.kernels),
        **_image_sections(images),
        Kind.TOKENIZER: tokenizer,
        Kind.CHAT: chat,
        Kind.SUMS: bytes(lay.SUM.size * sum(piece_count(s.size) for s in program.segments)),
    }


def _tensor_table(program: Program, names: Sequence[bytes]) -> bytes:
    table = bytearray()
    name_offset = 0
    for index, segment in enumerate(program.segments):
        ids = range(segment.first_tensor, segment.first_tensor + segment.tensor_count)
        places, _ = segment_layout([program.tensors[i] for i in ids])
        for i, place in zip(ids, places, strict=True):
            t = program.tensors[i]
            table += lay.TENSOR.pack(
                *(name_offset, len(names[i]), t.format, int(not t.is_vector), t.rows, t.cols, index, 0),
                *(place, t.size, bytes(24)),
            )
            name_offset += len(names[i])
    return bytes(table)


def piece_count(segment_bytes: int) -> int:
    """Pieces that a segment is checked in."""
    return -(-segment_bytes // PIECE)


def segment_table(program: Program, start: int) -> bytes:
    """SEGMENTS, the first of them at byte ``start`` of the file."""
    table = bytearray()
    first_sum = 0
    for segment in program.segments:
        table += lay.SEGMENT.pack(start, segment.size, first_sum, segment.first_tensor, segment.tensor_count)
        start += segment.size
        first_sum += piece_count(segment.size)
    return bytes(table)


def sum_table(sums: Sequence[int]) -> bytes:
    return b"".join(map(lay.SUM.pack, sums))


def _step_table(program: Program) -> bytes:
    table = bytearray()
    for s in program.steps:
        inputs = (*s.inputs, *(NONE,) * (3 - len(s.inputs)))
        ints = (*s.ints, *(0,) * (6 - len(s.ints)))
        floats = lay.FLOATS.pack(*s.floats, *(0.0,) * (4 - len(s.floats)))
        table += lay.STEP.pack(s.op, 0, s.layer, s.kernel, *inputs, s.out, s.weight, s.bias, *ints, floats, bytes(20))
    return bytes(table)


def _plan_table(plans: Sequence[Plan]) -> bytes:
    table = bytearray()
    first = 0
    for p in plans:
        table += lay.PLAN.pack(
            *(p.arena_bytes, p.vram_bytes, p.context, p.batch, p.head_batch, p.card_batch, p.tokenizer_offset),
            *(first, len(p.schedule), p.disk_bytes_per_token),
            *(p.decode_tokens_per_s, p.prefill_tokens_per_s, p.first_token_s),
            *(p.disk_bytes_per_s, p.read_bytes, p.reads_in_flight, p.experts_offset, p.expert_places, bytes(20)),
        )
        first += len(p.schedule)
    return bytes(table)


def _image_sections(images: Sequence[KernelImage]) -> dict[Kind, bytes]:
    table = bytearray(lay.IMAGES_HEAD.pack(len(images), 0, 0))
    code = bytearray()
    for image in images:
        code += bytes(round_up(len(code), 64) - len(code))
        table += lay.IMAGE.pack(image.isa, 0, len(code), len(image.code), 0)
        code += image.code
    for image in images:
        table += b"".join(lay.ENTRY.pack(entry.offset, entry.maker, bytes(3)) for entry in image.entries)
    return {Kind.IMAGES: bytes(table), Kind.CODE: bytes(code)}
