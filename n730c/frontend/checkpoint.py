"""A Hugging Face folder, read lazily: configuration, safetensors headers at once, tensors one by one on demand.

The safetensors container (8 bytes of length, a JSON header, then raw little-endian data) is read here rather than by
its library because numpy has no bfloat16, and because every kind of damage must end in one clear line.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from n730c.dtypes import Format
from n730c.errors import UnsupportedModel
from n730c.ir.views import apply_view, stored_name, view_shape

Array = npt.NDArray[np.float32]

_FORMATS = {"F32": Format.F32, "F16": Format.F16, "BF16": Format.BF16}
_OTHER_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4}
_ITEM_BYTES = {**_OTHER_SIZES, "F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U64": 8}
DEFAULT_CONTEXT = 4096  # tokens, where nobody asked for another number
_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library itself
_PIECE = 2**24  # bytes
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_SOURCES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja", _INDEX),
)


@dataclass(frozen=True)
class RawTensor:
    """A tensor as stored. ``data``: float32, or the uint16 bits of F16 and BF16, native byte order, C order."""

    format: Format
    data: npt.NDArray[np.float32] | npt.NDArray[np.uint16]

    def to_float32(self) -> Array:
        """The values, exactly."""
        if self.format is Format.BF16:
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return (self.data.view(np.float16) if self.format is Format.F16 else self.data).astype(np.float32)


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies. ``offset``: bytes from the start of ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder. Holds headers and configuration only, never weights."""

    folder: Path
    config: Mapping[str, Any]  # config.json
    generation: Mapping[str, Any]  # generation_config.json, or nothing
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """The folder's name, or the configuration's ``_name_or_path`` where the folder has none (``/``)."""
        return self.folder.resolve().name or str(self.config.get("_name_or_path") or "model")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.entries))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Token ids that end a text: those of generation_config.json, else those of config.json, else none."""
        for settings in (self.generation, self.config):
            eos = settings.get("eos_token_id")
            ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
                raise UnsupportedModel("eos_token_id", expected="a token id or a list of them", found=json.dumps(eos))
            if ids:
                return tuple(ids)
        return ()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, or of a view of one (``ir/views.py``). Raises UnsupportedModel if it does not fit."""
        stored = self._entry(stored_name(name)).shape
        try:
            return view_shape(name, stored)
        except ValueError as error:
            raise UnsupportedModel(
                f"tensor {stored_name(name)}: shape", expected=f"one for {error}", found=str(list(stored))
            ) from None

    def format(self, name: str) -> Format:
        """Storage format; raises UnsupportedModel for a dtype that is not F32, F16 or BF16."""
        entry = self._entry(stored_name(name))
        if entry.dtype not in _FORMATS:
            raise UnsupportedModel(f"tensor {name}: dtype", expected=" or ".join(_FORMATS), found=entry.dtype)
        return _FORMATS[entry.dtype]

    def raw(self, name: str) -> RawTensor:
        """The stored bits of one tensor, read now. Raises UnsupportedModel for NaN or Inf, naming the tensor."""
        entry, fmt = self._entry(name), self.format(name)
        content = _read(entry, 0, entry.size)
        if fmt is Format.F32:
            floats = np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False).reshape(entry.shape)
            refuse_non_finite(name, ~np.isfinite(floats))
            return RawTensor(fmt, floats)
        bits = np.frombuffer(content, dtype="<u2").astype(np.uint16, copy=False).reshape(entry.shape)
        exponent = np.uint16(0x7C00 if fmt is Format.F16 else 0x7F80)
        refuse_non_finite(name, (bits & exponent) == exponent)
        return RawTensor(fmt, bits)

    def tensor(self, name: str) -> Array:
        """One tensor, or a view of one, as float32, read now; same errors as ``raw`` and ``shape``."""
        self.shape(name)
        values: Array = apply_view(name, self.raw(stored_name(name)).to_float32())
        return values

    def rows(self, name: str, rows: slice) -> Array:
        """Some rows of a tensor as a matrix, all axes but the last one taken together; same errors as ``raw``."""
        tensor = self.tensor(name)
        return tensor.reshape(-1, tensor.shape[-1])[rows] if tensor.ndim > 2 else tensor[rows]

    def stored_formats(self) -> Mapping[str, Format] | None:
        """The format that comes nearest to what each tensor is stored in, for files that are quantized already."""
        return None

    def fields(
        self, name: str, fmt: Format, rows: slice = slice(None)
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float16]] | None:
        """Fields and scales of some rows as ``quant.formats.pack`` takes them, where ``fmt`` holds what is stored bit
        for bit; else None."""
        return None

    def rounded_again(self, formats: Mapping[str, Format]) -> Mapping[str, int]:
        """Types of quantized tensors that ``formats`` (by name) do not hold bit for bit, and how many of each."""
        return {}

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors have the same type, shape and bytes; reads them piece by piece."""
        one, other = self._entry(a), self._entry(b)
        return (one.dtype, one.shape) == (other.dtype, other.shape) and all(
            _read(one, at, min(_PIECE, one.size - at)) == _read(other, at, min(_PIECE, one.size - at))
            for at in range(0, one.size, _PIECE)
        )

    def sha256(self) -> dict[str, str]:
        """SHA-256 (hexadecimal) of each source file by its name in the folder, in order of name; reads them all."""
        files = {self.folder / name for name in _SOURCES} | {entry.file for entry in self.entries.values()}
        hashes = {}
        for path in sorted(path for path in files if path.is_file()):
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return hashes

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise UnsupportedModel(f"tensor {name} is missing", expected=f"it in {self.folder}", found="no such tensor")
        return self.entries[name]


def open_checkpoint(folder: Path, weights: bool = True) -> Checkpoint:
    """Read configuration and headers of a Hugging Face folder; the lengths of all weight files are checked here.

    Without ``weights`` the configuration alone is read.
    Raises UnsupportedModel, in one line, for a missing folder, a missing or broken config.json, missing weights, a
    missing, truncated or corrupt shard, and an index that does not agree with its shards.
    """
    if not folder.exists():
        raise UnsupportedModel(f"no folder {folder}", hint="Give the folder of a Hugging Face model.")
    if not folder.is_dir():
        raise UnsupportedModel(f"{folder} is not a folder", hint="Give the folder of a Hugging Face model.")
    if not (folder / "config.json").is_file():
        raise UnsupportedModel(f"no config.json in {folder}", hint="Give the folder of a Hugging Face model.")
    generation = folder / "generation_config.json"
    try:
        return Checkpoint(
            folder=folder,
            config=read_json(folder / "config.json"),
            generation=read_json(generation) if generation.is_file() else {},
            entries=_read_entries(folder) if weights else {},
        )
    except OSError as error:
        raise _unreadable(folder, error) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UnsupportedModel."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"{path} is not JSON", found=str(error)) from None
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{path}", expected="a JSON object", found=type(content).__name__)
    return content


def _read_entries(folder: Path) -> dict[str, Entry]:
    if (folder / _INDEX).is_file():
        return _read_shards(folder)
    if (folder / _SINGLE).is_file():
        return _read_header(folder / _SINGLE)
    other = next((path.name for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in folder.glob(pattern)), "")
    raise UnsupportedModel(
        f"no weights in {folder}",
        expected=f"{_SINGLE} or {_INDEX}",
        found=other or "neither",
        hint="Save the model with save_pretrained, which writes safetensors." if other else "",
    )


def _read_shards(folder: Path) -> dict[str, Entry]:
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnsupportedModel(f"{folder / _INDEX}", expected="a weight_map with tensors", found="none")
    headers: dict[str, dict[str, Entry]] = {}
    entries = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise UnsupportedModel(f"{_INDEX}: shard of {name}", expected="the name of a file", found=json.dumps(shard))
        if shard not in headers:
            if not (folder / shard).is_file():
                raise UnsupportedModel(
                    f"shard {shard} is missing", expected=f"it in {folder}", hint="Fetch the missing file."
                )
            headers[shard] = _read_header(folder / shard)
        if name not in headers[shard]:
            raise UnsupportedModel(f"{_INDEX}: tensor {name}", expected=f"it in {shard}", found="no such tensor there")
        entries[name] = headers[shard][name]
    return entries


def _read(entry: Entry, start: int, size: int) -> bytes:
    """``size`` bytes of a tensor's data from ``start``; the file may have changed since its header was read."""
    try:
        with entry.file.open("rb") as file:
            file.seek(entry.offset + start)
            content = file.read(size)
    except OSError as error:
        raise _unreadable(entry.file, error) from None
    if len(content) != size:
        raise _cut(entry.file, entry.offset + start + size, entry.offset + start + len(content))
    return content


def _unreadable(path: Path, error: OSError) -> UnsupportedModel:
    return UnsupportedModel(f"cannot read {error.filename or path}: {error.strerror}")


def _cut(path: Path, expected: int, found: int) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path} is cut short", expected=f"{expected} bytes", found=str(found), hint="Fetch the file again."
    )


def _corrupt(path: Path, what: str, expected: str, found: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path} is not a sound safetensors file: {what}",
        expected=expected,
        found=found[:80],
        hint="Fetch the file again.",
    )


def _read_header(path: Path) -> dict[str, Entry]:
    """The tensors of one safetensors file; their bytes must fill the file exactly, without gap or overlap."""
    file_size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8:
            raise _cut(path, 8, len(prefix))
        if length > _MAX_HEADER:
            raise _corrupt(path, "header length", f"at most {_MAX_HEADER} bytes", str(length))
        if 8 + length > file_size:
            raise _cut(path, 8 + length, file_size)
        content = file.read(length)
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "header", "JSON", str(error)) from None
    if not isinstance(header, dict):
        raise _corrupt(path, "header", "a JSON object", type(header).__name__)
    header.pop("__metadata__", None)
    entries = {name: _read_entry(path, name, record, 8 + length) for name, record in header.items()}
    end = 8 + length
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != end:
            raise _corrupt(path, f"offset of tensor {name}", str(end), str(entry.offset))
        end += entry.size
    if end > file_size:
        raise _cut(path, end, file_size)
    if end < file_size:
        raise _corrupt(path, "length of the file", f"{end} bytes", str(file_size))
    return entries


def _read_entry(path: Path, name: str, record: object, data_start: int) -> Entry:
    if not isinstance(record, dict):
        raise _corrupt(path, f"header of tensor {name}", "an object", type(record).__name__)
    dtype, shape, span = record.get("dtype"), _naturals(record.get("shape")), _naturals(record.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _corrupt(path, f"dtype of tensor {name}", " or ".join(_FORMATS), json.dumps(dtype))
    if shape is None:
        raise _corrupt(path, f"shape of tensor {name}", "whole numbers", json.dumps(record.get("shape")))
    if span is None or len(span) != 2:
        raise _corrupt(path, f"data_offsets of {name}", "two whole numbers", json.dumps(record.get("data_offsets")))
    size = math.prod(shape) * _ITEM_BYTES[dtype]
    if span[1] - span[0] != size:
        raise _corrupt(path, f"size of tensor {name}", f"{size} bytes", str(span[1] - span[0]))
    return Entry(path, dtype, shape, data_start + span[0], size)


def _naturals(value: object) -> tuple[int, ...] | None:
    whole = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
    return tuple(value) if isinstance(value, list) and whole else None


def refuse_non_finite(name: str, bad: npt.NDArray[np.bool_]) -> None:
    if bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]]
        raise UnsupportedModel(
            f"tensor {name} holds NaN or Inf at {where}",
            expected="finite weights",
            found=f"{int(bad.sum())} of {bad.size} that are not",
        )
