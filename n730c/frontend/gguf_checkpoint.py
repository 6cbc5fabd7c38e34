"""A GGUF file as a checkpoint: the same questions as of a Hugging Face folder, and tensors as they are stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import quants

from n730c.dtypes import Format
from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import Array, Checkpoint, Entry, RawTensor, refuse_non_finite
from n730c.frontend.gguf_config import architecture, model_name, read_settings
from n730c.frontend.gguf_file import GgufFile, open_gguf
from n730c.frontend.gguf_tokenizer import end_ids
from n730c.ir.views import apply_view, only_rows, stored_name

_EXACT = {Type.F16: Format.F16, Type.BF16: Format.BF16, Type.Q8_0: Format.INT8, Type.Q4_0: Format.INT4}
# What comes nearest in bits to a type that no format holds; such tensors are rounded again.
_NEAREST = {
    **{Type.F32: Format.F16, Type.Q4_1: Format.INT4, Type.Q4_K: Format.INT4, Type.Q5_0: Format.INT8},
    **{Type.Q5_1: Format.INT8, Type.Q5_K: Format.INT8, Type.Q6_K: Format.INT8},
}


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """``entries``' keys are the model's own names; ``stored`` gives the file's: several where the model joins them,
    expert by expert (gate and up). ``plus_one``: names of those that are stored with 1 added."""

    file: GgufFile
    stored: dict[str, tuple[str, ...]]
    paired_heads: dict[str, int]  # heads of the tensors whose rows are stored in pairs, by the model's names
    plus_one: frozenset[str]

    @property
    def name(self) -> str:
        return self.file.path.stem or "model"

    def format(self, name: str) -> Format:
        """The format that holds the tensor as it is stored, or comes nearest. Raises UnsupportedModel."""
        kind = self._type(name)
        if kind in _EXACT:
            return _EXACT[kind]
        if kind in _NEAREST:
            return Format.F32 if kind is Type.F32 and len(self.shape(name)) == 1 else _NEAREST[kind]
        raise UnsupportedModel(
            f"tensor {self.stored[stored_name(name)][0]}: type",
            expected=" or ".join(kind.name for kind in (*_EXACT, *_NEAREST)),
            found=kind.name,
            hint="Take a file with another type.",
        )

    def stored_formats(self) -> Mapping[str, Format]:
        return {name: self.format(name) for name in self.entries}

    def rounded_again(self, formats: Mapping[str, Format]) -> Mapping[str, int]:
        again: Counter[str] = Counter()
        for name, fmt in formats.items():
            kind = self._type(name) if stored_name(name) in self.stored else Type.F32
            if kind not in (Type.F32, Type.F16, Type.BF16) and _EXACT.get(kind) is not fmt:
                again[kind.name] += 1
        return dict(sorted(again.items()))

    def raw(self, name: str) -> RawTensor:
        return RawTensor(Format.F32, self.tensor(name))

    def tensor(self, name: str) -> Array:
        """Dequantized by the ``gguf`` package's arithmetic, rows in the model's order. Raises UnsupportedModel."""
        self.shape(name)  # raises where the view does not fit
        stored = stored_name(name)
        shape = self.shape(stored)
        parts = [self._decode(stored, self.file.read(part)) for part in self.stored[stored]]
        if len(shape) > 2:
            return np.concatenate([part.reshape(shape[0], -1, shape[-1]) for part in parts], axis=1)
        values = parts[0].reshape(shape)[self._order(stored)]
        found: Array = apply_view(name, values - np.float32(1) if stored in self.plus_one else values)
        return found

    def rows(self, name: str, rows: slice) -> Array:
        return self._decode(name, self._rows(name, rows)) if only_rows(name) else self.tensor(name)[rows]

    def fields(
        self, name: str, fmt: Format, rows: slice = slice(None)
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float16]] | None:
        kind = self._type(name)
        if _EXACT.get(kind) is not fmt or not fmt.is_integer or not only_rows(name):
            return None
        content = self._rows(name, rows)
        blocks = content.reshape(len(content), -1, 34 if kind is Type.Q8_0 else 18)
        scales = np.ascontiguousarray(blocks[:, :, :2]).view("<f2")[:, :, 0].astype(np.float16)
        refuse_non_finite(name, ~np.isfinite(scales))
        packed = blocks[:, :, 2:]
        if kind is Type.Q8_0:
            fields = packed.reshape(len(content), -1).view(np.int8)
            if fields.min(initial=0) == -128:  # never written by a converter; INT8 ends at -127
                return None
        else:  # 32 values a block: the low nibbles are the first half
            fields = np.concatenate((packed & 15, packed >> 4), axis=2).reshape(len(content), -1)
        return fields, scales

    def equal(self, a: str, b: str) -> bool:
        same = (self._type(a), self.shape(a)) == (self._type(b), self.shape(b))
        return same and bool(np.array_equal(self._rows(a, slice(None)), self._rows(b, slice(None))))

    def _type(self, name: str) -> Type:
        self.shape(name)  # raises if there is no such tensor
        parts = self.stored[stored_name(name)]
        kinds = {self.file.tensors[part].type for part in parts}
        if len(kinds) > 1:
            raise UnsupportedModel(
                f"tensors {' and '.join(parts)}",
                expected="one type for both",
                found=" and ".join(sorted(kind.name for kind in kinds)),
                hint="Convert the model again.",
            )
        return kinds.pop()

    def _decode(self, name: str, content: npt.NDArray[np.uint8]) -> Array:
        """u8[rows, bytes a row] → f32[rows, cols]"""
        self.format(name)
        with np.errstate(all="ignore"):  # what comes of a damaged file is looked at next
            values = np.ascontiguousarray(quants.dequantize(content, self._type(name)), dtype=np.float32)
        refuse_non_finite(name, ~np.isfinite(values))
        return values

    def _rows(self, name: str, rows: slice) -> npt.NDArray[np.uint8]:
        """The bytes of some rows in the model's order, u8[rows, bytes a row]; of experts rows of one matrix only."""
        if name != stored_name(name):
            whole: npt.NDArray[np.uint8] = apply_view(name, self._rows(stored_name(name), slice(None)))
            return whole[rows]
        shape, parts = self.shape(name), self.stored[name]
        first, last, _ = rows.indices(math.prod(shape[:-1]))
        if name in self.paired_heads:
            ordered: npt.NDArray[np.uint8] = self.file.read(parts[0])[self._order(name)]
            return ordered[rows]
        if len(shape) < 3:
            return self.file.read(parts[0], first, last - first)
        each = shape[1] // len(parts)
        expert, inside = divmod(first, shape[1])
        part, row = divmod(inside, each)
        assert row + last - first <= each, "rows of one expert's matrix"
        return self.file.read(parts[part], expert * each + row, last - first)

    def _order(self, name: str) -> Any:
        """Indices that bring stored rows into the model's order."""
        if name not in self.paired_heads:
            return slice(None)
        rows = self.shape(name)[0]
        return np.arange(rows).reshape(self.paired_heads[name], -1, 2).swapaxes(1, 2).reshape(-1)


def open_gguf_checkpoint(path: Path) -> GgufCheckpoint:
    """Read the head of a GGUF file. Raises UnsupportedModel, in one line, for anything damaged or not understood."""
    file = open_gguf(path)
    kind, settings = architecture(file), read_settings(file)
    entries: dict[str, Entry] = {}
    stored: dict[str, tuple[str, ...]] = {}
    heads: dict[str, int] = {}
    plus_one = set()
    for name, tensor in file.tensors.items():
        if name.startswith("rope_"):
            continue  # they are in the configuration
        own = model_name(name, kind)
        if own is None:
            raise UnsupportedModel(
                f"tensor {name!a} of {path} has no place in a {kind.model_type} model",
                expected="the tensors that llama.cpp's converter writes",
                hint="Take the model's Hugging Face folder instead.",
            )
        entry = Entry(path, tensor.type.name, tensor.shape, tensor.offset, tensor.size)
        if own.endswith(".shared_expert_gate.weight") and len(tensor.shape) == 1:
            entry = replace(entry, shape=(1, *tensor.shape))
        if ".experts." not in own:
            entries[own], stored[own] = entry, (name,)
        elif len(tensor.shape) == 3:
            gate, up = f"{name.rpartition('.ffn_')[0]}.ffn_gate_exps.weight", name.replace("_gate_", "_up_")
            joined = (gate, up) if own.endswith("gate_up_proj") else (name,)
            if any(file.tensors[n].shape != tensor.shape for n in joined if n in file.tensors) or not (
                file.tensors.keys() >= {*joined}
            ):
                raise UnsupportedModel(f"tensor {name} of {path}", expected="its like in the same shape", found="none")
            experts, rows, cols = tensor.shape
            entries[own], stored[own] = replace(entry, shape=(experts, len(joined) * rows, cols)), joined
        if kind.norms_plus_one and own.endswith("norm.weight"):
            plus_one.add(own)
        projection = next((p for p in ("q", "k") if f".self_attn.{p}_proj." in own), None)
        if kind.paired_rows and projection is not None:
            heads[own] = settings["num_attention_heads" if projection == "q" else "num_key_value_heads"]
            if tensor.shape[0] % (2 * heads[own]):
                raise UnsupportedModel(
                    f"tensor {name} of {path}: rows",
                    expected=f"a multiple of {2 * heads[own]} (two a head)",
                    found=str(tensor.shape[0]),
                    hint="Fetch the file again.",
                )
    return GgufCheckpoint(
        path, settings, {"eos_token_id": end_ids(file)}, entries, file, stored, heads, frozenset(plus_one)
    )
