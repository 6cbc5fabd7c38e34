"""What each integer format can hold, as the rounder wants to know it; and from rounded matrices to bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n730c.dtypes import GROUP, Format
from n730c.quant.formats import pack, values
from n730c.quant.gptq import Grid, Parts, Rounded

_HALF_MAX = 65504.0


@dataclass(frozen=True)
class HalfScales:
    """An FP16 a group."""

    signed: bool = True

    def round(self, wanted: Tensor) -> Parts:
        return (wanted.clamp(-_HALF_MAX, _HALF_MAX).half(),)

    def replace(self, parts: Parts, group: int, wanted: Tensor) -> Parts:
        parts[0][:, group] = self.round(wanted)[0]
        return parts

    def values(self, parts: Parts) -> Tensor:
        return parts[0].float()


def _fields(fmt: Format) -> np.ndarray:
    """Every field of a format, ascending by its value."""
    if fmt is Format.INT8:
        return np.arange(-127, 128, dtype=np.int8)
    return np.arange(1 << fmt.bits, dtype=np.uint8)


def grid(fmt: Format) -> Grid:
    """The levels and scales of an integer format. Raises ValueError for another."""
    if not fmt.is_integer:
        raise ValueError(f"{fmt.name} is not rounded to levels")
    levels = values(fmt, _fields(fmt)).astype(np.float32)
    return Grid(torch.from_numpy(levels), GROUP, HalfScales())


def encode_rounded(fmt: Format, rounded: Rounded) -> bytes:
    """The bytes of a rounded matrix as the file holds it."""
    return pack(fmt, _fields(fmt)[rounded.fields.numpy()], rounded.scales[0].numpy())
