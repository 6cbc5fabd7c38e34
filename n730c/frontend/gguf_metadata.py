"""What a GGUF file says of its architecture, number by number, each checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from n730c.errors import UnsupportedModel
from n730c.frontend.gguf_file import GgufFile

MAX_COUNT = 1 << 24


class Metadata:
    """The numbers of the file's architecture: ``llama.block_count`` is ``block_count`` here.

    Whatever is missing or odd raises UnsupportedModel, which names it.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.prefix = file.metadata["general.architecture"]

    def wrong(self, key: str, expected: str, found: object) -> UnsupportedModel:
        shown = "nothing" if found is None else ascii(found)[:80]
        hint = "Convert the model again, or take its Hugging Face folder."
        return UnsupportedModel(f"{self.file.path}: {self.prefix}.{key}", expected=expected, found=shown, hint=hint)

    def get(self, key: str) -> Any:
        return self.file.metadata.get(f"{self.prefix}.{key}")

    def count(self, key: str, limit: int = MAX_COUNT, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= limit:
            raise self.wrong(key, f"a whole number, 1 ... {limit}", value)
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.wrong(key, "a number above 0", value)
        return float(value)

    def vector(self, name: str, length: int) -> Sequence[float]:
        """A tensor of as many FP32 numbers."""
        tensor = self.file.tensors[name]
        if tensor.type is not GGMLQuantizationType.F32 or tensor.shape != (length,):
            raise self.wrong(name, f"F32[{length}]", f"{tensor.type.name}{list(tensor.shape)}")
        values = self.file.read(name).reshape(-1).view("<f4").astype(np.float64)
        if not np.isfinite(values).all():
            raise self.wrong(name, "numbers", values[:4].tolist())
        found: list[float] = values.tolist()
        return found
