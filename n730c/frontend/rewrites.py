"""The table of ATen ops: what each one makes of the values that it may meet.

A rewrite takes (context, ATen node, operands …) and gives a value — an activation where it completes a pattern and
emits an IR node — or None where it does not know these operands. A new family of models costs at most a row here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import fx

from n730c.frontend import experts
from n730c.frontend.values import (
    Act,
    Angles,
    Buffer,
    Half,
    Ids,
    Layout,
    Length,
    Norm,
    Positions,
    Rotated,
    Value,
    Wave,
    Waved,
    Weight,
)
from n730c.ir.core import Attr, Op

_WHOLE = sys.maxsize  # how ATen spells "to the end" in a slice


class Context(Protocol):
    """What a rewrite may ask of the walk that calls it."""

    @property
    def context_length(self) -> int: ...

    def emit(
        self,
        node: fx.Node,
        op: Op,
        inputs: Sequence[Act | Ids],
        width: int,
        params: Mapping[str, Weight | Buffer] | None = None,
        attrs: Mapping[str, Attr] | None = None,
    ) -> Act: ...

    def module(self, node: fx.Node) -> tuple[str, str]: ...


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _token_axis(node: fx.Node) -> int | None:
    """The one axis of symbolic size."""
    axes = [axis for axis, size in enumerate(_shape(node)) if not isinstance(size, int)]
    return axes[0] if len(axes) == 1 else None


def _same(_: Context, __: fx.Node, x: Value, *___: Value) -> Value:
    return x


def _cast(_: Context, node: fx.Node, x: Value, *___: Value) -> Value:
    """To FP32, which everything is already; or whole numbers to whole numbers."""
    dtype = node.meta["val"].dtype
    return x if dtype == torch.float32 or (dtype == torch.int64 and isinstance(x, Positions | Ids)) else None


def _view(_: Context, node: fx.Node, x: Value, *__: Value) -> Value:
    """view, reshape, unsqueeze, expand: only the shape changes; what it means depends on what ``x`` is."""
    shape, axis = _shape(node), _token_axis(node)
    if isinstance(x, Ids):
        return x if axis == 1 and len(shape) == 2 else None
    if isinstance(x, Positions):
        return x if axis is not None and all(size == 1 for i, size in enumerate(shape) if i != axis) else None
    if isinstance(x, Wave):
        width = 2 * x.inv_freq.shape[0]
        if axis is None or shape[-1] != width or any(size != 1 for i, size in enumerate(shape[:-1]) if i != axis):
            return None
        return replace(x, axis=axis, dims=len(shape))
    flat = axis == 0 and len(shape) == 2
    if not isinstance(x, Act) or not (flat or (axis == 1 and shape[0] == 1)) or x.layout is Layout.HEADS_FIRST:
        return None
    if len(shape) in (2, 3) and shape[-1] == x.width:  # experts see tokens without the batch's axis
        return Act(x.name, x.width)
    if len(shape) == 4 and shape[2] * shape[3] == x.width:
        return Act(x.name, x.width, Layout.HEADS, shape[3])
    return None


def _transpose(_: Context, __: fx.Node, x: Value, a: int, b: int) -> Value:
    swap = {Layout.HEADS: Layout.HEADS_FIRST, Layout.HEADS_FIRST: Layout.HEADS}
    if isinstance(x, Act) and x.layout in swap and sorted((a % 4, b % 4)) == [1, 2]:
        return replace(x, layout=swap[x.layout])
    return None


def _slice(_: Context, node: fx.Node, x: Value, dim: int = 0, lo: Any = None, hi: Any = None, step: int = 1) -> Value:
    lo, hi = 0 if lo is None else lo, _WHOLE if hi is None else hi
    if not isinstance(lo, int) or not isinstance(hi, int) or step != 1:
        return None
    if lo == 0 and hi == _WHOLE:
        return x
    if isinstance(x, Act) and x.head_dim and dim % 4 == 3 and x.head_dim % 2 == 0:
        half = x.head_dim // 2
        if (lo, min(hi, x.head_dim)) in ((0, half), (half, x.head_dim)):
            return Half(x, second=lo == half)
    return None


def _cat(_: Context, node: fx.Node, parts: Value, dim: int = 0) -> Value:
    match parts:
        case [Half(x=x, second=True, negated=True), Half(x=y, second=False, negated=False)]:
            return Rotated(x) if x == y and dim in (-1, 3) else None
        case [Angles(doubled=False) as angles, Angles() as other]:
            return replace(angles, doubled=True) if angles == other and dim in (-1, 2) else None
    return None


def _dropout(_: Context, __: fx.Node, x: Value, probability: float, training: bool) -> Value:
    return None if training and probability else x


def _neg(_: Context, __: fx.Node, x: Value) -> Value:
    return replace(x, negated=True) if isinstance(x, Half) and not x.negated else None


def _arange(_: Context, __: fx.Node, *bounds: Value) -> Value:
    return Positions() if bounds in ((Length(),), (0, Length())) else None


def _wave(function: str) -> Callable[..., Value]:
    def rewrite(_: Context, node: fx.Node, x: Value) -> Value:
        fits = isinstance(x, Angles) and x.doubled and _token_axis(node) == 1
        return Wave(function, x.inv_freq, 1.0, axis=1, dims=3) if fits else None

    return rewrite


def _carries(x: Act, wave: Wave) -> bool:
    """Whether a wave lies along the tokens and the whole heads of ``x``."""
    axis = {Layout.HEADS: 1, Layout.HEADS_FIRST: 2}.get(x.layout)
    return wave.dims == 4 and wave.axis == axis and x.head_dim == 2 * wave.inv_freq.shape[0]


def _mul(context: Context, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), Buffer(shape=(_,)):
                return Angles(right)
            case Wave(), float() | int():
                return replace(left, scaling=left.scaling * right)
            case Act(), Norm(stage="inverse", x=x) if x == left:
                return replace(right, stage="normalized")
            case Weight(), Norm(stage="normalized", x=x):
                return context.emit(node, Op.RMS_NORM, [x], x.width, {"weight": left}, {"eps": right.eps})
            case Act(), Wave(function="cos") if _carries(left, right):
                return Waved(left, right)
            case Rotated(), Wave(function="sin") if _carries(left.x, right):
                return Waved(left.x, right)
    return experts.gated(context, node, a, b) or _elementwise(context, node, Op.MUL, a, b)


def _add(context: Context, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), 0:
                return left
            case Norm(stage="mean"), float():
                return replace(left, stage="variance", eps=right)
            case Waved(wave=Wave(function="cos")), Waved(wave=Wave(function="sin")):
                if left.x == right.x and replace(left.wave, function="sin") == right.wave:
                    return _emit_rope(context, node, left.x, left.wave)
    return _elementwise(context, node, Op.ADD, a, b)


def _emit_rope(context: Context, node: fx.Node, x: Act, wave: Wave) -> Act:
    attrs = {"heads": x.heads, "head_dim": x.head_dim, "rotary_dim": x.head_dim, "scaling": float(wave.scaling)}
    rope = context.emit(node, Op.ROPE, [x], x.width, {"inv_freq": wave.inv_freq}, attrs)
    return replace(rope, layout=x.layout, head_dim=x.head_dim)


def _elementwise(context: Context, node: fx.Node, op: Op, a: Value, b: Value) -> Value:
    rows = all(isinstance(x, Act) and x.layout is Layout.ROWS for x in (a, b))
    return context.emit(node, op, [a, b], a.width) if rows and a.width == b.width else None


def _pow(_: Context, __: fx.Node, x: Value, exponent: Value) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    return Norm("square", x) if rows and exponent == 2 else None


def _mean(_: Context, __: fx.Node, x: Value, dims: Value, keep: bool = False) -> Value:
    fits = isinstance(x, Norm) and x.stage == "square" and dims in ([-1], [2]) and keep
    return replace(x, stage="mean") if fits else None


def _rsqrt(_: Context, __: fx.Node, x: Value) -> Value:
    return replace(x, stage="inverse") if isinstance(x, Norm) and x.stage == "variance" else None


def _embedding(context: Context, node: fx.Node, weight: Value, ids: Value, *_: Value) -> Value:
    if not isinstance(weight, Weight) or not isinstance(ids, Ids):
        return None
    return context.emit(node, Op.EMBEDDING, [ids], weight.shape[1], {"weight": weight})


def _linear(context: Context, node: fx.Node, x: Value, weight: Value, bias: Value = None) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    if not rows or not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        return None
    params = {"weight": weight} | ({"bias": bias} if bias is not None else {})
    return context.emit(node, Op.LINEAR, [x], weight.shape[0], params)


def _silu(context: Context, node: fx.Node, x: Value) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    return context.emit(node, Op.SILU, [x], x.width) if rows else None


def _attention(context: Context, node: fx.Node, q: Value, k: Value, v: Value, scale: float, window: int) -> Value:
    if not all(isinstance(x, Act) and x.layout is Layout.HEADS_FIRST for x in (q, k, v)):
        return None
    if not (q.head_dim == k.head_dim == v.head_dim and k.heads == v.heads):
        return None
    window = min(window or context.context_length, context.context_length)
    attrs = {"heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim, "scale": scale, "window": window}
    result = context.emit(node, Op.ATTENTION, [q, k, v], q.width, None, attrs)
    return replace(result, layout=Layout.HEADS, head_dim=q.head_dim)


TABLE: Mapping[str, Callable[..., Value]] = {
    **experts.TABLE,
    "aten.sym_size": lambda _, __, x, axis: Length() if isinstance(x, Ids) and axis == 1 else None,
    "aten.embedding": _embedding,
    "aten.linear": _linear,
    "aten.silu": _silu,
    "n730.attention": _attention,
    # RMSNorm: weight · (x · rsqrt(mean(x²) + eps))
    "aten.pow": _pow,
    "aten.mean": _mean,
    "aten.rsqrt": _rsqrt,
    # RoPE: x · cos + rotate_half(x) · sin, of positions × inverse frequencies
    "aten.arange": _arange,
    "aten.cos": _wave("cos"),
    "aten.sin": _wave("sin"),
    "aten.neg": _neg,
    "aten.cat": _cat,
    "aten.slice": _slice,
    # Parts of several patterns
    "aten.mul": _mul,
    "aten.add": _add,
    # Nothing but another shape or type
    "aten.view": _view,
    "aten.reshape": _view,
    "aten.unsqueeze": _view,
    "aten.expand": _view,
    "aten.transpose": _transpose,
    "aten.to": _cast,
    "aten.dropout": _dropout,
    "aten.alias": _same,
    "aten.contiguous": _same,
    "aten.clone": _same,
    "aten.detach": _same,
}
