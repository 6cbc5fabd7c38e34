"""What each integer format can hold, as the rounder wants to know it; and from rounded matrices to bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from n730c.dtypes import GROUP, SUPER_GROUPS, Format
from n730c.quant.formats import CODE_UNIT, CODES, CodedScales, pack, round_scales, scale_values, values
from n730c.quant.gptq import Grid, Parts, Rounded

_HALF_MAX = 65504.0


@dataclass(frozen=True)
class HalfScales:
    """An FP16 a group."""

    signed: bool = True
    shared: bool = False

    def round(self, wanted: Tensor) -> Parts:
        return (wanted.clamp(-_HALF_MAX, _HALF_MAX).half(),)

    def replace(self, parts: Parts, group: int, wanted: Tensor) -> Parts:
        parts[0][:, group] = self.round(wanted)[0]
        return parts

    def select(self, keep: Tensor, old: Parts, new: Parts, group: int) -> Parts:
        new[0][keep, group] = old[0][keep, group]
        return new

    def column(self, parts: Parts, group: int) -> Tensor:
        return parts[0][:, group].float()

    def values(self, parts: Parts) -> Tensor:
        return parts[0].float()


@dataclass(frozen=True)
class CodedGroups:
    """A 4-bit code a group, times an FP16 that eight groups share (n730c/quant/formats.py)."""

    fmt: Format
    signed: bool = False
    shared: bool = True

    def round(self, wanted: Tensor) -> Parts:
        scales = round_scales(self.fmt, wanted.numpy())
        assert isinstance(scales, CodedScales)
        return torch.from_numpy(scales.supers), torch.from_numpy(scales.codes)

    def replace(self, parts: Parts, group: int, wanted: Tensor) -> Parts:
        supers, codes = parts
        step = supers[:, group // SUPER_GROUPS].float() * CODE_UNIT
        code = (wanted / step.clamp_min(1e-30)).round().clamp(1, CODES - 1)
        codes[:, group] = torch.where(step > 0, code, torch.zeros_like(code)).to(torch.uint8)
        return parts

    def select(self, keep: Tensor, old: Parts, new: Parts, group: int) -> Parts:
        new[1][keep, group] = old[1][keep, group]
        return new

    def column(self, parts: Parts, group: int) -> Tensor:
        supers, codes = parts
        return supers[:, group // SUPER_GROUPS].float() * CODE_UNIT * codes[:, group].float()

    def values(self, parts: Parts) -> Tensor:
        return torch.from_numpy(scale_values(self.stored(parts)))

    @staticmethod
    def stored(parts: Parts) -> CodedScales:
        """As ``pack`` takes them."""
        return CodedScales(parts[0].numpy(), parts[1].numpy())


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
    return Grid(torch.from_numpy(levels), GROUP, CodedGroups(fmt) if fmt.has_coded_scales else HalfScales())


def encode_rounded(fmt: Format, rounded: Rounded) -> bytes:
    """The bytes of a rounded matrix as the file holds it."""
    scales = CodedGroups.stored(rounded.scales) if fmt.has_coded_scales else rounded.scales[0].numpy()
    return pack(fmt, _fields(fmt)[rounded.fields.numpy()], scales)
