"""Error-compensated rounding: what one column loses is made up by the columns that are still to come.

GPTQ (Frantar et al. 2022) on the Hessian H = Σ x xᵀ of a linear layer's inputs, with what was found to help here:

- groups are taken in order of their weight in H, most important first, and columns likewise within a group;
- the scale of a group is searched when its turn comes, on the weights as they then are, with the error that GPTQ itself
  minimizes (1 / U² of each column) as the measure;
- afterwards sweeps of coordinate descent under the full H: of each group first the scale, then every field at the best
  level given all others. No step ever raises the error.

Matrices are held transposed, [cols, rows]: all rows are worked on at once, and what is done for one column is done on
neighbouring floats. What a group changes in the later ones is one matrix product.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from n730c.errors import N730Error
from n730c.quant.columns import best_scales, compensate, descend, nearest_, weighed

DAMPING = 0.01  # of the mean of H's diagonal, added to it
SWEEPS = 2  # of coordinate descent
# Of largest magnitude / largest level: what is tried. The more levels, the less is won by cutting the largest weight.
_FACTORS = tuple(1.14 - 0.045 * i for i in range(13))
_FEWER = {8: slice(1, 11, 2), 16: slice(1, 9), 32: slice(1, 7), 64: slice(1, 6), 255: slice(2, 5)}  # by levels
_TINY = 1e-10
_BATCH = 8  # groups
_SMALL = 256  # columns of a triangular matrix that is inverted at once
_ROWS = 1024  # of a matrix that one thread works on at a time, at least: each step on a column costs the same call
_WEIGHTS = 1 << 22  # and more where they are short
_ESTIMATED = 32  # groups of columns, on which errors are estimated

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

    def select(self, keep: Tensor, old: Parts, new: Parts, group: int) -> Parts:
        """``new`` with one group's scales as in ``old`` in the rows ``keep`` bool[rows]; the rest of both is equal."""
        ...

    def column(self, parts: Parts, group: int) -> Tensor:
        """The scales f32[rows] of one group."""
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
        """Of every half unit between the ends of uneven levels (which are integers): the nearest level."""
        middles = (self.levels[1:] + self.levels[:-1]) / 2
        first, last = float(self.levels[0]), float(self.levels[-1])
        return self.levels[torch.bucketize(torch.arange(first + 0.25, last, 0.5), middles)]

    @cached_property
    def ends(self) -> tuple[float, float, float, Tensor]:
        """What ``columns.nearest_`` wants to know of the levels."""
        return float(self.levels[0]), float(self.levels[-1]), self.step, torch.empty(0) if self.step else self._halves

    def round_(self, x: Tensor) -> Tensor:
        """The levels nearest to x, in its place."""
        return nearest_(x, *self.ends)

    def fields(self, levels: Tensor) -> Tensor:
        """u8: the indices of levels."""
        first, last = int(self.levels[0]), int(self.levels[-1])
        index = torch.zeros(last - first + 1, dtype=torch.uint8)
        index[self.levels.long() - first] = torch.arange(len(self.levels), dtype=torch.uint8)
        return torch.take(index, (levels - first).long())

    @property
    def factors(self) -> tuple[float, ...]:
        """Of the plain scale: those that are tried."""
        return _FACTORS[_FEWER.get(len(self.levels), slice(None))]

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
    """The scales f32[…] of groups ``w`` [n, …]: least Σ importance · (w - scale · level)²; ``importance`` [n] or as w.

    From the largest magnitude over the range's end on downwards, each followed by the least-squares scale of the
    levels it chose; for lopsided levels with both signs. ``every``: only each such factor is tried.
    """
    return _search(grid, w, importance, every)[0]


def expected_error(grid: Grid, w: Tensor, importance: Tensor) -> Tensor:
    """The errors f32[…] of groups with the best scales: what ``search_scales`` minimizes."""
    total = weighed(w * w, importance)
    return (total + _search(grid, w, importance, 1)[1]).clamp_min_(0)


def _search(grid: Grid, w: Tensor, importance: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """(scales, their errors without Σ importance · w²), each f32[…]."""
    magnitude = w.abs()
    extreme = magnitude.amax(0) if len(grid.signs) == 1 else w.gather(0, magnitude.argmax(0, keepdim=True))[0]
    inverse = float(grid.levels.abs().max()) / _safe(extreme)
    tried = [sign / factor for sign in grid.signs for factor in grid.factors[every // 2 :: every]]
    return best_scales(w, importance, inverse, tried, *grid.ends)


@dataclass(frozen=True)
class Factored:
    """``order`` of the columns; the damped H [cols, cols] and the upper Cholesky factor of its inverse, both in it."""

    order: Tensor
    damped: Tensor
    upper: Tensor


def _order(diagonal: Tensor, group: int) -> Tensor:
    """Columns, group after group, both by falling importance; a ragged last group stays last in its place."""
    count = -(-len(diagonal) // group)
    spans = [torch.arange(i * group, min((i + 1) * group, len(diagonal))) for i in range(count)]
    ranks = sorted(range(count), key=lambda i: (-float(diagonal[spans[i]].sum()), i))
    return torch.cat([spans[i][torch.argsort(diagonal[spans[i]], descending=True, stable=True)] for i in ranks])


def factor(hessian: Tensor, group: int) -> Factored:
    """What all matrices that read x share. Columns that never saw an input count as the average one.

    (Another text may bring it.) In place as far as can be: of a wide matrix each copy counts.
    Raises N730Error where the inputs were not finite.
    """
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal <= 0] = float(diagonal.mean()) or 1.0
    diagonal += DAMPING * float(diagonal.mean())
    order = _order(diagonal, group)
    damped = damped[order][:, order]
    # With J the reversal: J H J = L Lᵀ, so H⁻¹ = Uᵀ U with U = J L⁻¹ J, which is upper triangular
    lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if failed:
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1).double())
    for power in range(4):  # sums in FP32 may leave a matrix that is not quite positive definite
        if failed:
            damped.diagonal().add_(DAMPING * 10**power * float(damped.diagonal().mean()))
            lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1).double())
    if failed:
        raise N730Error(
            "rounding cannot be weighed by the inputs that the calibration saw",
            expected="finite numbers",
            found="others",
            hint="Check that the model's weights are finite, or take another --calibration text.",
        )
    lower = lower.float()
    _invert(lower)
    return Factored(order, damped, lower.flip(0, 1))


def _invert(lower: Tensor) -> None:
    """Invert a lower triangular matrix in place, by halves: nearly all of it is matrix products."""
    size = len(lower)
    if size <= _SMALL:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(size), upper=False))
        return
    half = size // 2
    first, second, below = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert(first)
    _invert(second)
    below.copy_((second @ below @ first).neg_())


def _spans(order: Tensor, group: int) -> list[tuple[int, int, int]]:
    """(group, first, end) of each group in the order."""
    found, at = [], 0
    while at < len(order):
        which = int(order[at]) // group
        end = at + min(group, len(order) - which * group)
        found.append((which, at, end))
        at = end
    return found


def _batches(spans: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups whose effect on all later ones is one matrix product: one for each group would wait for the memory."""
    return [spans[i : i + _BATCH] for i in range(0, len(spans), _BATCH)]


def _compensated(w: Tensor, grid: Grid, factored: Factored) -> tuple[Tensor, Parts]:
    """GPTQ's own pass over ``w`` [cols in order, rows], which becomes the errors E: (levels like w, scales)."""
    cols, rows = w.shape
    upper = factored.upper
    importance = 1 / upper.diagonal() ** 2
    spans = _spans(factored.order, grid.group)
    first = torch.zeros(rows, len(spans))
    if grid.coding.shared:
        for which, at, end in spans:
            first[:, which] = search_scales(grid, w[at:end], importance[at:end], every=3)
    parts = grid.coding.round(first)
    levels = torch.empty_like(w)
    for some in _batches(spans):
        start, stop = some[0][1], some[-1][2]
        for which, at, end in some:
            block, part = upper[at:end, at:end], w[at:end]
            reciprocal = (1 / block.diagonal()).tolist()
            parts = grid.coding.replace(parts, which, search_scales(grid, part, importance[at:end]))
            scale = _safe(grid.coding.column(parts, which))
            compensate(part, levels[at:end], block, scale, reciprocal, *grid.ends)
            if end < stop:
                w[end:stop].addmm_(upper[at:end, end:stop].T, part, alpha=-1)
        if stop < cols:
            w[stop:].addmm_(upper[start:stop, stop:].T, w[start:stop], alpha=-1)
    return levels, parts


def _sweep(
    quantized: Tensor, levels: Tensor, pull: Tensor, parts: Parts, grid: Grid, factored: Factored, last: bool
) -> Parts:
    """Coordinate descent over scales and levels; the new scales. Tensors are [cols in order, rows], changed in place.

    ``quantized``: levels times scales. ``pull``: minus half the error's gradient; after the ``last`` sweep of no use.
    """
    hessian, cols = factored.damped, len(levels)
    for some in _batches(_spans(factored.order, grid.group)):
        start, stop = some[0][1], some[-1][2]
        before = None if last else pull[start:stop].clone()
        change = quantized[start:stop].clone()  # of it first what was, then the difference
        for which, at, end in some:
            block, local, level = hessian[at:end, at:end], pull[at:end], levels[at:end]
            old = change[at - start : end - start]
            parts = _better_scale(block, local, level, parts, grid, which)
            scale = grid.coding.column(parts, which)
            inverse = 1 / _safe(scale)
            now = torch.mul(level, scale, out=quantized[at:end])
            local.addmm_(block, torch.sub(now, old), alpha=-1)
            reciprocal = (1 / block.diagonal()).tolist()
            descend(now, local, level, block, scale, inverse, reciprocal, *grid.ends)
            torch.sub(now, old, out=old)
            if end < stop:
                pull[end:stop].addmm_(hessian[end:stop, at:end], old, alpha=-1)
        if before is not None:
            pull[start:stop] = before
            pull.addmm_(hessian[:, start:stop], change, alpha=-1)
        elif stop < cols:
            pull[stop:].addmm_(hessian[stop:, start:stop], change, alpha=-1)
    return parts


def _better_scale(block: Tensor, local: Tensor, level: Tensor, parts: Parts, grid: Grid, which: int) -> Parts:
    """One group's scales at the best that the file can hold, given all else. The error is a parabola of the scale."""
    square = (level * (block @ level)).sum(0)
    old = grid.coding.column(parts, which)
    wanted = old + (level * local).sum(0) / square.clamp_min(1e-30)
    if not grid.coding.signed:
        wanted = wanted.clamp_min_(0)
    found = grid.coding.replace(tuple(part.clone() for part in parts), which, torch.where(square > 0, wanted, old))
    # rounded for the file it may be farther from the top than before
    keep = (grid.coding.column(found, which) - wanted).abs() > (old - wanted).abs()
    return grid.coding.select(keep, parts, found, which)


def _spread(parts: Parts, grid: Grid, spans: list[tuple[int, int, int]]) -> Tensor:
    """The scales f32[cols in order, rows]."""
    scales = grid.coding.values(parts).T
    which = torch.tensor([group for group, at, end in spans for _ in range(end - at)])
    return scales[which]


def round_matrix(weight: Tensor, hessian: Tensor, grid: Grid, sweeps: int = SWEEPS) -> Rounded:
    """Round ``weight`` f32[rows, cols] so that Σ |(weight - rounded) x|² is small over the inputs behind ``hessian``.

    ``hessian``: f32[cols, cols], Σ x xᵀ up to a factor. The same for any number of rows at once up to float rounding.
    """
    return round_factored(weight, grid, factor(hessian, grid.group), sweeps)


def single_threads() -> ThreadPoolExecutor:
    """A thread a core, in each of which torch takes one: work on columns is too small to be shared among threads."""
    return ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))


def round_factored(weight: Tensor, grid: Grid, factored: Factored, sweeps: int = SWEEPS) -> Rounded:
    """``round_matrix`` with what ``factor`` gave."""
    most = max(_ROWS, _WEIGHTS // weight.shape[1])
    rows = -(-len(weight) // (2 * -(-len(weight) // (2 * most))))  # an even number of blocks of about the same size
    rows = max(rows, _ROWS)
    blocks = [weight[at : at + rows] for at in range(0, len(weight), rows)]  # the same on any number of cores
    with single_threads() as pool:
        parts = list(pool.map(partial(_round_rows, grid=grid, factored=factored, sweeps=sweeps), blocks))
    fields, scales, rounded = zip(*parts, strict=True)
    return Rounded(torch.cat(fields), tuple(map(torch.cat, zip(*scales, strict=True))), torch.cat(rounded))


@torch.no_grad()
def _round_rows(weight: Tensor, grid: Grid, factored: Factored, sweeps: int) -> tuple[Tensor, Parts, Tensor]:
    errors = weight.T[factored.order].contiguous()
    levels, parts = _compensated(errors, grid, factored)
    spans = _spans(factored.order, grid.group)
    if sweeps:
        quantized = levels * _spread(parts, grid, spans)
        # What was compensated is W - Q = Uᵀ E, so H (W - Q) = U⁻¹ E: half of what the product with H would cost
        pull = torch.linalg.solve_triangular(factored.upper, errors, upper=True, out=errors)
        for number in range(sweeps):
            parts = _sweep(quantized, levels, pull, parts, grid, factored, number + 1 == sweeps)
        del quantized, pull
    values = levels * _spread(parts, grid, spans)
    back = torch.empty_like(factored.order)
    back[factored.order] = torch.arange(len(back))
    return grid.fields(levels)[back].T.contiguous(), parts, values[back].T.contiguous()


@torch.no_grad()
def expected_damage(weight: Tensor, grid: Grid, factored: Factored) -> Tensor:
    """About what each row's part of ``damage`` will be, f32[rows], up to a factor that formats share.

    Of some groups with their best scales, each by itself; groups of one size at once.
    """
    columns = weight.T
    importance = 1 / factored.upper.diagonal() ** 2
    spans = _spans(factored.order, grid.group)
    spans = sorted(spans[:: max(1, len(spans) // _ESTIMATED)], key=lambda span: span[2] - span[1])
    total = torch.zeros(len(weight))
    for size, some in groupby(spans, key=lambda span: span[2] - span[1]):
        places = torch.arange(size)[:, None] + torch.tensor([at for _, at, _ in some])  # [columns of a group, groups]
        total += expected_error(grid, columns[factored.order[places]], importance[places][:, :, None]).sum(0)
    return total


def damage(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """Σ over rows of (w - q) H (w - q)ᵀ: the squared error of the layer's output, summed over the inputs behind H."""
    difference = weight - rounded
    return float(((difference @ hessian) * difference).sum())
