"""Rewrites of what is done to each element by itself: activations, however a model spells them.

A chain of such ops on one activation is kept as a function of numbers until something else wants its value. Then the
function is compared with those that the IR has, by value: 0.5 · x · (1 + tanh(…)) is a GELU whoever wrote it down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import special
from torch import fx

from n730c.frontend.values import Act, Context, Mean, Norm, Ones, Part, Unary, Value
from n730c.ir.core import Op

Function = Callable[[Any], Any]
_AT = np.concatenate([np.linspace(-12, 12, 193), [-80.0, -40.0, 40.0, 80.0]])
_KNOWN: tuple[tuple[Op, Function], ...] = (
    (Op.SILU, lambda x: x * special.expit(x)),
    (Op.GELU, lambda x: x * special.ndtr(x)),
    (Op.GELU_TANH, lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (Op.RELU, lambda x: np.maximum(x, 0)),
    (Op.RELU_SQUARED, lambda x: np.maximum(x, 0) ** 2),
)


def _equal(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=1e-6, atol=1e-8))


def settle(context: Context, value: Value) -> Act | None:
    """The activation that ``value`` is or stands for, its node emitted where it has to be; None where it is neither."""
    if isinstance(value, Act):
        return value
    if isinstance(value, Part) and value.step == 1 and not value.negated:
        from n730c.frontend.shapes import cut

        return cut(context, context.node, value.x, len(value.x.dims) - 1, value.first, value.last)
    if isinstance(value, Norm) and value.stage == "normalized":
        return emit_norm(context, value.node, value, Ones(value.act.axes[-1]))
    return _known_function(context, value) if isinstance(value, Unary) else None


def _known_function(context: Context, value: Unary) -> Act | None:
    x, node = value.x, value.node

    def emit(op: Op, x: Act, **attrs: float) -> Act:
        made = context.emit(node, op, [x], x.width, None, attrs)
        return replace(x, name=made.name)

    with np.errstate(all="ignore"):
        y = np.asarray(value.function(_AT), dtype=np.float64)
        one, limit = (float(value.function(np.float64(at))) for at in (1.0, 1e30))
        if y.shape != _AT.shape or not np.isfinite(y).all():
            return None
        if _equal(y, one * _AT):
            return x if one == 1 else emit(Op.SCALE, x, factor=one) if one > 0 else None
        for op, function in _KNOWN:
            if _equal(y, function(_AT)):
                return emit(op, x)
        if 0 < limit < 1e20 and _equal(y, limit * np.tanh(_AT / limit)):
            return emit(Op.SOFTCAP, x, cap=limit)
        steep = float(special.logit(one))
        if 0 < one < 1 and _equal(y, _AT * special.expit(steep * _AT)):  # "quick GELU"
            return emit(Op.SCALE, emit(Op.SILU, emit(Op.SCALE, x, factor=steep)), factor=1 / steep)
    return None


def emit_norm(context: Context, node: fx.Node, norm: Norm, weight: Any, bias: Any = None) -> Act | None:
    x = norm.act
    if weight.shape != (x.axes[-1],) or (bias is not None and bias.shape != weight.shape):
        return None
    op = Op.LAYER_NORM if isinstance(norm.x, Mean) else Op.RMS_NORM
    params = {"weight": weight} | ({"bias": bias} if bias is not None else {})
    made = context.emit(node, op, [x], x.width, params, {"eps": norm.eps})
    return replace(x, name=made.name)


def _as_function(value: Value) -> tuple[Act | None, Function] | None:
    """A value as a function of the elements of one activation, or of none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Act | Unary):
        return None
    if isinstance(value, int | float):
        return None, lambda _: value
    return (value, lambda x: x) if isinstance(value, Act) else (value.x, value.function)


def combine(node: fx.Node, a: Value, b: Value, function: Callable[[Any, Any], Any]) -> Unary | None:
    """``function`` of two values that depend on one and the same activation, or on it and a number."""
    left, right = _as_function(a), _as_function(b)
    if left is None or right is None:
        return None
    (x, f), (y, g) = left, right
    act = x or y
    if act is None or (x is not None and y is not None and x != y):
        return None
    return Unary(act, lambda at: function(f(at), g(at)), node)


def unary(function: Function) -> Callable[..., Value]:
    def rewrite(_: Context, node: fx.Node, x: Value) -> Value:
        return combine(node, x, 0, lambda a, _: function(a))

    return rewrite


def gelu(_: Context, node: fx.Node, x: Value, approximate: str = "none") -> Value:
    of = dict(_KNOWN)[Op.GELU_TANH if approximate == "tanh" else Op.GELU]
    return combine(node, x, 0, lambda a, _: of(a))


def divide(_: Context, node: fx.Node, a: Value, b: Value) -> Value:
    return combine(node, a, b, lambda x, y: x / y) if isinstance(b, int | float) and b else None


def subtract(_: Context, node: fx.Node, a: Value, b: Value) -> Value:
    if isinstance(b, Mean) and a == b.x and not b.taken:
        return replace(b, taken=True)
    return combine(node, a, b, lambda x, y: x - y)


def power(_: Context, node: fx.Node, x: Value, exponent: Value) -> Value:
    if isinstance(x, Mean) and x.taken and exponent == 2:
        return Norm("square", x)
    return combine(node, x, exponent, lambda a, b: a**b) if isinstance(exponent, int | float) else None


def mean(_: Context, __: fx.Node, x: Value, dims: Value, keep: bool = False) -> Value:
    axes = len((x.x if isinstance(x, Unary) else x.act if isinstance(x, Norm) else x).axes) if x is not None else 0
    if not keep or dims not in ([-1], [axes + 1]):
        return None
    if isinstance(x, Act):
        return Mean(x)
    if isinstance(x, Norm):
        return replace(x, stage="mean") if x.stage == "square" else None
    squares = isinstance(x, Unary) and _equal(x.function(_AT), _AT * _AT)
    return Norm("mean", x.x) if squares else None


def rsqrt(_: Context, __: fx.Node, x: Value) -> Value:
    return replace(x, stage="inverse") if isinstance(x, Norm) and x.stage == "variance" else None
