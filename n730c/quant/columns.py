"""The inner loops of rounding, a column at a time, as TorchScript.

Each step is a few microseconds of work. In Python, threads that do it side by side spend their time handing its lock to
each other: two were slower than one. TorchScript runs without it, and a column costs half by itself too. (TorchScript
is deprecated, and stays in the release of torch that is pinned here. What follows it compiles for each shape.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., object])


def _scripted(function: F) -> F:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cast(F, torch.jit.script(function))


@_scripted
def nearest_(x: Tensor, first: float, last: float, step: float, halves: Tensor) -> Tensor:
    """The levels nearest to x, in its place: even ones from ``first`` to ``last``, or with ``step`` 0 uneven integers.

    ``halves``: of every half unit between the ends of uneven levels the nearest one.
    """
    if step == 0:
        index = x.sub_(first).mul_(2).clamp_(0, halves.numel() - 1)
        return x.copy_(torch.take(halves, index.long()))
    if step == 1 and first == round(first):
        return x.round_().clamp_(first, last)
    index = x.sub_(first).mul_(1 / step).round_().clamp_(0, round((last - first) / step))
    return index.mul_(step).add_(first)


@_scripted
def weighed(squares: Tensor, importance: Tensor) -> Tensor:
    """Σ importance · squares over the first dimension; ``importance`` [n], or like ``squares``."""
    if importance.dim() == 1:
        return torch.mv(squares.t(), importance)
    return (squares * importance).sum(0)


@_scripted
def best_scales(
    w: Tensor,
    importance: Tensor,
    inverse: Tensor,
    tried: list[float],
    first: float,
    last: float,
    step: float,
    halves: Tensor,
) -> tuple[Tensor, Tensor]:
    """Of groups ``w`` [n, …] the scales f32[…] of least Σ importance · (w - scale · level)², and this without the w².

    Levels are those nearest to w times ``inverse`` [...] times each of ``tried``; their scale is the least-squares one.
    """
    best = torch.full_like(inverse, float("inf"))
    chosen = torch.zeros_like(inverse)
    weights = w * importance[:, None] if importance.dim() == 1 else w * importance
    work = torch.empty_like(w)
    for one in tried:
        torch.mul(w, inverse * one, out=work)
        level = nearest_(work, first, last, step, halves)
        product = (weights * level).sum(0)
        square = weighed(level.mul_(level), importance).clamp_min_(1e-30)
        # Σ h (w - s l)² without Σ h w², at the best s: -(Σ h w l)² / Σ h l²
        scale = product / square
        error = -product * scale
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, scale, chosen)
    return chosen, best


@_scripted
def compensate(
    part: Tensor,
    levels: Tensor,
    block: Tensor,
    scale: Tensor,
    reciprocal: list[float],
    first: float,
    last: float,
    step: float,
    halves: Tensor,
) -> None:
    """GPTQ's pass over the columns of one group, ``part`` [n, rows], which becomes the errors; ``levels`` are set.

    ``block`` [n, n]: of the upper factor; ``reciprocal``: of its diagonal; ``scale`` [rows].
    """
    inverse = 1 / scale
    for j in range(part.size(0)):
        level = levels[j]
        torch.mul(part[j], inverse, out=level)
        nearest_(level, first, last, step, halves)
        error = part[j].addcmul_(level, scale, value=-1).mul_(reciprocal[j])
        if j + 1 < part.size(0):
            part[j + 1 :].addr_(block[j, j + 1 :], error, alpha=-1)


@_scripted
def descend(
    now: Tensor,
    local: Tensor,
    levels: Tensor,
    block: Tensor,
    scale: Tensor,
    inverse: Tensor,
    reciprocal: list[float],
    first: float,
    last: float,
    step: float,
    halves: Tensor,
) -> None:
    """Coordinate descent over the columns of one group: each at the level that is best given all others.

    ``now`` [n, rows]: levels times scales, ``local``: minus half the error's gradient; they and ``levels`` change in
    place. ``block`` [n, n]: of H; ``reciprocal``: of its diagonal.
    """
    for j in range(now.size(0)):
        found = levels[j]
        torch.add(now[j], local[j], alpha=reciprocal[j], out=found)
        nearest_(found.mul_(inverse), first, last, step, halves)
        change = torch.mul(found, scale).sub_(now[j])
        now[j] += change
        if j + 1 < now.size(0):
            local[j + 1 :].addr_(block[j, j + 1 :], change, alpha=-1)
