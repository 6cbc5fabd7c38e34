"""Lower a graph and its precisions to the runtime's program: tensors, segments, buffers, caches and steps.

Every IR value becomes one F32 buffer; a value that integer matrices read gets one Q8 or Q16 twin, quantized once and
shared by all of them. Buffers are virtual here: ``plan.py`` gives them addresses and lets them share bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from n730c.artifacts import (
    NONE,
    Buffer,
    BufferKind,
    Cache,
    KernelSpec,
    Program,
    Scope,
    Segment,
    Step,
    StepOp,
    Tensor,
    UnaryFunction,
    block_name,
    segment_layout,
)
from n730c.dtypes import TILE_ROWS, Format, matrix_bytes, round_up
from n730c.errors import InvalidIR, UnsupportedModel
from n730c.ir.core import Graph, Node, Op
from n730c.passes.lower_experts import lower_experts

# A segment is cut at a layer's border and when it would pass this size; a matrix of the body that is larger is cut into
# blocks of rows. Large enough for one read to be worth its while, small enough that a ring of a few takes little RAM.
SEGMENT_BYTES = 8 << 20

_UNARY = {
    Op.GELU: UnaryFunction.GELU,
    Op.GELU_TANH: UnaryFunction.GELU_TANH,
    Op.RELU: UnaryFunction.RELU,
    Op.RELU_SQUARED: UnaryFunction.RELU_SQUARED,
    Op.SCALE: UnaryFunction.SCALE,
    Op.SOFTCAP: UnaryFunction.SOFTCAP,
}
_NORMS = {Op.RMS_NORM: StepOp.RMS_NORM, Op.LAYER_NORM: StepOp.LAYER_NORM}
_ELEMENTWISE = {
    **{Op.ADD: StepOp.ADD, Op.MUL: StepOp.MUL, Op.SILU: StepOp.SILU, Op.SILU_MUL: StepOp.SILU_MUL},
    Op.GATE: StepOp.GATE,
}


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A tensor's shape with all axes but the last taken together, as it is stored."""
    return (math.prod(shape[:-1]), shape[-1]) if len(shape) > 1 else shape


class _Lowering:
    """State of one lowering; ``lower`` is the only user."""

    def __init__(
        self, graph: Graph, formats: Mapping[str, Format], kv: Format, segment_bytes: int, wide: Collection[str]
    ) -> None:
        self.kv = kv
        self.wide = wide
        self.segment_bytes = segment_bytes
        self.graph = graph
        self.formats = formats
        self.shapes = {p.name: _matrix(p.shape) for p in graph.params}
        self.consts = {c.name: c.values for c in graph.consts}
        self.tensors: list[Tensor] = []
        self.tensor_layer: list[int] = []  # the layer that reads it first; below 0: an expert of its own
        self.tensor_ids: dict[str, int] = {}
        self.buffers: list[Buffer] = []
        self.values: dict[str, int] = {}
        self.quantized: dict[int, int] = {}
        self.in_16_bits: set[int] = set()  # buffers whose twin is Q16
        self.tables: dict[tuple[str, float], int] = {}
        self.caches: list[Cache] = []
        self.kernels: list[KernelSpec] = []
        self.steps: list[Step] = []
        self.scope = Scope.BODY

    def tensor(self, source: str, layer: int, rows: tuple[int, int] | None = None) -> int:
        """The id of a tensor, or of a block of its rows."""
        name = source if rows is None else block_name(source, *rows)
        if name not in self.tensor_ids:
            if source in self.consts:
                made = Tensor(name, Format.F32, 1, len(self.consts[source]), is_vector=True)
            else:
                height, *width = self.shapes[source]
                height = height if rows is None else rows[1] - rows[0]
                if width:
                    made = Tensor(name, self.formats[source], height, width[0], is_vector=False)
                else:
                    made = Tensor(name, Format.F32, 1, height, is_vector=True)
            self.tensor_ids[name] = len(self.tensors)
            self.tensors.append(made)
            self.tensor_layer.append(layer)
        return self.tensor_ids[name]

    def buffer(self, kind: BufferKind, width: int) -> int:
        self.buffers.append(Buffer(kind, self.scope, width))
        return len(self.buffers) - 1

    def q8(self, source: int, layer: int) -> int:
        """The quantized twin of an F32 buffer; made where it is first asked for."""
        if source not in self.quantized:
            kind = BufferKind.Q16 if source in self.in_16_bits else BufferKind.Q8
            out = self.buffer(kind, self.buffers[source].width)
            self.steps.append(Step(StepOp.QUANTIZE, (source,), out, layer=layer))
            self.quantized[source] = out
        return self.quantized[source]

    def kernel(self, fmt: Format, rows: int, cols: int) -> int:
        spec = KernelSpec(StepOp.LINEAR, fmt, rows, cols)
        if spec not in self.kernels:
            self.kernels.append(spec)
        return self.kernels.index(spec)

    def blocks(self, name: str, fmt: Format) -> list[tuple[int, int]]:
        """First and last row (exclusive) of the parts that a matrix is stored in."""
        rows, cols = self.shapes[name]
        count = -(-matrix_bytes(fmt, rows, cols) // self.segment_bytes)
        if self.scope is Scope.HEAD or name in self.tensor_ids:  # the head stays in RAM; EMBED wants one matrix
            count = 1
        height = round_up(-(-rows // count), TILE_ROWS)
        return [(first, min(first + height, rows)) for first in range(0, rows, height)]

    def linear(self, params: Mapping[str, str], first: int, last: int, source: int, out: int, layer: int) -> Step:
        """Rows ``first`` to ``last`` of a product."""
        whole = last - first == self.shapes[params["weight"]][0]
        rows = None if whole else (first, last)
        weight = self.tensor(params["weight"], layer, rows)
        bias = self.tensor(params["bias"], layer, rows) if "bias" in params else NONE
        stored = self.tensors[weight]
        kernel = self.kernel(stored.format, stored.rows, stored.cols)
        return Step(StepOp.LINEAR, (source,), out, weight=weight, bias=bias, layer=layer, ints=(first,), kernel=kernel)

    def rope_table(self, const: str, scaling: float, layer: int) -> int:
        """cos and sin of the batch's positions: computed once a pass, shared by all layers."""
        key = (const, scaling)
        if key not in self.tables:
            out = self.buffer(BufferKind.F32, 2 * len(self.consts[const]))
            self.steps.append(Step(StepOp.ROPE_TABLE, (), out, weight=self.tensor(const, layer), floats=(scaling,)))
            self.tables[key] = out
        return self.tables[key]

    def node(self, node: Node) -> None:
        layer = NONE if node.layer is None else node.layer
        inputs = tuple(self.values[name] for name in node.inputs if name not in self.graph.inputs)
        attrs = dict(node.attrs)
        params = dict(node.params)
        if node.op is Op.EMBEDDING:
            weight = self.tensor(params["weight"], layer)
            step = Step(StepOp.EMBED, (), self.buffer(BufferKind.F32, node.width), weight=weight, layer=layer)
        elif node.op is Op.POSITIONS:
            weight = self.tensor(params["weight"], layer)
            out = self.buffer(BufferKind.F32, node.width)
            step = Step(StepOp.EMBED, (), out, weight=weight, layer=layer, ints=(1,))
        elif node.op in _NORMS:
            weight = self.tensor(params["weight"], layer)
            bias = self.tensor(params["bias"], layer) if "bias" in params else NONE
            out, eps = self.buffer(BufferKind.F32, node.width), (float(attrs["eps"]),)
            step = Step(_NORMS[node.op], inputs, out, weight=weight, bias=bias, floats=eps, layer=layer)
        elif node.op is Op.LINEAR:
            fmt = self.formats[params["weight"]]
            source = self.q8(inputs[0], layer) if fmt.is_integer else inputs[0]
            out = self.buffer(BufferKind.F32, node.width)
            blocks = self.blocks(params["weight"], fmt)
            for first, last in blocks[:-1]:
                self.steps.append(self.linear(params, first, last, source, out, layer))
            step = self.linear(params, *blocks[-1], source, out, layer)
        elif node.op is Op.ROPE:
            table = self.rope_table(params["inv_freq"], float(attrs["scaling"]), layer)
            ints = tuple(int(attrs.get(key, 0)) for key in ("heads", "head_dim", "rotary_dim", "pairs"))
            step = Step(StepOp.ROPE, (*inputs, table), self.buffer(BufferKind.F32, node.width), ints=ints, layer=layer)
        elif node.op is Op.ATTENTION:
            q, k, v = inputs
            cache = len(self.caches)
            size = int(attrs["head_dim"])
            if size % 8 or not 8 <= size <= 1024:  # FORMAT.md, CACHES
                what, limits = "the size of the attention's heads", "a multiple of 8, at most 1024"
                raise UnsupportedModel(what, expected=limits, found=str(size))
            window = int(attrs["window"]) if int(attrs["window"]) < self.graph.context else 0
            self.caches.append(Cache(int(attrs["kv_heads"]), size, window, self.kv))
            self.steps.append(Step(StepOp.KV_STORE, (k, v), NONE, ints=(cache,), layer=layer))
            out = self.buffer(BufferKind.F32, node.width)
            which = (cache, int(attrs["heads"]))
            floats = (float(attrs["scale"]), float(attrs.get("softcap", 0)))
            step = Step(StepOp.ATTENTION, (q,), out, ints=which, floats=floats, layer=layer)
        elif node.op is Op.ROUTE:
            kept = (int(attrs["top_k"]), int(attrs["normalized"]))
            step = Step(StepOp.ROUTE, inputs, self.buffer(BufferKind.F32, node.width), ints=kept, layer=layer)
        elif node.op is Op.EXPERTS:
            self.values[node.name] = lower_experts(self, inputs, params, layer)
            return
        elif node.op in _UNARY:
            out, number = self.buffer(BufferKind.F32, node.width), float(next(iter(attrs.values()), 0.0))
            step = Step(StepOp.UNARY, inputs, out, ints=(_UNARY[node.op],), floats=(number,), layer=layer)
        elif node.op in _ELEMENTWISE:
            step = Step(_ELEMENTWISE[node.op], inputs, self.buffer(BufferKind.F32, node.width), layer=layer)
        else:
            raise InvalidIR(f"node {node.name}: no lowering for op {node.op.value}")
        self.steps.append(step)
        self.values[node.name] = step.out
        if node.name in self.wide:
            self.in_16_bits.add(step.out)


def _head_first(graph: Graph) -> int:
    """Index of the first node behind the last layer; from there on only tokens whose logits are wanted are computed."""
    in_layers = [i for i, node in enumerate(graph.nodes) if node.layer is not None]
    if not in_layers or in_layers[-1] + 1 >= len(graph.nodes):
        raise InvalidIR("the graph has no head behind its layers", expected="a final norm and a linear layer")
    return in_layers[-1] + 1


def _segments(tensors: list[Tensor], layers: list[int], segment_bytes: int) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    first = 0
    for i in range(1, len(tensors) + 1):
        group = tensors[first:i]
        full = i < len(tensors) and layers[i] >= 0 and segment_layout([*group, tensors[i]])[1] > segment_bytes
        # An embedding that is read by rows needs a segment of its own.
        if i == len(tensors) or full or layers[i] != layers[i - 1] or i == 1:
            segments.append(Segment(first, i - first, segment_layout(group)[1]))
            first = i
    return tuple(segments)


def lower(
    graph: Graph,
    formats: Mapping[str, Format],
    kv: Format = Format.F16,
    segment_bytes: int = SEGMENT_BYTES,
    wide: Collection[str] = (),
) -> Program:
    """The program of ``graph`` with its tensors in the formats given (by name). Pure.

    Raises InvalidIR, and UnsupportedModel for what no kernel computes.

    ``kv``: how keys and values are cached, one of CACHE_FORMATS. ``wide``: values that matrices read in 16 bits.
    """
    state = _Lowering(graph, formats, kv, segment_bytes, wide)
    head = _head_first(graph)
    head_step = 0
    for i, node in enumerate(graph.nodes):
        if i == head:
            head_step = len(state.steps)
            state.scope = Scope.HEAD
            state.quantized.clear()  # a twin made in the body would hold another batch's tokens
        state.node(node)
    return Program(
        tensors=tuple(state.tensors),
        segments=_segments(state.tensors, state.tensor_layer, segment_bytes),
        buffers=tuple(state.buffers),
        caches=tuple(state.caches),
        steps=tuple(state.steps),
        kernels=tuple(state.kernels),
        head_first=head_step,
        vocab=graph.vocab,
    )
