"""Error-compensated rounding: what one column loses is made up by the columns that are still to come.

GPTQ (Frantar et al. 2022) on the Hessian H = Σ x xᵀ of a linear layer's inputs, with what was found to help here:

- groups are taken in order of their weight in H, most important first, and columns likewise within a group;
- the scale of a group is searched when its turn comes, on the weights as they then are, with the error that GPTQ itself
  minimizes (1 / U² of each column) as the measure;
- afterwards, in turn: all scales of a row at once by least squares under the full H, then every field again, one column
  after the other, at the best level given all others (coordinate descent). Neither step ever raises the error.

Everything is vectorized over the rows; the loop is over columns, whose trailing updates are one matrix product a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

DAMPING = 0.01  # of the mean of H's diagonal, added to it
SWEEPS = 2  # of coordinate descent
_FACTORS = tuple(1.14 - 0.045 * i for i in range(13))  # of largest magnitude / largest level
_FINE = 64  # levels from which on the scale hardly matters: few factors are tried
_TINY = 1e-10
_NORMAL = 1 << 23  # elements of the normal equations that are held at a time


Parts = tuple[Tensor, ...]  # scales as the file holds them, each tensor with a row per row of the matrix


class ScaleCoding(Protocol):
    """How a format holds the scales of a matrix."""

    @property
    def signed(self) -> bool:
        """Whether a scale may be negative."""
        ...

    def round(self, wanted: Tensor) -> Parts:
        """The nearest that the file can hold to f32[rows, groups]."""
        ...

    @property
    def shared(self) -> bool:
        """Whether groups share a part of their scales, which then has to be settled before the first column."""
        ...

    def replace(self, parts: Parts, group: int, wanted: Tensor) -> Parts:
        """The same with one group's scales, f32[rows], rounded anew; what groups share stays."""
        ...

    def values(self, parts: Parts) -> Tensor:
        """The scales f32[rows, groups] that the parts stand for."""
        ...


@dataclass(frozen=True)
class Grid:
    """What a format can hold: level × scale, one scale a row and group of columns. ``levels``: ascending, f32[n]."""

    levels: Tensor
    group: int
    coding: ScaleCoding

    @cached_property
    def step(self) -> float:
        """The distance of the levels if they are evenly spaced, else 0."""
        steps = self.levels.diff()
        return float(steps[0]) if bool((steps == steps[0]).all()) else 0.0

    @cached_property
    def _halves(self) -> Tensor:
        """Of every half unit between the ends of uneven levels (which are integers): the index of the nearest level."""
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        first, last = float(self.levels[0]), float(self.levels[-1])
        return torch.bucketize(torch.arange(first + 0.25, last, 0.5), middles)

    def nearest(self, x: Tensor) -> Tensor:
        """Indices of the levels nearest to x."""
        first = float(self.levels[0])
        if self.step:
            return ((x - first) * (1 / self.step)).round_().clamp_(0, len(self.levels) - 1).long()
        halves = self._halves
        return halves[((x - first) * 2).clamp_(0, len(halves) - 1).long()]

    def round(self, x: Tensor) -> Tensor:
        """The levels nearest to x."""
        if self.step:
            first = float(self.levels[0])
            index = ((x - first) * (1 / self.step)).round_().clamp_(0, len(self.levels) - 1)
            return index.mul_(self.step).add_(first)
        return self.levels[self.nearest(x)]

    @property
    def signs(self) -> tuple[float, ...]:
        """Of the scales that are tried: the extreme weight may sit at either end of lopsided levels."""
        lopsided = float(self.levels[0]) != -float(self.levels[-1])
        return (1.0, -1.0) if lopsided and self.coding.signed else (1.0,)


@dataclass(frozen=True)
class Rounded:
    """A rounded matrix: ``fields`` u8[rows, cols], indices of levels; the scales; their product f32[rows, cols]."""

    fields: Tensor
    scales: Parts
    weight: Tensor


def _safe(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.full_like(scale, _TINY), scale)


def search_scales(grid: Grid, w: Tensor, importance: Tensor, every: int = 1) -> Tensor:
    """The scale of each row's group: least Σ importance · (w - scale · level)². ``w``: [rows, n], importance [n].

    From the largest magnitude over the range's end on downwards, each followed by the least-squares scale of the
    levels it chose; for lopsided levels with both signs. ``every``: only each such factor is tried.
    """
    extreme = w.gather(1, w.abs().argmax(1, keepdim=True))[:, 0]
    if len(grid.signs) == 1:
        extreme = extreme.abs()
    top = float(grid.levels.abs().max())
    best = torch.full_like(extreme, torch.inf)
    chosen = torch.zeros_like(extreme)
    weighted = importance * w
    for sign in grid.signs:
        for factor in _FACTORS[1::every] if len(grid.levels) < _FINE else _FACTORS[2:5]:
            scale = _safe(extreme * (sign * factor / top))
            level = grid.round(w / scale[:, None])
            product = (weighted * level).sum(1)
            square = (importance * level * level).sum(1)
            # Σ h (w - s l)² without Σ h w², at the best s: -(Σ h w l)² / Σ h l²
            error = -product * product / square.clamp_min(1e-30)
            better = error < best
            best = torch.where(better, error, best)
            chosen = torch.where(better, product / square.clamp_min(1e-30), chosen)
    return chosen


def _order(diagonal: Tensor, group: int) -> Tensor:
    """Columns, group after group, both by falling importance; a ragged last group stays last in its place."""
    count = -(-len(diagonal) // group)
    spans = [torch.arange(i * group, min((i + 1) * group, len(diagonal))) for i in range(count)]
    ranks = sorted(range(count), key=lambda i: (-float(diagonal[spans[i]].sum()), i))
    return torch.cat([spans[i][torch.argsort(diagonal[spans[i]], descending=True, stable=True)] for i in ranks])


def factor(hessian: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """(damped H, order of columns, upper Cholesky factor of H⁻¹ in that order), shared by all matrices that read x.

    Columns that never saw an input count as the average one: another text may bring it.
    """
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal <= 0] = float(diagonal.mean()) or 1.0
    diagonal += DAMPING * float(diagonal.mean())
    order = _order(diagonal, group)
    permuted = damped[order][:, order]
    lower = torch.linalg.cholesky(permuted.double())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()
    return damped, order, upper


def _compensated(weight: Tensor, grid: Grid, order: Tensor, upper: Tensor) -> tuple[Tensor, Parts]:
    """GPTQ's own pass: (indices of levels [rows, cols], scales)."""
    rows, cols = weight.shape
    place = torch.empty_like(order)
    place[order] = torch.arange(cols)
    w = weight[:, order].contiguous()
    importance = 1 / upper.diagonal() ** 2
    first = torch.zeros(rows, -(-cols // grid.group))
    if grid.coding.shared:
        for i, at in enumerate(range(0, cols, grid.group)):
            span = slice(at, at + grid.group)
            first[:, i] = search_scales(grid, weight[:, span], importance[place[span]], every=3)
    parts = grid.coding.round(first)
    index = torch.zeros(rows, cols, dtype=torch.long)
    at = 0
    while at < cols:
        which = int(order[at]) // grid.group
        width = min(grid.group, cols - which * grid.group)
        end = at + width
        block = upper[at:end, at:end]
        part = w[:, at:end]
        parts = grid.coding.replace(parts, which, search_scales(grid, part, importance[at:end]))
        scale = _safe(grid.coding.values(parts)[:, which])
        errors = torch.empty_like(part)
        for j in range(width):
            level = grid.nearest(part[:, j] / scale)
            index[:, at + j] = level
            error = (part[:, j] - scale * grid.levels[level]) / block[j, j]
            errors[:, j] = error
            if j + 1 < width:
                part[:, j + 1 :] -= error[:, None] * block[j, j + 1 :]
        if end < cols:
            w[:, end:] -= errors @ upper[at:end, end:]
        at = end
    back = torch.empty_like(index)
    back[:, order] = index
    return back, parts


def _row_errors(difference: Tensor, hessian: Tensor) -> Tensor:
    return ((difference @ hessian) * difference).sum(1)


def _spread(scales: Tensor, grid: Grid, cols: int) -> Tensor:
    return scales.repeat_interleave(grid.group, dim=1)[:, :cols]


def _refit(weight: Tensor, index: Tensor, parts: Parts, grid: Grid, hessian: Tensor) -> Parts:
    """All scales of each row by least squares under H, kept where they lower the error once rounded for the file."""
    rows, cols = weight.shape
    scales = grid.coding.values(parts)
    step = max(1, _NORMAL // scales.shape[1] ** 2)
    wanted = torch.cat(
        [
            _best_scales(weight[at : at + step], grid.levels[index[at : at + step]], grid.group, hessian)
            for at in range(0, rows, step)
        ]
    )
    found = grid.coding.round(wanted if grid.coding.signed else torch.where(wanted > 0, wanted, scales))
    level = grid.levels[index]
    before = _row_errors(weight - _spread(scales, grid, cols) * level, hessian)
    after = _row_errors(weight - _spread(grid.coding.values(found), grid, cols) * level, hessian)
    better = (after < before)[:, None]
    return tuple(torch.where(better, new, old) for new, old in zip(found, parts, strict=True))


def _best_scales(weight: Tensor, level: Tensor, group: int, hessian: Tensor) -> Tensor:
    """The scales f32[rows, groups] with the least error under H, given the levels f32[rows, cols]."""
    rows, cols = weight.shape
    groups = -(-cols // group)
    pad = groups * group - cols
    padded = torch.nn.functional.pad(level, (0, pad))
    target = torch.nn.functional.pad((weight @ hessian) * level, (0, pad)).view(rows, groups, -1).sum(2)
    normal = torch.empty(rows, groups, groups)
    wide = torch.nn.functional.pad(hessian, (0, pad))
    for g in range(groups):  # one group's product with H at a time: rows × cols floats
        span = slice(g * group, min((g + 1) * group, cols))
        normal[:, g] = ((level[:, span] @ wide[span]) * padded).view(rows, groups, -1).sum(2)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + 1e-20
    found: Tensor = torch.linalg.solve(normal, target[..., None])[..., 0]
    return found


def _descend(weight: Tensor, index: Tensor, scales: Tensor, grid: Grid, hessian: Tensor, order: Tensor) -> Tensor:
    """One sweep of coordinate descent over the columns; new indices of levels."""
    cols = weight.shape[1]
    index = index.clone()
    quantized = _spread(scales, grid, cols) * grid.levels[index]
    pull = (weight - quantized) @ hessian
    at = 0
    while at < cols:
        which = int(order[at]) // grid.group
        end = at + min(grid.group, cols - which * grid.group)
        columns = order[at:end]
        scale = _safe(scales[:, which])
        block = hessian[columns][:, columns]
        local = pull[:, columns]
        steps = torch.empty_like(local)
        for j, column in enumerate(columns.tolist()):
            wanted = quantized[:, column] + local[:, j] / block[j, j]
            level = grid.nearest(wanted / scale)
            new = scales[:, which] * grid.levels[level]
            step = new - quantized[:, column]
            steps[:, j] = step
            quantized[:, column] = new
            index[:, column] = level
            local -= step[:, None] * block[j]
        pull -= steps @ hessian[columns]
        at = end
    return index


def round_matrix(weight: Tensor, hessian: Tensor, grid: Grid, sweeps: int = SWEEPS) -> Rounded:
    """Round ``weight`` f32[rows, cols] so that Σ |(weight - rounded) x|² is small over the inputs behind ``hessian``.

    ``hessian``: f32[cols, cols], Σ x xᵀ up to a factor. The same for any number of rows at once up to float rounding.
    """
    damped, order, upper = factor(hessian, grid.group)
    return round_factored(weight, grid, damped, order, upper, sweeps)


@torch.no_grad()
def round_factored(
    weight: Tensor, grid: Grid, damped: Tensor, order: Tensor, upper: Tensor, sweeps: int = SWEEPS
) -> Rounded:
    """``round_matrix`` with what ``factor`` gave."""
    index, parts = _compensated(weight, grid, order, upper)
    for _ in range(sweeps):
        parts = _refit(weight, index, parts, grid, damped)
        index = _descend(weight, index, grid.coding.values(parts), grid, damped, order)
    rounded = _spread(grid.coding.values(parts), grid, weight.shape[1]) * grid.levels[index]
    return Rounded(index.to(torch.uint8), parts, rounded)


def damage(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """Σ over rows of (w - q) H (w - q)ᵀ: the squared error of the layer's output, summed over the inputs behind H."""
    return float(_row_errors(weight - rounded, hessian).sum())
