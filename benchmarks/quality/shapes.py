"""Formats that are not there, and rotation: what each would add to the curve of size and loss. Part of quality.py.

Each is rounded by the rounder itself. Its squared error of a matrix's outputs, over that of the shipped format with as
many levels, times what the profile measured of that one, is the divergence expected of it: near enough to see whether
it is worth kernels. ``gain`` is what the best assignment is then expected to lose, over what it loses without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.quality.assignments import Assignments
from n730c.dtypes import GROUP, SUPER_GROUPS, Format
from n730c.frontend.calibrate import linear_inputs
from n730c.mixed import items
from n730c.passes.assign import Item, assign
from n730c.profile import SensitivityProfile
from n730c.quant.gptq import Grid, damage, factor, round_factored
from n730c.quant.grids import CodedGroups, HalfScales, grid

SIZES = (2.3, 2.6, 3.0, 3.5, 4.0)  # bits a weight
BLOCK = 256  # of the Hadamard rotation, at most
_CODED = CodedGroups(Format.NL2)


@dataclass(frozen=True)
class Variant:
    """A format that might be. ``bits``: of a field; ``beside``: the shipped format that it is compared with."""

    name: str
    levels: tuple[float, ...]
    bits: float
    beside: Format
    group: int = GROUP
    coded: bool = True
    rotated: bool = False

    @property
    def bits_per_weight(self) -> float:
        scales = (4 + 16 / SUPER_GROUPS) if self.coded else 16
        return self.bits + scales / self.group

    @property
    def grid(self) -> Grid:
        return Grid(torch.tensor(self.levels), self.group, _CODED if self.coded else HalfScales())


def _levels(fmt: Format) -> tuple[float, ...]:
    return tuple(grid(fmt).levels.tolist())


def variants() -> list[Variant]:
    two, three, four = _levels(Format.NL2), _levels(Format.INT3), _levels(Format.NL4)
    found = [
        Variant("ternary, five fields in a byte", (-1.0, 0.0, 1.0), 1.6, Format.NL2),
        Variant("five levels, three fields in seven bits", (-9.0, -4.0, 0.0, 4.0, 9.0), 7 / 3, Format.NL2),
        Variant("six levels, three fields in a byte", (-6.0, -3.0, -1.0, 1.0, 3.0, 6.0), 8 / 3, Format.INT3),
        Variant("NL2 in groups of 16", two, 2, Format.NL2, group=16),
        Variant("NL2 in groups of 64", two, 2, Format.NL2, group=64),
        Variant("NL2 with an FP16 a group", two, 2, Format.NL2, coded=False),
        Variant("INT3 in groups of 16", three, 3, Format.INT3, group=16),
    ]
    for levels, bits, fmt in ((two, 2, Format.NL2), (three, 3, Format.INT3), (four, 4, Format.NL4)):
        found.append(Variant(f"{fmt.name}, inputs rotated", levels, bits, fmt, rotated=True))
    return found


def rotation(cols: int, seed: int = 0) -> torch.Tensor:
    """A randomized Hadamard matrix f32[cols, cols], in blocks where ``cols`` is no power of two."""
    block = min(BLOCK, cols & -cols)
    hadamard = torch.ones(1, 1)
    while len(hadamard) < block:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    signs = torch.from_numpy(np.random.default_rng(seed).choice((-1.0, 1.0), cols).astype(np.float32))
    return signs[:, None] * torch.block_diag(*[hadamard / block**0.5] * (cols // block))


def _error(weight: torch.Tensor, hessian: torch.Tensor, shape: Grid, rotated: bool) -> float:
    if rotated:
        turn = rotation(weight.shape[1])
        weight, hessian = weight @ turn, turn.T @ hessian @ turn
    rounded = round_factored(weight, shape, factor(hessian, shape.group), sweeps=1).weight
    return damage(weight, rounded, hessian)


def _ratios(bench: Assignments, every: list[Variant]) -> dict[str, dict[str, float]]:
    """By variant and matrix: its error over that of the format beside it."""
    found: dict[str, dict[str, float]] = {variant.name: {} for variant in every}
    known = linear_inputs(bench.graph.nodes)
    for name in bench.profile.divergence:
        if name not in known:
            continue
        weight = torch.from_numpy(np.ascontiguousarray(bench.subject.checkpoint.tensor(name)))
        hessian = torch.from_numpy(bench.calibrated.calibration.moment(known[name]))
        plain = {fmt: _error(weight, hessian, grid(fmt), False) for fmt in {variant.beside for variant in every}}
        for variant in every:
            error = _error(weight, hessian, variant.grid, variant.rotated)
            found[variant.name][name] = error / plain[variant.beside]
    return found


def _loss(things: list[Item], size: float, profile: SensitivityProfile) -> float:
    return profile.expected(assign(things, size).divergence)


def shapes(bench: Assignments) -> list[str]:
    """A table: a row a variant, with its error and what it would gain at each size."""
    every = variants()
    ratios = _ratios(bench, every)
    plain = items(bench.graph, bench.profile)
    budgets = [bits / 8 * bench.subject.matrix_elements for bits in SIZES]
    least = sum(min(item.price.values()) for item in plain)
    without = [_loss(plain, max(b, least), bench.profile) for b in budgets]

    def extended(item: Item, several: list[Variant]) -> Item:
        (name,) = item.names
        loss: dict[Any, float] = dict(item.divergence)
        price: dict[Any, float] = dict(item.price)
        weights = int(np.prod(bench.shapes[name]))
        for number, variant in enumerate(several):
            if (ratio := ratios[variant.name].get(name)) is not None:
                loss[1000 + number] = item.divergence[variant.beside] * ratio
                price[1000 + number] = variant.bits_per_weight * weights / 8
        return Item(item.names, loss, price)

    def row(title: str, bits: str, error: str, several: list[Variant]) -> str:
        things = [extended(item, several) for item in plain]
        gains = [_loss(things, max(b, least), bench.profile) / kl for b, kl in zip(budgets, without, strict=True)]
        line = f"| {title} | {bits} | {error} | {' | '.join(f'{gain:.2f}' for gain in gains)} |"
        print(line, flush=True)
        return line

    lines = [
        "What formats that are not there would do, and rotating the inputs by a randomized Hadamard matrix: squared",
        "error of the outputs over that of the shipped format with the nearest number of levels (geometric mean of",
        "all matrices), and the KL expected of the best assignment with it over that without it, by size.",
        "",
        f"| | bits a weight | error | {' | '.join(f'{bits} bits' for bits in SIZES)} |",
        "|---" * (len(SIZES) + 3) + "|",
        f"| as shipped: KL expected | | | {' | '.join(f'{kl:.4f}' for kl in without)} |",
    ]
    for variant in every:
        error = float(np.exp(np.mean(np.log(list(ratios[variant.name].values())))))
        beside = f"{error:.2f} of {variant.beside.name}'s"
        lines.append(row(variant.name, f"{variant.bits_per_weight:.2f}", beside, [variant]))
    turned = [variant for variant in every if variant.rotated]
    lines.append(row("all three, rotated where that is better", "", "", turned))
    return lines
