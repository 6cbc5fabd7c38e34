"""Canonicalization: the ATen graph of a trace becomes IR nodes.

It is an abstract interpretation: each ATen node yields a *value* that says what it is in a transformer — an
activation, a weight, positions, a part of an RMSNorm, a part of RoPE. ``_TABLE`` maps each ATen op to the rewrite that
knows which values it may meet; a rewrite completes a pattern (then it emits an IR node), carries it on, or gives None:
then the model is refused and the error names the op and the module. No model's name or class is ever asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import fx

from n730c.errors import UnsupportedModel
from n730c.frontend.trace import Trace
from n730c.ir.core import Attr, Node, Op

_WHOLE = sys.maxsize  # how ATen spells "to the end" in a slice


# --- values ---


class Layout(Enum):
    """Where the axes of an activation are; ``s`` tokens, features = heads · head_dim."""

    ROWS = "[1, s, features]"
    HEADS = "[1, s, heads, head_dim]"
    HEADS_FIRST = "[1, heads, s, head_dim]"


@dataclass(frozen=True)
class Ids:
    """The token ids."""


@dataclass(frozen=True)
class Length:
    """The number of tokens, s."""


@dataclass(frozen=True)
class Positions:
    """0 … s-1, along the one axis that is not of size 1."""


@dataclass(frozen=True)
class Weight:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """A tensor that the model computed for itself when it was built (``model.rotary_emb.inv_freq``)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Act:
    """An activation: the result of the IR node ``name``."""

    name: str
    width: int
    layout: Layout = Layout.ROWS
    head_dim: int = 0

    @property
    def heads(self) -> int:
        return self.width // self.head_dim


@dataclass(frozen=True)
class Norm:
    """RMSNorm on its way: ``stage`` is the last of x², mean(x²), mean(x²)+eps, 1/√(mean(x²)+eps), x/√(mean(x²)+eps)."""

    stage: str
    x: Act
    eps: float = 0.0


@dataclass(frozen=True)
class Angles:
    """positions × inverse frequencies ``[1, s, n]``; ``doubled``: twice side by side, ``[1, s, 2n]``."""

    inv_freq: Buffer
    doubled: bool = False


@dataclass(frozen=True)
class Wave:
    """cos or sin of doubled angles, times ``scaling``; ``axis`` is that of the tokens among ``dims``."""

    function: str
    inv_freq: Buffer
    scaling: float
    axis: int
    dims: int


@dataclass(frozen=True)
class Half:
    """The first or the second half of each head; ``negated``."""

    x: Act
    second: bool
    negated: bool = False


@dataclass(frozen=True)
class Rotated:
    """(-second half, first half) of each head."""

    x: Act


@dataclass(frozen=True)
class Waved:
    """x · cos, or rotated x · sin."""

    x: Act
    wave: Wave


Value = Any  # one of the above, a number, a dtype, or a list of these


def canonicalize(trace: Trace) -> tuple[list[Node], str, dict[str, tuple[int, ...]]]:
    """IR nodes of the traced layers, the name of the logits, and the shapes of the parameters and buffers met.

    Names of nodes of traced layer j start with ``l{j}_``. Raises UnsupportedModel as the module's docstring says.
    """
    return _Rewriter(trace).run()


class _Rewriter:
    """The state of one walk over the ATen graph: values by node, and the IR nodes emitted so far."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.values: dict[fx.Node, Value] = {}
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run(self) -> tuple[list[Node], str, dict[str, tuple[int, ...]]]:
        graph = self.trace.program.graph
        output = next(node for node in reversed(graph.nodes) if node.op == "output")
        live = _ancestors(output)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
            elif node.op == "call_function" and node in live:
                self.values[node] = self.rewrite(node)
        results = [self.values[node] for node in output.all_input_nodes]
        if len(results) != 1 or not isinstance(results[0], Act):
            raise UnsupportedModel("output of the model", expected="logits [1, s, vocab]", found=_words(results))
        return self.nodes, results[0].name, self.shapes

    def placeholder(self, node: fx.Node) -> Value:
        signature = self.trace.program.graph_signature
        value = node.meta["val"]
        if node.name in signature.inputs_to_parameters:
            return Weight(signature.inputs_to_parameters[node.name], tuple(value.shape))
        if node.name in signature.inputs_to_buffers:
            return Buffer(signature.inputs_to_buffers[node.name], tuple(value.shape))
        return Ids() if isinstance(value, torch.Tensor) else value

    def rewrite(self, node: fx.Node) -> Value:
        name = str(node.target).removesuffix(".default")
        rewrite = _TABLE.get(".".join(name.split(".")[:2]))
        arguments = [self.argument(argument) for argument in node.args]
        unknown = set(node.kwargs) - {
            "dtype",
            "layout",
            "device",
            "pin_memory",
            "memory_format",
            "non_blocking",
            "copy",
        }
        value = rewrite(self, node, *arguments) if rewrite and not unknown else None
        if value is None:
            where, kind = self.module(node)
            raise UnsupportedModel(
                f"ATen op {name} in {where or 'the model'} ({kind}) is not understood: operands {_words(arguments)}",
                hint="The compiler has no rewrite for it; see n730c/frontend/canonicalize.py.",
            )
        return value

    def argument(self, argument: Any) -> Value:
        if isinstance(argument, fx.Node):
            return self.values.get(argument)
        return [self.argument(item) for item in argument] if isinstance(argument, list | tuple) else argument

    def module(self, node: fx.Node) -> tuple[str, str]:
        """Path (with the layer's number in the whole model) and class of the module that an ATen node came from."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "no module")
        layer = self.layer(path)
        if layer is not None:
            prefix = f"{self.trace.layers_path}."
            path = f"{prefix}{self.trace.traced[layer]}{path.removeprefix(f'{prefix}{layer}')}"
        return path, str(kind).rpartition(".")[2]

    def layer(self, path: str) -> int | None:
        """The traced layer that a module path lies in."""
        rest = path.removeprefix(f"{self.trace.layers_path}.")
        return int(rest.split(".")[0]) if rest != path else None

    def emit(
        self,
        node: fx.Node,
        op: Op,
        inputs: Sequence[Act | Ids],
        width: int,
        params: Mapping[str, Weight | Buffer] | None = None,
        attrs: Mapping[str, Attr] | None = None,
    ) -> Act:
        """Append an IR node and give its result. It is named after its module where it has a weight, else after its op."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        layer = self.layer(path)
        names = tuple(x.name if isinstance(x, Act) else "ids" for x in inputs)
        stem = op.value
        if op is Op.ROPE:
            stem = f"{names[0].removeprefix(f'l{layer}_')}_rope"
        elif params and path:
            stem = path.rpartition(".")[2]
        name = base = stem if layer is None else f"l{layer}_{stem}"
        count = 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        self.shapes |= {tensor.name: tensor.shape for tensor in (params or {}).values()}
        roles = tuple((role, tensor.name) for role, tensor in (params or {}).items())
        self.nodes.append(Node(name, op, names, roles, tuple((attrs or {}).items()), width, layer, path))
        return Act(name, width)


def _ancestors(output: fx.Node) -> set[fx.Node]:
    live: set[fx.Node] = set()
    todo = [output]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo.extend(node.all_input_nodes)
    return live


def _words(values: Sequence[Value]) -> str:
    """Operands for an error text: what they are, not what they are called."""

    def word(value: Value) -> str:
        if isinstance(value, Act):
            return f"activation {value.layout.value}"
        if isinstance(value, Weight | Buffer):
            return f"{value.name} {list(value.shape)}"
        if isinstance(value, list):
            return f"[{_words(value)}]"
        return str(value) if isinstance(value, int | float | torch.dtype) else type(value).__name__

    return ", ".join(word(value) for value in values)


# --- rewrites: each takes (rewriter, ATen node, operands …) and gives a value, or None where it does not know them ---


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _token_axis(node: fx.Node) -> int | None:
    """The one axis of symbolic size."""
    axes = [axis for axis, size in enumerate(_shape(node)) if not isinstance(size, int)]
    return axes[0] if len(axes) == 1 else None


def _same(_: _Rewriter, __: fx.Node, x: Value, *___: Value) -> Value:
    return x


def _cast(_: _Rewriter, node: fx.Node, x: Value, *___: Value) -> Value:
    """The trace is FP32 throughout, so casts between float types are nothing; other casts are unknown."""
    return x if node.meta["val"].dtype == torch.float32 or isinstance(x, Positions | Ids) else None


def _view(_: _Rewriter, node: fx.Node, x: Value, *__: Value) -> Value:
    """view, reshape, unsqueeze, expand: only the shape changes; what it means depends on what ``x`` is."""
    shape, axis = _shape(node), _token_axis(node)
    if isinstance(x, Positions):
        return x if axis is not None and all(size == 1 for i, size in enumerate(shape) if i != axis) else None
    if isinstance(x, Wave):
        width = 2 * x.inv_freq.shape[0]
        fits = axis is not None and shape[-1] == width and all(s == 1 for i, s in enumerate(shape[:-1]) if i != axis)
        return replace(x, axis=axis, dims=len(shape)) if fits else None
    if not isinstance(x, Act) or axis != 1 or shape[0] != 1 or x.layout is Layout.HEADS_FIRST:
        return None
    if len(shape) == 3 and shape[2] == x.width:
        return Act(x.name, x.width)
    if len(shape) == 4 and shape[2] * shape[3] == x.width:
        return Act(x.name, x.width, Layout.HEADS, shape[3])
    return None


def _transpose(_: _Rewriter, __: fx.Node, x: Value, a: int, b: int) -> Value:
    swap = {Layout.HEADS: Layout.HEADS_FIRST, Layout.HEADS_FIRST: Layout.HEADS}
    if isinstance(x, Act) and x.layout in swap and sorted((a % 4, b % 4)) == [1, 2]:
        return replace(x, layout=swap[x.layout])
    return None


def _slice(_: _Rewriter, node: fx.Node, x: Value, dim: int = 0, lo: Any = None, hi: Any = None, step: int = 1) -> Value:
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


def _cat(_: _Rewriter, node: fx.Node, parts: Value, dim: int = 0) -> Value:
    match parts:
        case [Half(x=x, second=True, negated=True), Half(x=y, second=False, negated=False)] if x == y and dim in (
            -1,
            3,
        ):
            return Rotated(x)
        case [Angles(doubled=False) as angles, Angles() as other] if angles == other and dim in (-1, 2):
            return replace(angles, doubled=True)
    return None


def _neg(_: _Rewriter, __: fx.Node, x: Value) -> Value:
    return replace(x, negated=True) if isinstance(x, Half) and not x.negated else None


def _arange(_: _Rewriter, __: fx.Node, *bounds: Value) -> Value:
    return Positions() if bounds in ((Length(),), (0, Length())) else None


def _wave(function: str) -> Callable[..., Value]:
    def rewrite(_: _Rewriter, node: fx.Node, x: Value) -> Value:
        fits = isinstance(x, Angles) and x.doubled and _token_axis(node) == 1
        return Wave(function, x.inv_freq, 1.0, axis=1, dims=3) if fits else None

    return rewrite


def _carries(x: Act, wave: Wave) -> bool:
    """Whether a wave lies along the tokens and the whole heads of ``x``."""
    axis = {Layout.HEADS: 1, Layout.HEADS_FIRST: 2}.get(x.layout)
    return wave.dims == 4 and wave.axis == axis and x.head_dim == 2 * wave.inv_freq.shape[0]


def _mul(rewriter: _Rewriter, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), Buffer(shape=(_,)):
                return Angles(right)
            case Wave(), float() | int():
                return replace(left, scaling=left.scaling * right)
            case Act(), Norm(stage="inverse", x=x) if x == left:
                return replace(right, stage="normalized")
            case Weight(), Norm(stage="normalized", x=x):
                return rewriter.emit(node, Op.RMS_NORM, [x], x.width, {"weight": left}, {"eps": right.eps})
            case Act(), Wave(function="cos") if _carries(left, right):
                return Waved(left, right)
            case Rotated(), Wave(function="sin") if _carries(left.x, right):
                return Waved(left.x, right)
    return _elementwise(rewriter, node, Op.MUL, a, b)


def _add(rewriter: _Rewriter, node: fx.Node, a: Value, b: Value) -> Value:
    for left, right in ((a, b), (b, a)):
        match left, right:
            case Positions(), 0:
                return left
            case Norm(stage="mean"), float():
                return replace(left, stage="variance", eps=right)
            case Waved(wave=Wave(function="cos")), Waved(wave=Wave(function="sin")):
                if left.x == right.x and replace(left.wave, function="sin") == right.wave:
                    return _emit_rope(rewriter, node, left.x, left.wave)
    return _elementwise(rewriter, node, Op.ADD, a, b)


def _emit_rope(rewriter: _Rewriter, node: fx.Node, x: Act, wave: Wave) -> Act:
    attrs = {"heads": x.heads, "head_dim": x.head_dim, "rotary_dim": x.head_dim, "scaling": float(wave.scaling)}
    rope = rewriter.emit(node, Op.ROPE, [x], x.width, {"inv_freq": wave.inv_freq}, attrs)
    return replace(rope, layout=x.layout, head_dim=x.head_dim)


def _elementwise(rewriter: _Rewriter, node: fx.Node, op: Op, a: Value, b: Value) -> Value:
    rows = all(isinstance(x, Act) and x.layout is Layout.ROWS for x in (a, b))
    return rewriter.emit(node, op, [a, b], a.width) if rows and a.width == b.width else None


def _pow(_: _Rewriter, __: fx.Node, x: Value, exponent: Value) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    return Norm("square", x) if rows and exponent == 2 else None


def _mean(_: _Rewriter, __: fx.Node, x: Value, dims: Value, keep: bool = False) -> Value:
    fits = isinstance(x, Norm) and x.stage == "square" and dims in ([-1], [2]) and keep
    return replace(x, stage="mean") if fits else None


def _rsqrt(_: _Rewriter, __: fx.Node, x: Value) -> Value:
    return replace(x, stage="inverse") if isinstance(x, Norm) and x.stage == "variance" else None


def _embedding(rewriter: _Rewriter, node: fx.Node, weight: Value, ids: Value, *_: Value) -> Value:
    if not isinstance(weight, Weight) or not isinstance(ids, Ids):
        return None
    return rewriter.emit(node, Op.EMBEDDING, [ids], weight.shape[1], {"weight": weight})


def _linear(rewriter: _Rewriter, node: fx.Node, x: Value, weight: Value, bias: Value = None) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    if not rows or not isinstance(weight, Weight) or not isinstance(bias, Weight | None):
        return None
    params = {"weight": weight} | ({"bias": bias} if bias is not None else {})
    return rewriter.emit(node, Op.LINEAR, [x], weight.shape[0], params)


def _silu(rewriter: _Rewriter, node: fx.Node, x: Value) -> Value:
    rows = isinstance(x, Act) and x.layout is Layout.ROWS
    return rewriter.emit(node, Op.SILU, [x], x.width) if rows else None


def _attention(rewriter: _Rewriter, node: fx.Node, q: Value, k: Value, v: Value, scale: float, window: int) -> Value:
    if not all(isinstance(x, Act) and x.layout is Layout.HEADS_FIRST for x in (q, k, v)):
        return None
    if 0 < window < rewriter.trace.context:
        where, kind = rewriter.module(node)
        raise UnsupportedModel(
            f"sliding-window attention in {where} ({kind})",
            expected=f"a window of at least the context of {rewriter.trace.context} tokens",
            found=f"{window} tokens",
        )
    attrs = {"heads": q.heads, "kv_heads": k.heads, "head_dim": q.head_dim, "scale": scale}
    result = rewriter.emit(node, Op.ATTENTION, [q, k, v], q.width, None, attrs)
    return replace(result, layout=Layout.HEADS, head_dim=q.head_dim)


_TABLE: Mapping[str, Callable[..., Value]] = {
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
    "aten.alias": _same,
    "aten.contiguous": _same,
    "aten.clone": _same,
    "aten.detach": _same,
}
