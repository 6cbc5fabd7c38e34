"""The GGUF container: metadata and the tensors' places, every length checked before a byte of it is believed.

Names of types, sizes of blocks and their arithmetic are the ``gguf`` package's. Its reader is not used, because it
trusts the file: a count of 2^60 in the header of a file that was cut makes it loop until the memory is full.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from n730c.errors import UnsupportedModel

MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # they differ in nothing but the byte order, which was little-endian only
_MAX_HEADER = 1 << 28  # bytes of metadata and tensor records; 256 000 tokens with their merges take some 10 MB
_MAX_ITEMS = 1 << 24  # texts in one array
_MAX_NAME = 1 << 16  # bytes
_MAX_DIMS = 4
_DEPTH = 2  # arrays within arrays
_SCALARS = {
    **{GGUFValueType.UINT8: "<u1", GGUFValueType.INT8: "<i1", GGUFValueType.BOOL: "<u1"},
    **{GGUFValueType.UINT16: "<u2", GGUFValueType.INT16: "<i2", GGUFValueType.UINT32: "<u4"},
    **{GGUFValueType.INT32: "<i4", GGUFValueType.FLOAT32: "<f4", GGUFValueType.UINT64: "<u8"},
    **{GGUFValueType.INT64: "<i8", GGUFValueType.FLOAT64: "<f8"},
}


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. ``shape``: outermost dimension first, as in numpy; ``offset``: bytes into the file."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The head of a GGUF file; its weights stay on the disk."""

    path: Path
    metadata: Mapping[str, Any]  # numbers, booleans, texts, lists of them
    tensors: Mapping[str, GgufTensor]

    def read(self, name: str, first_row: int = 0, rows: int | None = None) -> npt.NDArray[np.uint8]:
        """The stored bytes of a tensor, or of some of its rows, u8[rows, bytes a row]. Raises UnsupportedModel."""
        tensor = self.tensors[name]
        width = tensor.size // (math.prod(tensor.shape[:-1]) or 1)
        count = math.prod(tensor.shape[:-1]) if rows is None else rows
        try:
            with self.path.open("rb") as file:
                file.seek(tensor.offset + first_row * width)
                content = file.read(count * width)
        except OSError as error:
            raise UnsupportedModel(f"cannot read {self.path}: {error.strerror}") from None
        if len(content) != count * width:
            raise _cut(self.path, tensor.offset + tensor.size, self.path.stat().st_size)
        return np.frombuffer(content, dtype=np.uint8).reshape(count, width)


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is a file that says it is GGUF, by its first bytes or, if these are damaged, by its name."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def open_gguf(path: Path) -> GgufFile:
    """Read the head of a GGUF file. Raises UnsupportedModel, in one line, for anything damaged, cut or inconsistent."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(_Cursor(path, file, size))
    except OSError as error:
        raise UnsupportedModel(f"cannot read {path}: {error.strerror}") from None


def _cut(path: Path, expected: int, found: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path} is cut short", expected=f"at least {expected} bytes", found=str(found), hint="Fetch the file again."
    )


class _Cursor:
    """Reads a file from its start; nothing is allocated for bytes that the file does not have."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size, self.at = path, file, size, 0

    def corrupt(self, what: str, expected: str, found: object) -> UnsupportedModel:
        text = f"{self.path} is not a sound GGUF file: {what}"
        return UnsupportedModel(text, expected=expected, found=ascii(found)[:80], hint="Fetch the file again.")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.size:
            raise _cut(self.path, end, self.size)
        if end > _MAX_HEADER:
            raise self.corrupt("size of the metadata", f"at most {_MAX_HEADER} bytes", end)
        content = self.file.read(count)
        if len(content) != count:  # it shrank while we read
            raise _cut(self.path, end, self.at + len(content))
        self.at = end
        return content

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return value

    def text(self, what: str, limit: int = _MAX_HEADER) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.corrupt(f"length of {what}", f"at most {limit} bytes", length)
        content = self.take(length)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.corrupt(what, "UTF-8", content[:20]) from None

    def value_type(self, key: str) -> GGUFValueType:
        number = self.number("I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.corrupt(f"type of {key}", "0 ... 12", number) from None

    def value(self, key: str, kind: GGUFValueType, depth: int = 0) -> Any:
        """One value of the metadata."""
        if kind is GGUFValueType.STRING:
            return self.text(key)
        if kind is not GGUFValueType.ARRAY:
            return self.scalars(kind, 1)[0]
        if depth == _DEPTH:
            raise self.corrupt(f"array {key}", f"at most {_DEPTH} levels", "more")
        kind, count = self.value_type(key), self.number("Q")
        if kind in _SCALARS:
            return self.scalars(kind, count)
        least = 8 if kind is GGUFValueType.STRING else 12  # bytes that an item takes if it is empty
        if count > _MAX_ITEMS:
            raise self.corrupt(f"length of array {key}", f"at most {_MAX_ITEMS}", count)
        if self.at + least * count > self.size:
            raise _cut(self.path, self.at + least * count, self.size)
        return [self.value(key, kind, depth + 1) for _ in range(count)]

    def scalars(self, kind: GGUFValueType, count: int) -> list[Any]:
        dtype = np.dtype(_SCALARS[kind])
        if count > _MAX_ITEMS:
            raise self.corrupt("length of an array", f"at most {_MAX_ITEMS}", count)
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype=dtype).tolist()
        return [bool(v) for v in values] if kind is GGUFValueType.BOOL else values


def _read(cursor: _Cursor) -> GgufFile:
    if (magic := cursor.take(4)) != MAGIC:
        raise cursor.corrupt("its first bytes", repr(MAGIC), magic)
    version = cursor.number("I")
    if version not in _VERSIONS:
        what = "big-endian" if version in (v << 24 for v in _VERSIONS) else f"version {version}"
        raise UnsupportedModel(
            f"{cursor.path}: this kind of GGUF is not supported",
            expected="little-endian, version 2 or 3",
            found=what,
            hint="Convert the model again.",
        )
    tensor_count, value_count = cursor.number("Q"), cursor.number("Q")
    if 24 * tensor_count + 13 * value_count > cursor.size - cursor.at:  # the least that so many records take
        raise _cut(cursor.path, cursor.at + 24 * tensor_count + 13 * value_count, cursor.size)
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text("a key", _MAX_NAME)
        if key in metadata:
            raise cursor.corrupt(f"key {key!a}", "it once", "it twice")
        metadata[key] = cursor.value(key, cursor.value_type(key))
    if metadata.get("split.count", 1) != 1:
        raise UnsupportedModel(
            f"{cursor.path} is one part of a model that was split",
            expected="a whole model",
            found=f"{metadata['split.count']} parts",
            hint="Join them with llama-gguf-split --merge.",
        )
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.corrupt("general.alignment", "a power of two from 8", alignment)
    records = [_record(cursor) for _ in range(tensor_count)]
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = 0
    for name, kind, shape, offset in records:
        if name in tensors:
            raise cursor.corrupt(f"tensor {name!a}", "it once", "it twice")
        if offset != end:
            raise cursor.corrupt(f"offset of tensor {name!a}", str(end), offset)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = math.prod(shape) // block * block_bytes
        if start + offset + size > cursor.size:
            raise _cut(cursor.path, start + offset + size, cursor.size)
        tensors[name] = GgufTensor(kind, shape, start + offset, size)
        end = -(-(offset + size) // alignment) * alignment
    return GgufFile(cursor.path, metadata, tensors)


def _record(cursor: _Cursor) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
    """Name, type, shape and offset of one tensor."""
    name = cursor.text("a tensor's name", _MAX_NAME)
    dims = cursor.number("I")
    if not 1 <= dims <= _MAX_DIMS:
        raise cursor.corrupt(f"dimensions of tensor {name!a}", f"1 ... {_MAX_DIMS}", dims)
    shape = tuple(cursor.number("Q") for _ in range(dims))[::-1]
    if not all(shape) or math.prod(shape) > 1 << 48:
        raise cursor.corrupt(f"shape of tensor {name!a}", "1 ... 2^48 elements", list(shape))
    number = cursor.number("I")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise UnsupportedModel(
            f"tensor {name!a} of {cursor.path}: its type is not known",
            expected="a type of the gguf package",
            found=f"number {number}",
            hint="Convert the model to another type, such as Q4_0, Q8_0 or F16.",
        ) from None
    if shape[-1] % GGML_QUANT_SIZES[kind][0]:
        block = GGML_QUANT_SIZES[kind][0]
        raise cursor.corrupt(f"row of tensor {name!a}", f"a multiple of {block} ({kind.name})", shape[-1])
    return name, kind, shape, cursor.number("Q")
