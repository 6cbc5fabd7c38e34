"""Rewrites of ATen ops that only move, cut or join: views, transposes, slices, splits, and what they do to weights."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from n730c.frontend.values import (
    Act,
    Angles,
    Buffer,
    Context,
    Ids,
    Part,
    Positions,
    Rotated,
    Value,
    Wave,
    Weight,
)
from n730c.ir.core import Op
from n730c.ir.views import transposed

_WHOLE = sys.maxsize  # how ATen spells "to the end" in a slice


def shape_of(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def token_axis(node: fx.Node) -> int | None:
    """The one axis of symbolic size."""
    axes = [axis for axis, size in enumerate(shape_of(node)) if not isinstance(size, int)]
    return axes[0] if len(axes) == 1 else None


def same(_: Context, __: fx.Node, x: Value, *___: Value) -> Value:
    return x


def cast(_: Context, node: fx.Node, x: Value, *___: Value) -> Value:
    """To FP32, which everything is already; or whole numbers to whole numbers."""
    dtype = node.meta["val"].dtype
    return x if dtype == torch.float32 or (dtype == torch.int64 and isinstance(x, Positions | Ids)) else None


def view(context: Context, node: fx.Node, x: Value, *__: Value) -> Value:
    """view, reshape, unsqueeze, expand, flatten: what it means depends on what ``x`` is."""
    shape, axis = shape_of(node), token_axis(node)
    if isinstance(x, float | Weight):
        return x if isinstance(x, float) or shape == x.shape else None
    if isinstance(x, Buffer):
        return x if math.prod(shape) == math.prod(x.shape) else None
    if isinstance(x, Ids):
        return x if axis == 1 and len(shape) == 2 else None
    if isinstance(x, Positions):
        return x if axis is not None and all(size == 1 for i, size in enumerate(shape) if i != axis) else None
    if isinstance(x, Rotated):
        return x
    if isinstance(x, Wave):
        width = x.inv_freq.shape[0] * (2 if x.doubled else 1)
        if axis is None or shape[-1] != width or any(size != 1 for i, size in enumerate(shape[:-1]) if i != axis):
            return None
        return replace(x, axis=axis, dims=len(shape))
    act = context.act(x)
    return _view_act(act, shape, axis) if act and axis is not None else None


def _view_act(x: Act, shape: tuple[Any, ...], axis: int) -> Value:
    features = shape[axis + 1 :]
    if x.rows and shape[:axis] == (1, 1) and features == (x.width,):
        return replace(x, dims=(1, x.width), first=True)  # one head for all
    if x.first and x.dims[:-1] == (1,) and axis == 1:
        x = Act(x.name, x.width)
    if x.first or math.prod(shape[:axis]) != 1:
        return x if x.first and (1, *shape[1:axis], *features) == (1, *x.axes) and axis == 2 else None
    if features == x.axes:
        return x
    if x.repeat > 1:  # heads that are equal are counted, never stored
        merged = (*x.axes[:-3], math.prod(x.axes[-3:-1]), x.axes[-1])
        return replace(x, dims=(*x.dims[:-3], x.dims[-3], x.dims[-1])) if features == merged else None
    if math.prod(features) == x.width:
        return Act(x.name, x.width, features if len(features) > 1 else ())
    repeats = len(features) == len(x.dims) > 2 and x.dims[-2] == 1 and features[:-2] == x.dims[:-2]
    return replace(x, repeat=features[-2]) if repeats and features[-1] == x.dims[-1] else None


def transpose(context: Context, _: fx.Node, x: Value, a: int, b: int) -> Value:
    if isinstance(x, Weight) and len(x.shape) == 2 and a % 2 != b % 2:
        return Weight(transposed(x.name), x.shape[::-1])
    if isinstance(x, Angles):
        return x
    act = context.act(x)
    heads = act is not None and len(act.dims) == 2 and sorted((a % 4, b % 4)) == [1, 2]
    return replace(act, first=not act.first) if act and heads else None


def matrix_transpose(context: Context, node: fx.Node, x: Value) -> Value:
    return transpose(context, node, x, 0, 1) if isinstance(x, Weight) else None


def permute(context: Context, node: fx.Node, x: Value, order: Value) -> Value:
    return transpose(context, node, x, 1, 2) if order == [0, 2, 1, 3] else None


def cut(context: Context, node: fx.Node, x: Act, axis: int, first: int, last: int) -> Act | None:
    """A slice of one feature axis, as a node of its own."""
    dims = x.dims or (x.width,)
    if x.repeat > 1 or not 0 <= first < last <= dims[axis]:
        return None
    if last - first == dims[axis]:
        return x
    blocks, inner = math.prod(dims[:axis]), math.prod(dims[axis + 1 :])
    attrs = {"blocks": blocks, "first": first * inner, "count": (last - first) * inner}
    made = context.emit(node, Op.SLICE, [x], blocks * (last - first) * inner, None, attrs)
    kept = (*dims[:axis], last - first, *dims[axis + 1 :]) if x.dims else ()
    return replace(made, dims=kept, first=x.first)


def slice_(
    context: Context, node: fx.Node, x: Value, dim: int = 0, lo: Any = None, hi: Any = None, step: int = 1
) -> Value:
    lo, hi = 0 if lo is None else lo, _WHOLE if hi is None else hi
    if not isinstance(lo, int) or not isinstance(hi, int):
        return None
    if lo == 0 and hi == _WHOLE and step == 1:
        return x
    if isinstance(x, Wave):
        half = dim in (-1, x.dims - 1) and x.doubled and not x.pairs and (lo, hi) == (0, x.inv_freq.shape[0])
        return replace(x, doubled=False) if half else None
    if isinstance(x, Part) and x.step == 1 and not x.negated:
        part, last_axis = x, dim in (-1, 3)
    else:
        act = context.act(x)
        if act is None or (axis := act.axis(dim)) is None:
            return None
        lo, hi = (min(bound + act.axes[axis] if bound < 0 else bound, act.axes[axis]) for bound in (lo, hi))
        last_axis = axis == len(act.axes) - 1
        if act.rows or not last_axis:
            return cut(context, node, act, axis, lo, hi) if step == 1 else None
        part = Part(act, 0, act.head_dim)
    size = part.last - part.first
    lo, hi = (min(bound + size if bound < 0 else bound, size) for bound in (lo, hi))
    return replace(part, first=part.first + lo, last=part.first + hi, step=step) if last_axis else None


def select(context: Context, node: fx.Node, x: Value, dim: int, index: int) -> Value:
    act = context.act(x)
    axis = act.axis(dim) if act else None
    if act is None or axis is None or axis == len(act.axes) - 1:
        return None
    index %= act.axes[axis]
    made = cut(context, node, act, axis, index, index + 1)
    return replace(made, dims=(*made.dims[:axis], *made.dims[axis + 1 :])) if made else None


def split(context: Context, node: fx.Node, x: Value, sizes: Value, dim: int = 0) -> Value:
    act = context.act(x)
    axis = act.axis(dim) if act else None
    if act is None or axis is None:
        return None
    whole = act.axes[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, whole - at) for at in range(0, whole, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [cut(context, node, act, axis, at, at + size) for at, size in zip(starts, sizes, strict=True)]


def chunk(context: Context, node: fx.Node, x: Value, count: int, dim: int = 0) -> Value:
    act = context.act(x)
    axis = act.axis(dim) if act else None
    return split(context, node, x, -(-act.axes[axis] // count), dim) if act and axis is not None else None


def getitem(_: Context, __: fx.Node, parts: Value, number: int) -> Value:
    return parts[number] if isinstance(parts, list) else None
