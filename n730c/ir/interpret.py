"""The interpreter: runs a graph in numpy FP32, weight by weight. Slow, plain, and the truth for every kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from n730c.errors import InvalidIR
from n730c.ir.core import Graph, Node
from n730c.ir.ops import OPS, Array


def interpret(graph: Graph, ids: npt.ArrayLike, weights: Callable[[str], Array]) -> Array:
    """Logits float32 ``[s, vocab]`` of one sequence of token ids ``[s]`` (integers, 0 … vocab-1).

    ``weights(name)`` gives a tensor as float32 in the shape that the graph states; it is asked for once a use,
    just before it, and dropped right after. Values are freed after their last use.
    Raises InvalidIR for ids outside the vocabulary or of the wrong shape, and for a tensor of the wrong shape.
    """
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise InvalidIR("token ids", expected="integers [s], s >= 1", found=f"{tokens.dtype} {list(tokens.shape)}")
    if tokens.min() < 0 or tokens.max() >= graph.vocab:
        raise InvalidIR("token ids", expected=f"0 ... {graph.vocab - 1}", found=f"{tokens.min()} ... {tokens.max()}")
    shapes = {p.name: p.shape for p in graph.params}
    consts = {c.name: np.array(c.values, dtype=np.float32) for c in graph.consts}
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs} | {
        graph.output: len(graph.nodes)
    }

    def load(name: str) -> Array:
        if name in consts:
            return consts[name]
        tensor = np.asarray(weights(name), dtype=np.float32)
        if tensor.shape != shapes[name]:
            raise InvalidIR(f"tensor {name}", expected=str(shapes[name]), found=str(tensor.shape))
        return tensor

    def compute(node: Node) -> Array:  # a scope of its own: operands and weights are let go when it ends
        operands = tuple(values[name] for name in node.inputs)
        params = {role: load(name) for role, name in node.params}
        return OPS[node.op].reference(operands, params, dict(node.attrs))  # type: ignore[arg-type]  # ids are integers

    values: dict[str, npt.NDArray[np.generic]] = dict.fromkeys(graph.inputs, tokens)
    for i, node in enumerate(graph.nodes):
        values[node.name] = compute(node)
        for name in {node.name, *node.inputs}:
            if last_use.get(name, -1) <= i:
                del values[name]
    return values[graph.output].astype(np.float32, copy=False)
