"""Rounding with what calibration found: one matrix to many formats, its factorization shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from n730c.dtypes import Format
from n730c.quant.gptq import Rounded, damage, factor, round_factored
from n730c.quant.grids import encode_rounded, grid

Array = npt.NDArray[np.float32]

SPREAD = 0.25  # of the mean of H's diagonal: the weight of a tied embedding's own error beside the head's


class Rounder:
    """Rounds matrices that read the values whose second moments it was given (f32[features, features], by name)."""

    def __init__(self, moments: Mapping[str, Array]) -> None:
        self._moments = moments
        self._factored: dict[tuple[str | None, int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def _hessian(self, value: str | None, cols: int, tied: bool) -> torch.Tensor:
        if value is None or value not in self._moments:
            return torch.eye(cols)
        hessian = torch.from_numpy(np.array(self._moments[value]))
        if tied:
            hessian.diagonal().add_(SPREAD * float(hessian.diagonal().mean()))
        return hessian

    def _factor(
        self, value: str | None, cols: int, group: int, tied: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        key = (value, cols, group)
        if key not in self._factored:
            self._factored.clear()  # one at a time: a factorization is as large as the moments
            self._factored[key] = factor(self._hessian(value, cols, tied), group)
        return self._factored[key]

    def round(self, weight: Array, value: str | None, fmt: Format, tied: bool = False) -> Rounded:
        """``weight`` f32[rows, cols] rounded to an integer format for the inputs ``value``; None: any inputs."""
        aim = grid(fmt)
        matrix = torch.from_numpy(np.ascontiguousarray(weight))
        return round_factored(matrix, aim, *self._factor(value, weight.shape[1], aim.group, tied))

    def encode(self, weight: Array, value: str | None, fmt: Format, tied: bool = False) -> bytes:
        """The same as the bytes of the file."""
        return encode_rounded(fmt, self.round(weight, value, fmt, tied))

    def trials(
        self, weight: Array, value: str | None, formats: Sequence[Format], whole: Format | None, rows: int
    ) -> Iterator[tuple[Format, Array | None, float]]:
        """Of each format: the rounded matrix and the mean squared error of its output, summed over the rows.

        With ``whole`` only that format is rounded as a whole; of the others ``rows`` rows, spread evenly, stand for all
        (and there is no matrix).
        """
        hessian = self._hessian(value, weight.shape[1], False)
        matrix = torch.from_numpy(np.ascontiguousarray(weight))
        some = np.arange(rows) * len(weight) // rows if len(weight) > rows else np.arange(len(weight))
        sample = matrix[torch.from_numpy(some)]
        for fmt in sorted(formats):
            aim = grid(fmt)
            factored = self._factor(value, weight.shape[1], aim.group, False)
            if whole in (None, fmt):
                rounded = round_factored(matrix, aim, *factored, sweeps=1).weight
                yield fmt, rounded.numpy(), damage(matrix, rounded, hessian)
            else:
                rounded = round_factored(sample, aim, *factored, sweeps=1).weight
                yield fmt, None, damage(sample, rounded, hessian) * len(weight) / len(some)
