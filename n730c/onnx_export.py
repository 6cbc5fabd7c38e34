"""The IR as an ONNX graph: for other tools, and as an oracle that shares no code with the interpreter.

The graph has one input, ``ids`` int64 ``[s]``, and one output, ``logits`` float32 ``[s, vocab]``; positions are 0 … s-1
and come from the number of ids.
Weights are float32, inside the file while they are small, else in a file beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from n730c.errors import N730Error, UsageError
from n730c.files import destination, write_whole
from n730c.frontend.model import load_model
from n730c.ir.core import Graph, Node, Op

OPSET = 18
MOST_INSIDE = 1 << 30  # bytes of weights; a protobuf holds at most 2 GiB
MAGIC = b"\x08"  # the first field of a model: its version
Array = np.ndarray[Any, Any]


class _Writer:
    """Grows the ONNX graph; ``lines`` are its nodes in order."""

    def __init__(self, graph: Graph, tensors: dict[str, TensorProto]) -> None:
        self.graph = graph
        self.lines: list[onnx.NodeProto] = []
        self.tensors = tensors
        self.shared: dict[object, Any] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> str:
        """One node; the name of its first result."""
        stem = name or f"{kind}_{len(self.lines)}"
        names = [stem, *(f"{stem}_{i}" for i in range(1, outputs))]
        self.lines.append(helper.make_node(kind, inputs, names, name=stem, **attributes))
        return stem

    def const(self, values: Any, dtype: type = np.float32) -> str:
        array: Array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.shared:
            name = f"const_{len(self.tensors)}"
            self.tensors[name] = onnx.numpy_helper.from_array(array, name)
            self.shared[key] = name
        return str(self.shared[key])

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.const(shape, np.int64))

    def slice(self, x: str, axis: int, first: int, last: int, step: int = 1) -> str:
        bounds = (self.const([value], np.int64) for value in (first, last, axis, step))
        return self.op("Slice", x, *bounds)

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    @property
    def positions(self) -> str:
        """int64 [s]"""

        def make() -> str:
            length = self.op("Squeeze", self.op("Shape", "ids"))
            return self.op("Range", self.const(0, np.int64), length, self.const(1, np.int64))

        return str(self.once("positions", make))

    def waves(self, const: str, scaling: float) -> tuple[str, str]:
        """cos and sin, [s, 1, n]"""

        def make() -> tuple[str, str]:
            column = self.op(
                "Unsqueeze", self.op("Cast", self.positions, to=TensorProto.FLOAT), self.const([1, 2], np.int64)
            )
            angles = self.op("Mul", column, const)
            cos, sin = (self.op("Mul", self.op(kind, angles), self.const(scaling)) for kind in ("Cos", "Sin"))
            return cos, sin

        both: tuple[str, str] = self.once((const, scaling), make)
        return both

    def hidden(self, window: int) -> str:
        """What a token does not see: the future, and what the window has left; bool [s, s]."""

        def make() -> str:
            row, column = (self.op("Unsqueeze", self.positions, self.const([axis], np.int64)) for axis in (0, 1))
            back = self.op("Sub", column, row)
            future = self.op("Less", back, self.const(0, np.int64))
            return self.op("Or", future, self.op("GreaterOrEqual", back, self.const(window, np.int64)))

        return str(self.once(("hidden", window), make))


def _norm(w: _Writer, node: Node, x: str, params: dict[str, str], attrs: dict[str, Any]) -> str:
    """Each as many features as the weight has by themselves."""
    size = w.tensors[params["weight"]].dims[0]
    x = w.reshape(x, -1, node.width // size, size)
    if node.op is Op.LAYER_NORM:
        y = w.op("LayerNormalization", x, params["weight"], *([params["bias"]] if "bias" in params else []),
                 axis=-1, epsilon=attrs["eps"])  # fmt: skip
    else:
        mean = w.op("ReduceMean", w.op("Mul", x, x), w.const([-1], np.int64), keepdims=1)
        root = w.op("Sqrt", w.op("Add", mean, w.const(attrs["eps"])))
        y = w.op("Mul", w.op("Div", x, root), params["weight"])
    return w.reshape(y, -1, node.width)


def _rope(w: _Writer, node: Node, x: str, params: dict[str, str], attrs: dict[str, Any]) -> str:
    cos, sin = w.waves(params["inv_freq"], attrs["scaling"])
    heads, dim, rotary = attrs["heads"], attrs["head_dim"], attrs["rotary_dim"]
    x = w.reshape(x, -1, heads, dim)
    if attrs.get("pairs"):
        a, b = w.slice(x, 2, 0, rotary, 2), w.slice(x, 2, 1, rotary, 2)
    else:
        a, b = w.slice(x, 2, 0, rotary // 2), w.slice(x, 2, rotary // 2, rotary)
    first = w.op("Sub", w.op("Mul", a, cos), w.op("Mul", b, sin))
    second = w.op("Add", w.op("Mul", b, cos), w.op("Mul", a, sin))
    if attrs.get("pairs"):
        both = [w.op("Unsqueeze", half, w.const([3], np.int64)) for half in (first, second)]
        turned = [w.reshape(w.op("Concat", *both, axis=3), -1, heads, rotary)]
    else:
        turned = [first, second]
    rest = [w.slice(x, 2, rotary, dim)] if rotary < dim else []
    return w.reshape(w.op("Concat", *turned, *rest, axis=2), -1, node.width)


def _attention(w: _Writer, node: Node, q: str, k: str, v: str, attrs: dict[str, Any]) -> str:
    heads, kv_heads, dim = attrs["heads"], attrs["kv_heads"], attrs["head_dim"]
    q = w.op("Transpose", w.reshape(q, -1, kv_heads, heads // kv_heads, dim), perm=[1, 2, 0, 3])
    k = w.op("Transpose", w.reshape(k, -1, kv_heads, 1, dim), perm=[1, 2, 3, 0])
    v = w.op("Transpose", w.reshape(v, -1, kv_heads, 1, dim), perm=[1, 2, 0, 3])
    scores = w.op("Mul", w.op("MatMul", q, k), w.const(attrs["scale"]))
    if "softcap" in attrs:
        scores = _softcap(w, scores, attrs["softcap"])
    scores = w.op("Where", w.hidden(attrs["window"]), w.const(-np.inf), scores)
    mixed = w.op("MatMul", w.op("Softmax", scores, axis=-1), v)
    return w.reshape(w.op("Transpose", mixed, perm=[2, 0, 1, 3]), -1, node.width)


def _softcap(w: _Writer, x: str, cap: float) -> str:
    return w.op("Mul", w.op("Tanh", w.op("Div", x, w.const(cap))), w.const(cap))


def _silu(w: _Writer, x: str) -> str:
    return w.op("Mul", x, w.op("Sigmoid", x))


def _gelu(w: _Writer, x: str, inner: str) -> str:
    return w.op("Mul", w.op("Mul", x, w.const(0.5)), w.op("Add", inner, w.const(1.0)))


def _gelu_tanh(w: _Writer, x: str) -> str:
    cube = w.op("Mul", w.op("Mul", x, w.op("Mul", x, x)), w.const(0.044715))
    return _gelu(w, x, w.op("Tanh", w.op("Mul", w.op("Add", x, cube), w.const(math.sqrt(2 / math.pi)))))


def _node(w: _Writer, node: Node) -> str:
    """The nodes of one IR node; the name of the result."""
    inputs, params, attrs = list(node.inputs), dict(node.params), dict(node.attrs)
    x = inputs[0]
    match node.op:
        case Op.EMBEDDING:
            return w.op("Gather", params["weight"], x)
        case Op.POSITIONS:
            return w.op("Gather", params["weight"], w.positions)
        case Op.LINEAR:
            return w.op("Gemm", x, params["weight"], *([params["bias"]] if "bias" in params else []), transB=1)
        case Op.SLICE:
            whole = w.reshape(x, -1, int(attrs["blocks"]), w.graph.node(x).width // int(attrs["blocks"]))
            return w.reshape(
                w.slice(whole, 2, int(attrs["first"]), int(attrs["first"] + attrs["count"])), -1, node.width
            )
        case Op.RMS_NORM | Op.LAYER_NORM:
            return _norm(w, node, x, params, attrs)
        case Op.ROPE:
            return _rope(w, node, x, params, attrs)
        case Op.ATTENTION:
            return _attention(w, node, inputs[0], inputs[1], inputs[2], attrs)
        case Op.SILU:
            return _silu(w, x)
        case Op.GELU:
            return _gelu(w, x, w.op("Erf", w.op("Mul", x, w.const(math.sqrt(0.5)))))
        case Op.GELU_TANH:
            return _gelu_tanh(w, x)
        case Op.RELU:
            return w.op("Relu", x)
        case Op.RELU_SQUARED:
            return w.op("Mul", w.op("Relu", x), w.op("Relu", x))
        case Op.SCALE:
            return w.op("Mul", x, w.const(attrs["factor"]))
        case Op.SOFTCAP:
            return _softcap(w, x, float(attrs["cap"]))
        case Op.MUL:
            return w.op("Mul", *inputs)
        case Op.ADD:
            return w.op("Add", *inputs)
        case Op.SILU_MUL:
            return w.op("Mul", _silu(w, x), inputs[1])
    raise N730Error(f"op {node.op.value} of node %{node.name} has no ONNX form yet", hint="Take a model without it.")


def to_onnx(graph: Graph, tensors: dict[str, TensorProto]) -> onnx.ModelProto:
    """``graph`` as a model; ``tensors`` holds a float32 initializer for each of its params, by name."""
    consts = {c.name: onnx.numpy_helper.from_array(np.array(c.values, np.float32), c.name) for c in graph.consts}
    w = _Writer(graph, {**tensors, **consts})
    for node in graph.nodes:
        result = _node(w, node)
        w.op("Identity", result, name="logits" if node.name == graph.output else node.name)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["s"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["s", graph.vocab])
    body = helper.make_graph(w.lines, graph.name or "model", [ids], [logits], list(w.tensors.values()))
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="n730c", ir_version=8)


def _outside(name: str, values: Array, data: IO[bytes], file: str) -> TensorProto:
    """A tensor whose bytes are written to ``data``."""
    offset = data.tell()
    data.write(values.astype("<f4", copy=False).tobytes())
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(data.tell() - offset))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def export(model: Path, output: Path, most_inside: int = MOST_INSIDE) -> Sequence[Path]:
    """Write the model in the folder ``model`` as ONNX; the files written, ``output`` last.

    Raises UsageError where ``output`` may not go, UnsupportedModel for what is not understood; leaves no partial file.
    """
    output = destination(output, MAGIC, "ONNX model", "-o")
    graph, checkpoint = load_model(model)
    if 4 * sum(math.prod(p.shape) for p in graph.params) <= most_inside:
        tensors = {p.name: onnx.numpy_helper.from_array(checkpoint.tensor(p.name), p.name) for p in graph.params}
        _write(output, to_onnx(graph, tensors))
        return (output,)
    beside = output.with_name(output.name + ".data")
    unfinished = beside.with_name(beside.name + ".unfinished")
    try:
        with unfinished.open("wb") as data:
            tensors = {p.name: _outside(p.name, checkpoint.tensor(p.name), data, beside.name) for p in graph.params}
        content = to_onnx(graph, tensors)
        unfinished.replace(beside)
    except OSError as error:
        raise _unwritable(beside, error) from error
    finally:
        unfinished.unlink(missing_ok=True)
    _write(output, content)
    return beside, output


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write {path}", found=error.strerror or str(error), hint="Name another file with -o.")


def _write(output: Path, model: onnx.ModelProto) -> None:
    try:
        write_whole(output, model.SerializeToString())
    except OSError as error:
        raise _unwritable(output, error) from error
