"""Rewrites of RoPE: positions × inverse frequencies become waves, waves on heads and their rotation become one node.

Both pairings are known (i with i + n, and 2i with 2i + 1), on whole heads and on their first part only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import fx

from n730c.frontend.shapes import token_axis
from n730c.frontend.values import (
    Act,
    Angles,
    Buffer,
    Context,
    Length,
    Part,
    Positions,
    Roped,
    Rotated,
    Value,
    Wave,
    Waved,
)
from n730c.ir.core import Op


def arange(_: Context, __: fx.Node, *bounds: Value) -> Value:
    return Positions() if bounds in ((Length(),), (0, Length())) else None


def matmul(_: Context, __: fx.Node, a: Value, b: Value) -> Value:
    """Inverse frequencies as a column times positions as a row: the same angles."""
    return Angles(a) if isinstance(a, Buffer) and isinstance(b, Positions) else None


def wave(function: str) -> Callable[..., Value]:
    def rewrite(_: Context, node: fx.Node, x: Value) -> Value:
        if not isinstance(x, Angles) or token_axis(node) != 1:
            return None
        return Wave(function, x.inv_freq, 1.0, axis=1, dims=3, doubled=x.doubled, pairs=x.pairs)

    return rewrite


def repeat_interleave(_: Context, __: fx.Node, x: Value, times: int, dim: int = 0) -> Value:
    last = x.dims - 1 if isinstance(x, Wave) else 2
    fits = isinstance(x, Angles | Wave) and not x.doubled and times == 2 and dim in (-1, last)
    return replace(x, doubled=True, pairs=True) if fits else None


def negate(_: Context, __: fx.Node, x: Value) -> Value:
    return replace(x, negated=True) if isinstance(x, Part) and not x.negated else None


def stack(_: Context, __: fx.Node, parts: Value, dim: int = 0) -> Value:
    match parts:
        case [Part(step=2, negated=True) as odd, Part(step=2, negated=False) as even] if odd.x == even.x:
            if odd.first == even.first + 1 and odd.last == even.last and dim in (-1, 4):
                return Rotated(Part(even.x, even.first, even.last), pairs=True)
    return None


def concatenate(context: Context, node: fx.Node, parts: Value, dim: int = 0) -> Value:
    if isinstance(parts, list):
        parts = [part for part in parts if not (isinstance(part, Part) and part.first >= part.last)]
    match parts:
        case [Act() as whole]:
            return whole if dim in (-1, len(whole.axes) + 1) else None
        case [Part(step=1, negated=True) as second, Part(step=1, negated=False) as first] if dim in (-1, 3):
            halves = second.x == first.x and second.first == first.last
            if halves and first.last - first.first == second.last - second.first:
                return Rotated(Part(first.x, first.first, second.last))
        case [Roped(x=turned, wave=wave), Part(step=1, negated=False) as rest] if dim in (-1, 3):
            if rest.x == turned.x and (turned.first, turned.last, rest.last) == (0, rest.first, rest.x.head_dim):
                return _emit(context, node, turned, wave)
        case [Angles(doubled=False) as angles, Angles() as other]:
            return replace(angles, doubled=True) if angles == other and dim in (-1, 2) else None
    return None


def _part(x: Value) -> Part | None:
    """The part of the heads that a value is, where it may be turned."""
    if isinstance(x, Act) and len(x.dims) == 2:
        x = Part(x, 0, x.head_dim)
    return x if isinstance(x, Part) and x.step == 1 and not x.negated else None


def _carries(part: Part, wave: Wave) -> bool:
    """Whether a wave lies along the tokens and all of ``part``."""
    axis = 2 if part.x.first else 1
    width = part.last - part.first
    return wave.doubled and wave.dims == 4 and wave.axis == axis and width == 2 * wave.inv_freq.shape[0]


def times_wave(x: Value, wave: Wave) -> Value:
    """x · cos or rotated x · sin."""
    if isinstance(x, Rotated):
        return Waved(x.x, wave) if wave.function == "sin" and x.pairs == wave.pairs and _carries(x.x, wave) else None
    part = _part(x)
    return Waved(part, wave) if part and wave.function == "cos" and _carries(part, wave) else None


def turned(context: Context, node: fx.Node, cosine: Waved, sine: Waved) -> Value:
    """x · cos + rotated x · sin: RoPE on whole heads, or on a part whose rest is still to come."""
    if cosine.x != sine.x or replace(cosine.wave, function="sin") != sine.wave or cosine.x.first:
        return None
    if cosine.x.last < cosine.x.x.head_dim:
        return Roped(cosine.x, cosine.wave)
    return _emit(context, node, cosine.x, cosine.wave)


def _emit(context: Context, node: fx.Node, part: Part, wave: Wave) -> Act:
    x = part.x
    attrs = {"heads": x.heads, "head_dim": x.head_dim, "rotary_dim": part.last, "scaling": float(wave.scaling)}
    if wave.pairs:
        attrs["pairs"] = True
    rope = context.emit(node, Op.ROPE, [x], x.width, {"inv_freq": wave.inv_freq}, attrs)
    return replace(x, name=rope.name)
