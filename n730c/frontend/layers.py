"""From the layers that were traced to all layers of the model, and from names in the graph to finished IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from n730c.errors import UnsupportedModel
from n730c.frontend.buffers import buffer_values
from n730c.frontend.canonicalize import canonicalize
from n730c.frontend.trace import Trace
from n730c.frontend.values import is_made
from n730c.ir.core import Const, Graph, Node, Param
from n730c.ir.ops import OPS
from n730c.ir.views import renamed, stored_name

Shapes = dict[str, tuple[int, ...]]
Bind = Callable[[str], str]
_Pair = tuple[Node, Node]


def assemble(name: str, trace: Trace, bind: Bind) -> Graph:
    """The whole model's graph. ``bind`` maps a parameter's name in the model to the stored tensor's.

    Raises UnsupportedModel where layers of one kind turn out to differ, or pass more than the hidden state on.
    """
    nodes, output, shapes = canonicalize(trace)
    if trace.one_length:
        raise UnsupportedModel(
            "torch.export cannot trace the model for texts of any length",
            expected="a forward pass that does not depend on the length",
            found=trace.one_length,
            hint="Run n730c models to see what works.",
        )
    if trace.context == 0:
        raise UnsupportedModel(
            "config.json names no context length",
            expected="max_position_embeddings",
            found="none",
            hint="Use the config.json that came with the weights.",
        )
    pairs, output = repeat(trace, nodes, output)
    return _finish(name, trace, pairs, output, shapes, bind)


def repeat(trace: Trace, nodes: Sequence[Node], output: str) -> tuple[list[_Pair], str]:
    """Replace the traced layers by all layers, each a copy of the first of its kind; pairs of (copy, original).

    Raises UnsupportedModel as ``assemble`` says.
    """
    count = len(trace.traced)
    bodies = [[node for node in nodes if node.layer == j] for j in range(count)]
    entries = [_only_input(trace, j, body) for j, body in enumerate(bodies)]
    exits = [_only_output(trace, j, nodes, output) for j in range(count)]
    templates: dict[int, int] = {}  # kind -> traced layer
    for j, real in enumerate(trace.traced):
        first = templates.setdefault(trace.kinds[real], j)
        if j > 0 and entries[j] != exits[j - 1]:
            raise _odd(trace, j, "reads something else than the result of the layer before it")
        if [_moved(trace, node, j, 0, entries[j], "") for node in bodies[j]] != [
            _moved(trace, node, first, 0, entries[first], "") for node in bodies[first]
        ]:
            raise _odd(trace, j, f"differs from layer {trace.traced[first]}, which has the same modules")
    start = next(i for i, node in enumerate(nodes) if node.layer is not None)
    before = [node for node in nodes[:start] if node.layer is None]
    after = [node for node in nodes[start:] if node.layer is None]
    result, hidden = [(node, node) for node in before], entries[0]
    for i, kind in enumerate(trace.kinds):
        j = templates[kind]
        result += [(_moved(trace, node, j, i, entries[j], hidden), node) for node in bodies[j]]
        hidden = _renumber(exits[j], j, i)
    inside = {node.name for body in bodies for node in body} - {exits[-1]}
    for node in after:
        if inside & set(node.inputs):
            raise UnsupportedModel(f"%{node.name} ({node.source}) reads from inside the layers")
        result.append((replace(node, inputs=tuple(hidden if x == exits[-1] else x for x in node.inputs)), node))
    return result, hidden if output == exits[-1] else output


def _renumber(name: str, j: int, i: int) -> str:
    prefix = f"l{j}_"
    return f"l{i}_{name.removeprefix(prefix)}" if name.startswith(prefix) else name


def _moved(trace: Trace, node: Node, j: int, i: int, entry: str, hidden: str) -> Node:
    """``node`` of traced layer ``j`` as a node of layer ``i`` that reads ``hidden`` where it read ``entry``."""
    old, new = f"{trace.layers_path}.{j}.", f"{trace.layers_path}.{i}."

    def path(text: str) -> str:
        return f"{new}{text.removeprefix(old)}" if text.startswith(old) else new[:-1] if text == old[:-1] else text

    return replace(
        node,
        name=_renumber(node.name, j, i),
        inputs=tuple(hidden if x == entry else _renumber(x, j, i) for x in node.inputs),
        params=tuple((role, path(name)) for role, name in node.params),
        layer=i,
        source=path(node.source),
    )


def _only_input(trace: Trace, j: int, body: Sequence[Node]) -> str:
    inside = {node.name for node in body}
    inputs = list(dict.fromkeys(x for node in body for x in node.inputs if x not in inside))
    if len(inputs) != 1:
        raise _odd(trace, j, f"reads {len(inputs)} values from outside (expected the hidden state only)")
    return inputs[0]


def _only_output(trace: Trace, j: int, nodes: Sequence[Node], output: str) -> str:
    used = {x for node in nodes if node.layer != j for x in node.inputs} | {output}
    outputs = [node.name for node in nodes if node.layer == j and node.name in used]
    if len(outputs) != 1:
        raise _odd(trace, j, f"gives {len(outputs)} values to others (expected the hidden state only)")
    return outputs[0]


def _odd(trace: Trace, j: int, what: str) -> UnsupportedModel:
    return UnsupportedModel(f"layer {trace.layers_path}.{trace.traced[j]} {what}")


def _finish(name: str, trace: Trace, pairs: Sequence[_Pair], output: str, shapes: Shapes, bind: Bind) -> Graph:
    """Bind parameters to stored tensors, compute the tables, and list both in the order of their first use."""
    params: dict[str, Param] = {}
    consts: dict[str, Const] = {}
    nodes = []
    for node, original in pairs:
        bound = []
        for (role, tensor), (_, traced) in zip(node.params, original.params, strict=True):
            if role in OPS[node.op].consts or is_made(tensor):
                if tensor not in consts:
                    values = (
                        (1.0,) * shapes[traced][0] if is_made(tensor) else buffer_values(trace, traced, shapes[traced])
                    )
                    consts[tensor] = Const(tensor, values)
                bound.append((role, tensor))
            else:
                stored = renamed(tensor, bind(stored_name(tensor)))
                params[stored] = Param(stored, shapes[traced])
                bound.append((role, stored))
        nodes.append(replace(node, params=tuple(bound)))
    tables = tuple(params.values()), tuple(consts.values())
    return Graph(name, trace.vocab, trace.context, *tables, tuple(nodes), output, tables_for=trace.tables_for)
