"""The table of ATen ops: what each one makes of the values that it may meet.

A rewrite takes (context, ATen node, operands …) and gives a value — an activation where it completes a pattern and
emits an IR node — or None where it does not know these operands. A new family of models costs at most a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy import special
from torch import fx

from n730c.frontend import elementwise, experts, rotary, shapes
from n730c.frontend.elementwise import combine, emit_norm, unary
from n730c.frontend.values import (
    Act,
    Angles,
    Buffer,
    Context,
    Ids,
    Length,
    Mean,
    Norm,
    Ones,
    Part,
    Positions,
    Rotated,
    Value,
    Wave,
    Waved,
    Weight,
)
from n730c.ir.core import Op
from n730c.ir.views import increased, transposed


def _mul(context: Context, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), Buffer(shape=(_,)):
                return Angles(right)
            case Wave(), float() | int():
                return replace(left, scaling=left.scaling * right)
            case Act() | Mean(), Norm(stage="inverse", x=x) if x == left:
                return replace(right, stage="normalized", node=node)
            case Weight(), Norm(stage="normalized"):
                return emit_norm(context, node, right, left)
            case Act() | Rotated() | Part(), Wave():
                return rotary.times_wave(left, right)
    gated = experts.gated(context, node, a, b)
    if gated is not None:
        return gated
    same = combine(node, a, b, lambda x, y: x * y)
    return same if same is not None else _binary(context, node, Op.MUL, a, b)


def _add(context: Context, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), 0:
                return left
            case Weight(), float() | int():
                return Weight(increased(left.name, float(right)), left.shape)
            case Norm(stage="mean"), float():
                return replace(left, stage="variance", eps=right)
            case Act(rows=True), Weight(shape=(width,)) if width == left.width:
                return left if context.add_bias(left, right) else None
            case Waved(wave=Wave(function="cos")), Waved(wave=Wave(function="sin")):
                return rotary.turned(context, node, left, right)
    same = combine(node, a, b, lambda x, y: x + y) if a != b else None
    return same if same is not None else _binary(context, node, Op.ADD, a, b)


def _binary(context: Context, node: fx.Node, op: Op, a: Value, b: Value) -> Value:
    x, y = context.act(a), context.act(b)
    if x is None or y is None or (x.dims, x.first, x.width, x.repeat) != (y.dims, y.first, y.width, y.repeat):
        return None
    return replace(x, name=context.emit(node, op, [x, y], x.width).name)


def _embedding(context: Context, node: fx.Node, weight: Value, ids: Value, *_: Value) -> Value:
    if not isinstance(weight, Weight) or not isinstance(ids, Ids | Positions):
        return None
    op = Op.EMBEDDING if isinstance(ids, Ids) else Op.POSITIONS
    return context.emit(node, op, [Ids()], weight.shape[1], {"weight": weight})


def _linear(context: Context, node: fx.Node, x: Value, weight: Value, bias: Value = None) -> Value:
    act = context.act(x)
    if act is None or not act.rows or not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        return None
    params = {"weight": weight} | ({"bias": bias} if bias is not None else {})
    return context.emit(node, Op.LINEAR, [act], weight.shape[0], params)


def _addmm(context: Context, node: fx.Node, bias: Value, x: Value, weight: Value) -> Value:
    """bias + x · weight: a linear layer whose weight is stored the other way round."""
    if not isinstance(weight, Weight) or len(weight.shape) != 2:
        return None
    return _linear(context, node, x, Weight(transposed(weight.name), weight.shape[::-1]), bias)


def _matmul(context: Context, node: fx.Node, a: Value, b: Value) -> Value:
    return _addmm(context, node, None, a, b) if isinstance(b, Weight) else rotary.matmul(context, node, a, b)


def _layer_norm(
    context: Context, node: fx.Node, x: Value, shape: Value, weight: Value = None, bias: Value = None,
    eps: float = 1e-5, *_: Value,
) -> Value:  # fmt: skip
    act = context.act(x)
    if act is None or shape != [act.axes[-1]] or not all(isinstance(w, Weight | None) for w in (weight, bias)):
        return None
    norm = Norm("normalized", Mean(act, taken=True), eps)
    return emit_norm(context, node, norm, weight or Ones(act.axes[-1]), bias)


def _rms_norm(
    context: Context, node: fx.Node, x: Value, shape: Value, weight: Value = None, eps: Value = None
) -> Value:
    act = context.act(x)
    if act is None or shape != [act.axes[-1]] or not isinstance(weight, Weight | None):
        return None
    norm = Norm("normalized", act, float(np.finfo(np.float32).eps) if eps is None else eps)
    return emit_norm(context, node, norm, weight or Ones(act.axes[-1]))


def _dropout(_: Context, __: fx.Node, x: Value, probability: float, training: bool) -> Value:
    return None if training and probability else x


def _attention(
    context: Context, node: fx.Node, q: Value, k: Value, v: Value, scale: float, window: int, cap: float
) -> Value:
    q, k, v = (context.act(x) for x in (q, k, v))
    if not all(x is not None and x.first and len(x.dims) == 2 for x in (q, k, v)):
        return None
    if not (q.head_dim == k.head_dim == v.head_dim and k.heads == v.heads and k.repeat == v.repeat):
        return None
    if q.repeat > 1 or q.heads % k.heads or k.repeat not in (1, q.heads // k.heads):
        return None
    window = min(window or context.context_length, context.context_length)
    attrs = {"heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim, "scale": scale, "window": window}
    if cap:
        attrs["softcap"] = cap
    result = context.emit(node, Op.ATTENTION, [q, k, v], q.width, None, attrs)
    return replace(q, name=result.name, first=False)


OPTIONS = {"aten.gelu"}  # ops whose keyword arguments the rewrite looks at
_TABLE: Mapping[str, Callable[..., Value]] = {
    "aten.sym_size": lambda _, __, x, axis: Length() if isinstance(x, Ids) and axis == 1 else None,
    "aten.embedding": _embedding,
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "n730.attention": _attention,
    # Norms: weight · (x · rsqrt(mean(x²) + eps)), x perhaps less its mean
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.mean": elementwise.mean,
    "aten.rsqrt": elementwise.rsqrt,
    # RoPE: x · cos + rotate_half(x) · sin, of positions × inverse frequencies
    "aten.arange": rotary.arange,
    "aten.cos": rotary.wave("cos"),
    "aten.sin": rotary.wave("sin"),
    "aten.neg": rotary.negate,
    "aten.cat": rotary.concatenate,
    "aten.stack": rotary.stack,
    "aten.repeat_interleave": rotary.repeat_interleave,
    # Functions of each element by itself
    "aten.silu": unary(lambda x: x * special.expit(x)),
    "aten.gelu": elementwise.gelu,
    "aten.relu": unary(lambda x: np.maximum(x, 0)),
    "aten.tanh": unary(np.tanh),
    "aten.sigmoid": unary(special.expit),
    "aten.erf": unary(special.erf),
    "aten.square": unary(np.square),
    "aten.div": elementwise.divide,
    "aten.sub": elementwise.subtract,
    "aten.pow": elementwise.power,
    # Parts of several patterns
    "aten.mul": _mul,
    "aten.add": _add,
    "aten.add_": _add,
    # Nothing but another shape or type
    "aten.view": shapes.view,
    "aten.reshape": shapes.view,
    "aten.unsqueeze": shapes.view,
    "aten.expand": shapes.view,
    "aten.broadcast_to": shapes.view,
    "aten.flatten": shapes.view,
    "aten.transpose": shapes.transpose,
    "aten.t": shapes.matrix_transpose,
    "aten.permute": shapes.permute,
    "aten.slice": shapes.slice_,
    "aten.select": shapes.select,
    "aten.split": shapes.split,
    "aten.split_with_sizes": shapes.split,
    "aten.chunk": shapes.chunk,
    "getitem": shapes.getitem,
    "aten.to": shapes.cast,
    "aten.type_as": shapes.cast,
    "aten.numpy_T": shapes.matrix_transpose,
    "aten.dropout": _dropout,
    "aten.alias": shapes.same,
    "aten.contiguous": shapes.same,
    "aten.clone": shapes.same,
    "aten.detach": shapes.same,
    "aten.lift_fresh_copy": shapes.same,
}


def _either(first: Callable[..., Value], second: Callable[..., Value]) -> Callable[..., Value]:
    def rewrite(*operands: Value, **options: Value) -> Value:
        value = first(*operands)
        return second(*operands, **options) if value is None else value

    return rewrite


TABLE = {
    **_TABLE,
    **{op: _either(rewrite, _TABLE[op]) if op in _TABLE else rewrite for op, rewrite in experts.TABLE.items()},
}
