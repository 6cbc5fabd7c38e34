"""Rounding with what calibration found: one matrix to many formats, its factorization shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import torch

from n730c.dtypes import GROUP, Format
from n730c.quant.formats import scale_values, values
from n730c.quant.gptq import SWEEPS, Factored, Rounded, damage, expected_damage, factor, round_factored, single_threads
from n730c.quant.grids import encode_rounded, grid
from n730c.quant.rounding import encode, quantize

Array = npt.NDArray[np.float32]

SPREAD = 0.25  # of the mean of H's diagonal: the weight of a tied embedding's own error beside the head's
NOISE_LEVELS = 8  # of the even grid whose rounding stands for a format's where only a layer's answer to it is wanted
SAMPLED_ROWS = 128  # of a matrix, spread evenly: on these errors are estimated
ROUNDED_ROWS = 32  # of these, on which an estimate is compared with what the rounder really does


class Rounder:
    """Rounds matrices that read the values whose second moments it was given (f32[features, features], by name)."""

    def __init__(self, moments: Mapping[str, Array]) -> None:
        self._moments = moments
        self._factored: dict[tuple[str | None, int, bool], Factored] = {}

    def _knows(self, value: str | None) -> TypeGuard[str]:
        """Whether anything is known of the inputs; where not, each group is rounded by itself."""
        return value is not None and value in self._moments

    def _hessian(self, value: str | None, cols: int, tied: bool = False) -> torch.Tensor:
        if not self._knows(value):
            return torch.eye(cols)
        hessian = torch.from_numpy(self._moments[value])
        if tied:
            hessian = hessian.clone()
            hessian.diagonal().add_(SPREAD * float(hessian.diagonal().mean()))
        return hessian

    def _factor(self, value: str | None, cols: int, tied: bool = False) -> Factored:
        key = (value, cols, tied)
        if key not in self._factored:
            self._factored.clear()  # one at a time: a factorization is twice as large as the moments
            self._factored[key] = factor(self._hessian(value, cols, tied), GROUP)
        return self._factored[key]

    def round(self, weight: Array, value: str | None, fmt: Format, tied: bool = False) -> Rounded:
        """``weight`` f32[rows, cols] rounded to an integer format for the inputs ``value``; None: any inputs."""
        factored = self._factor(value, weight.shape[1], tied)
        sweeps = SWEEPS if self._knows(value) else 0  # under the identity there is nothing to compensate
        return round_factored(_tensor(weight), grid(fmt), factored, sweeps)

    def encode(self, weight: Array, value: str | None, fmt: Format, tied: bool = False) -> bytes:
        """The same as the bytes of the file."""
        if not self._knows(value):
            return encode(weight, fmt)
        return encode_rounded(fmt, self.round(weight, value, fmt, tied))

    def trials(
        self, weight: Array, value: str | None, formats: Sequence[Format]
    ) -> Iterator[tuple[Format, Array, float]]:
        """Of each format: the rounded matrix and the mean squared error of its output, summed over the rows."""
        if not self._knows(value):
            for fmt in sorted(formats):
                rounded = _nearest(weight, fmt)
                yield fmt, rounded, float(np.square(weight - rounded, dtype=np.float64).sum())
            return
        hessian = self._hessian(value, weight.shape[1])
        factored = self._factor(value, weight.shape[1])

        def trial(fmt: Format) -> tuple[Format, Array, float]:
            rounded = round_factored(_tensor(weight), grid(fmt), factored, sweeps=1).weight
            return fmt, rounded.numpy(), damage(_tensor(weight), rounded, hessian)

        with single_threads() as pool:
            yield from pool.map(trial, sorted(formats))

    def estimates(
        self,
        weights: Sequence[Array],
        value: str | None,
        formats: Sequence[Format],
        anchor: Format,
        inputs: Array | None,
    ) -> Iterator[tuple[Array, float, dict[Format, float]]]:
        """Of each matrix that reads ``value``: (itself with noise like that of rounding, the noise's error, each
        format's error), from a few rows.

        Each format's is estimated group by group without compensation, and scaled by what the rounder makes of the
        ``anchor``. Errors as of ``trials``, but on ``inputs`` f32[tokens, cols] that the rounder did not learn from, if
        anything is known of its inputs: on those that it learned from they are smaller, and the noise's are not.
        """
        if not self._knows(value) or inputs is None:
            for weight in weights:
                yield _alone(weight, formats)
            return
        factored = self._factor(value, weights[0].shape[1])
        samples = [_sample(len(weight)) for weight in weights]
        some = torch.cat([_tensor(weight[rows]) for weight, rows in zip(weights, samples, strict=True)])
        ends = np.cumsum([len(rows) for rows in samples])
        spans = [slice(end - len(rows), end) for rows, end in zip(samples, ends, strict=True)]
        few = torch.cat([torch.arange(s.start, s.stop)[:: max(1, (s.stop - s.start) // ROUNDED_ROWS)] for s in spans])
        seen = _tensor(inputs)
        # rows are rounded independently: those of all matrices at once
        rounded = _mean_squares(some[few] - round_factored(some[few], grid(anchor), factored, sweeps=1).weight, seen)
        wanted = sorted({*formats, anchor})
        with single_threads() as pool:
            found = pool.map(lambda fmt: expected_damage(some, grid(fmt), factored), wanted)
            expected = dict(zip(wanted, found, strict=True))
            noisy = pool.map(coarse, weights)
            for span, rows, weight, made in zip(spans, samples, weights, noisy, strict=True):
                own = (few >= span.start) & (few < span.stop)
                real = float(rounded[own].sum()) / max(float(expected[anchor][few[own]].sum()), 1e-30)
                scale = len(weight) / len(rows)
                noise = scale * float(_mean_squares(some[span] - _tensor(made[rows]), seen).sum())
                yield made, noise, {fmt: scale * real * float(expected[fmt][span].sum()) for fmt in sorted(formats)}


def _alone(weight: Array, formats: Sequence[Format]) -> tuple[Array, float, dict[Format, float]]:
    """What ``Rounder.estimates`` says of a matrix of whose inputs nothing is known."""
    part = weight[_sample(len(weight))]
    scale = len(weight) / len(part)
    errors = {fmt: scale * float(np.square(part - _nearest(part, fmt)).sum()) for fmt in sorted(formats)}
    noisy = coarse(weight)
    return noisy, float(np.square(weight - noisy, dtype=np.float64).sum()), errors


def _mean_squares(difference: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Of what each row of a difference of weights makes of inputs f32[tokens, cols]: f32[rows]."""
    return (inputs @ difference.T).square().mean(0)


def _sample(rows: int) -> npt.NDArray[np.int64]:
    count = min(SAMPLED_ROWS, rows)
    return np.arange(count) * rows // count


def _nearest(weight: Array, fmt: Format) -> Array:
    """``weight`` in a format, each group rounded by itself, as the plain encoder does."""
    fields, scales = quantize(weight, fmt)
    wide = np.repeat(scale_values(scales), GROUP, axis=1)[:, : weight.shape[1]]
    return values(fmt, fields).astype(np.float32) * wide


def _tensor(weight: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(weight))


def coarse(weight: Array) -> Array:
    """Rounded to the nearest of a few even levels between the ends of each group."""
    rows, cols = weight.shape
    made = np.empty_like(weight)
    step = max(1, (1 << 20) // cols)
    for at in range(0, rows, step):
        part = np.pad(weight[at : at + step], ((0, 0), (0, -cols % GROUP)))
        groups = part.reshape(len(part), -1, GROUP)
        unit = np.maximum(groups.max(2, keepdims=True), -groups.min(2, keepdims=True)) * np.float32(2 / NOISE_LEVELS)
        unit = np.maximum(unit, np.float32(1e-30))
        level = np.clip(np.floor(groups / unit), -NOISE_LEVELS // 2, NOISE_LEVELS // 2 - 1) + np.float32(0.5)
        made[at : at + step] = (level * unit).reshape(len(part), -1)[:, :cols]
    return made
