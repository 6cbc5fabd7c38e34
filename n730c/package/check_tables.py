"""Checks of the records that stand by themselves: META, tensors, segments, buffers, caches, kernels, images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from n730c.artifacts import CACHE_FORMATS, NONE, PIECE, BufferKind, GpuArch, Isa, Maker, Scope, StepOp
from n730c.dtypes import Format, matrix_bytes, round_up, vector_bytes
from n730c.errors import PackageError
from n730c.package import layout as lay
from n730c.package.layout import (
    MAX_DIM,
    BufferRecord,
    CacheRecord,
    KernelRecord,
    SegmentRecord,
    StepRecord,
    TensorRecord,
)

MAX_JSON_DEPTH = 64
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear in hostile input too
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_meta(data: bytes) -> dict[str, Any]:
    """The META section's object."""

    def fail(found: str) -> PackageError:
        return PackageError("E_META", "META", expected="one JSON object in UTF-8", found=found)

    depth = 0
    for byte in _JSON_STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise fail("deeper nesting than 64")
    try:
        value = json.loads(
            data.decode("utf-8"), parse_int=_json_integer, parse_float=_json_float, parse_constant=_json_constant
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on lone surrogates
    except (ValueError, RecursionError) as error:
        raise fail(str(error)) from error
    if not isinstance(value, dict):
        raise fail(type(value).__name__)
    return value


def _json_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the finite doubles")
    return value


def _json_integer(text: str) -> int:
    _json_float(text)
    return int(text)


def _json_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def check_tensors(table: bytes, names: bytes, segment_count: int) -> list[TensorRecord]:
    tensors = list(map(TensorRecord._make, lay.TENSOR.iter_unpack(table)))
    name_end = 0
    for i, t in enumerate(tensors):

        def fail(what: str, expected: str = "", found: str = "", i: int = i) -> PackageError:
            return PackageError("E_TENSOR", f"tensor {i}: {what}", expected=expected, found=found)

        if t.name_offset != name_end or t.name_length == 0 or name_end + t.name_length > len(names):
            raise fail("name", f"1 or more bytes at {name_end} of NAMES", f"{t.name_length} at {t.name_offset}")
        name_end += t.name_length
        try:
            names[t.name_offset : name_end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise fail("name", "UTF-8", error.reason) from error
        if t.layout == 0:
            if t.format != Format.F32 or t.rows != 1:
                raise fail("a vector", "format F32 and 1 row", f"format {t.format}, {t.rows} rows")
        elif t.layout != 1 or not Format.F16 <= t.format <= max(Format):
            raise fail(
                "format or layout",
                f"a vector, or a matrix of format 1 … {max(Format)}",
                f"format {t.format}, layout {t.layout}",
            )
        if not (1 <= t.rows <= MAX_DIM and 1 <= t.cols <= MAX_DIM):
            raise fail("shape", f"1 … {MAX_DIM}", f"{t.rows} × {t.cols}")
        size = vector_bytes(t.cols) if t.layout == 0 else matrix_bytes(Format(t.format), t.rows, t.cols)
        if t.size != size:
            raise fail("size", f"{size} bytes", str(t.size))
        if t.segment >= segment_count:
            raise fail("segment", f"< {segment_count}", str(t.segment))
        if t.offset % 64:
            raise fail("offset", "a multiple of 64", str(t.offset))
        if t.zero or any(t.zeros):
            raise fail("reserved bytes", "zeros")
    if name_end != len(names):
        raise PackageError("E_TENSOR", "bytes of NAMES", expected=str(name_end), found=str(len(names)))
    return tensors


def check_segments(
    table: bytes, sum_count: int, tensors: Sequence[TensorRecord], first_segment: int, file_bytes: int
) -> list[SegmentRecord]:
    segments = list(map(SegmentRecord._make, lay.SEGMENT.iter_unpack(table)))
    at, tensor, first_sum = first_segment, 0, 0
    for i, s in enumerate(segments):

        def fail(what: str, expected: str = "", found: str = "", i: int = i) -> PackageError:
            return PackageError("E_SEGMENT", f"segment {i}: {what}", expected=expected, found=found)

        if s.offset != at:
            raise fail("offset", str(at), str(s.offset))
        if s.size == 0 or s.size % 4096 or s.size > file_bytes - at:
            raise fail("size", f"a multiple of 4096, at most {file_bytes - at}", str(s.size))
        if s.first_sum != first_sum:
            raise fail("first sum", str(first_sum), str(s.first_sum))
        first_sum += -(-s.size // PIECE)
        if s.first_tensor != tensor or not 1 <= s.tensor_count <= len(tensors) - tensor:
            raise fail("tensors", f"1 or more from {tensor} on", f"{s.tensor_count} from {s.first_tensor} on")
        end = 0
        for t in tensors[tensor : tensor + s.tensor_count]:
            if t.segment != i:
                raise fail("its tensor", f"in segment {i}", str(t.segment))
            if t.offset < end or t.offset + t.size > s.size:
                raise fail("its tensor", f"between {end} and {s.size}", f"{t.size} bytes at {t.offset}")
            end = t.offset + t.size
        at += s.size
        tensor += s.tensor_count
    if tensor != len(tensors) or at != file_bytes:
        raise PackageError(
            "E_SEGMENT",
            "what the segments hold",
            expected=f"{len(tensors)} tensors and the file to byte {file_bytes}",
            found=f"{tensor}, {at}",
        )
    if first_sum != sum_count:
        raise PackageError("E_SEGMENT", "records of SUMS", expected=str(first_sum), found=str(sum_count))
    return segments


def check_buffers(table: bytes) -> list[BufferRecord]:
    buffers = list(map(BufferRecord._make, lay.BUFFER.iter_unpack(table)))
    for i, b in enumerate(buffers):
        if b.kind > max(BufferKind) or b.scope > max(Scope) or not 1 <= b.width <= MAX_DIM or b.zero or b.zeros:
            raise PackageError("E_BUFFER", f"buffer {i}", found=f"kind {b.kind}, scope {b.scope}, width {b.width}")
    return buffers


def check_caches(table: bytes) -> list[CacheRecord]:
    caches = list(map(CacheRecord._make, lay.CACHE.iter_unpack(table)))
    for i, c in enumerate(caches):
        right_heads = 1 <= c.kv_heads <= 65536 and 8 <= c.head_dim <= 1024 and c.head_dim % 8 == 0
        if not right_heads or c.window > MAX_DIM or c.format not in CACHE_FORMATS or any(c.zeros):
            found = f"{c.kv_heads} heads of {c.head_dim}, window {c.window}, format {c.format}"
            raise PackageError("E_CACHE", f"cache {i}", found=found)
    return caches


def check_kernels(table: bytes, steps: Sequence[StepRecord], tensors: Sequence[TensorRecord]) -> list[KernelRecord]:
    kernels = list(map(KernelRecord._make, lay.KERNEL.iter_unpack(table)))
    for i, k in enumerate(kernels):
        shaped = 1 <= k.rows <= MAX_DIM and 1 <= k.cols <= MAX_DIM
        if k.op != StepOp.LINEAR or not 1 <= k.format <= max(Format) or not shaped or k.zero or any(k.zeros):
            found = f"op {k.op}, format {k.format}, {k.rows} × {k.cols}"
            raise PackageError("E_KERNEL", f"kernel {i}", expected=f"LINEAR of format 1 … {max(Format)}", found=found)
    for i, step in enumerate(steps):
        if step.kernel == NONE:
            continue
        k = kernels[step.kernel]
        wanted = None
        if step.op == StepOp.LINEAR:
            weight = tensors[step.weight]
            wanted = (step.op, weight.format, weight.rows, weight.cols)
        if wanted != (k.op, k.format, k.rows, k.cols):
            found = f"op {k.op}, format {k.format}, {k.rows} × {k.cols}"
            raise PackageError("E_KERNEL", f"kernel {step.kernel} of step {i}", expected=str(wanted), found=found)
    return kernels


def check_images(table: bytes, code: bytes, kernel_count: int) -> None:
    def fail(what: str, expected: str = "", found: str = "") -> PackageError:
        return PackageError("E_IMAGE", what, expected=expected, found=found)

    count, zero, zeros = lay.IMAGES_HEAD.unpack_from(table)
    size = lay.IMAGES_HEAD.size + count * (lay.IMAGE.size + lay.ENTRY.size * kernel_count)
    if count > 16 or len(table) != size or zero or zeros:
        raise fail("bytes of IMAGES", f"{size}, at most 16 images", f"{len(table)}, {count} images")
    entries_at = lay.IMAGES_HEAD.size + count * lay.IMAGE.size
    images = list(map(lay.ImageRecord._make, lay.IMAGE.iter_unpack(table[lay.IMAGES_HEAD.size : entries_at])))
    entries = list(map(lay.EntryRecord._make, lay.ENTRY.iter_unpack(table[entries_at:])))
    end = 0
    for i, image in enumerate(images):
        start = round_up(end, 64)
        if (
            image.isa not in (*Isa, *GpuArch)
            or image.isa in (other.isa for other in images[:i])
            or image.zero
            or image.zeros
        ):
            raise fail(f"image {i}", "an ISA of its own", str(image.isa))
        if image.offset != start or not 1 <= image.size <= len(code) - start or any(code[end:start]):
            raise fail(f"image {i}", f"at {start} of CODE, behind zeros", f"{image.size} bytes at {image.offset}")
        end = start + image.size
        for j, e in enumerate(entries[i * kernel_count : (i + 1) * kernel_count]):
            inside = e.maker != Maker.NONE and e.offset < image.size
            absent = e.maker == Maker.NONE and e.offset == NONE
            if image.isa in tuple(GpuArch):
                inside = False  # its kernels are found by name
            if not (inside or absent) or e.maker > max(Maker) or any(e.zeros):
                raise fail(f"entry {j} of image {i}", f"inside {image.size} bytes", f"{e.offset}, maker {e.maker}")
    if end != len(code):
        raise fail("bytes of CODE", str(end), str(len(code)))
