"""The verifier: what every graph must satisfy, checked before and after each pass."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from n730c.errors import InvalidIR
from n730c.ir.core import Graph, Node
from n730c.ir.ops import OPS, OpSpec, ShapeMismatch


def verify(graph: Graph) -> None:
    """Raise InvalidIR, naming the node, what was expected and what was found, unless ``graph`` keeps all rules.

    The rules: names are unique; values are defined before they are used; arity, params and attributes are those of
    the op; widths follow the shape rules; the params and consts listed are those used; the output is [s, vocab].
    """
    _unique("param or const", [p.name for p in graph.params] + [c.name for c in graph.consts])
    _unique("value", [*graph.inputs, *(node.name for node in graph.nodes)])
    for param in graph.params:
        if not param.shape or any(size < 1 for size in param.shape):
            raise InvalidIR(f"param {param.name}: shape", expected="positive sizes", found=str(param.shape))
    for const in graph.consts:
        if not const.values or not all(math.isfinite(v) and float(np.float32(v)) == v for v in const.values):
            raise InvalidIR(f"const {const.name}: values", expected="finite float32 numbers", found="others or none")
    shapes = {p.name: p.shape for p in graph.params} | {c.name: (len(c.values),) for c in graph.consts}
    widths: dict[str, int] = {}
    for node in graph.nodes:
        spec = OPS[node.op]
        _check_inputs(graph, node, spec, widths)
        _check_params(graph, node, spec)
        _check_attrs(node, spec)
        try:
            width = spec.width(
                tuple(widths.get(name, 0) for name in node.inputs),
                {role: shapes[name] for role, name in node.params},
                dict(node.attrs),
            )
        except ShapeMismatch as mismatch:
            raise _fault(node, mismatch.what, mismatch.expected, mismatch.found) from None
        if width != node.width:
            raise _fault(node, "features of the result", width, node.width)
        if spec.takes_positions and shapes[dict(node.params)["weight"]][0] < graph.context:
            raise _fault(node, "rows of weight (the context)", graph.context, shapes[dict(node.params)["weight"]][0])
        if spec.takes_ids and shapes[dict(node.params)["weight"]][0] != graph.vocab:
            raise _fault(node, "rows of weight (the vocabulary)", graph.vocab, shapes[dict(node.params)["weight"]][0])
        widths[node.name] = width
    _check_whole(graph, widths)


def _fault(node: Node, what: str, expected: object, found: object) -> InvalidIR:
    return InvalidIR(f"node %{node.name} ({node.op.value}): {what}", expected=str(expected), found=str(found))


def _unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            raise InvalidIR(f"{kind} name {name!r}", expected="one definition", found="two" if name else "no name")
        seen.add(name)


def _check_inputs(graph: Graph, node: Node, spec: OpSpec, widths: dict[str, int]) -> None:
    if len(node.inputs) != spec.arity:
        raise _fault(node, "number of inputs", spec.arity, len(node.inputs))
    for name in node.inputs:
        takes_ids = spec.takes_ids or spec.takes_positions
        if takes_ids and name not in graph.inputs:
            raise _fault(node, "input", "the token ids " + " ".join(f"%{i}" for i in graph.inputs), f"%{name}")
        if not takes_ids and name not in widths:
            raise _fault(node, "input", "a value defined by an earlier node", f"%{name}")


def _check_params(graph: Graph, node: Node, spec: OpSpec) -> None:
    roles = [role for role, _ in node.params]
    required = {*spec.params, *spec.consts}
    if len(roles) != len(set(roles)) or not required <= set(roles) <= required | set(spec.optional):
        raise _fault(node, "params", " ".join(sorted(required)) or "none", " ".join(roles) or "none")
    params, consts = {p.name for p in graph.params}, {c.name for c in graph.consts}
    for role, name in node.params:
        # A norm without a weight of its own gets a const of ones.
        kind, known = ("const", consts) if role in spec.consts else ("param", params | consts)
        if name not in known:
            raise _fault(node, role, f"a {kind} of the graph", name)


def _check_attrs(node: Node, spec: OpSpec) -> None:
    keys = [key for key, _ in node.attrs]
    needed = {**spec.attrs, **spec.natural}
    types = {**needed, **spec.may_have}
    if len(keys) != len(set(keys)) or not needed.keys() <= set(keys) <= types.keys():
        raise _fault(node, "attributes", " ".join(sorted(needed)) or "none", " ".join(keys) or "none")
    for key, value in node.attrs:
        if type(value) is not types[key]:
            raise _fault(node, f"type of {key}", types[key].__name__, type(value).__name__)
        if not isinstance(value, bool) and not (
            math.isfinite(value) and (value > 0 or (key in spec.natural and value == 0))
        ):
            raise _fault(node, key, "a positive number", value)


def _check_whole(graph: Graph, widths: dict[str, int]) -> None:
    if graph.output not in widths:
        raise InvalidIR("output", expected="the name of a node", found=f"%{graph.output}")
    if widths[graph.output] != graph.vocab:
        raise _fault(
            graph.node(graph.output), "features of the output (the vocabulary)", graph.vocab, widths[graph.output]
        )
    if graph.context < 1:
        raise InvalidIR("context", expected="at least 1 token", found=str(graph.context))
    used = {name for node in graph.nodes for _, name in node.params}
    for name in [p.name for p in graph.params] + [c.name for c in graph.consts]:
        if name not in used:
            raise InvalidIR(f"param or const {name}", expected="a node that uses it", found="none")
