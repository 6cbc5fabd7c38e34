"""Canonicalization: the ATen graph of a trace becomes IR nodes.

It is an abstract interpretation: each ATen node yields a *value* (``values.py``) that says what it is in a
transformer — an activation, a weight, positions, a part of an RMSNorm, a part of RoPE. The table in ``rewrites.py``
maps each ATen op to the rewrite that knows which values it may meet; where it knows none, the model is refused and the
error names the op and the module. No model's name or class is ever asked for.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from n730c.errors import UnsupportedModel
from n730c.frontend.elementwise import settle
from n730c.frontend.rewrites import OPTIONS, TABLE
from n730c.frontend.trace import Trace
from n730c.frontend.values import Act, Buffer, Ids, Numbers, Ones, Part, Unary, Unknown, Value, Weight, words
from n730c.ir.core import Attr, Node, Op

# Arguments that say how a tensor is stored, not what is in it; a type that matters shows in the result's.
_STORAGE_KWARGS = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy"}


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
        self.settled: dict[Any, Act] = {}  # what a value that stands for an activation became
        self.node: fx.Node = next(iter(trace.program.graph.nodes))

    def run(self) -> tuple[list[Node], str, dict[str, tuple[int, ...]]]:
        graph = self.trace.program.graph
        output = next(node for node in reversed(graph.nodes) if node.op == "output")
        self.live = live = _ancestors(output)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
            elif node.op == "call_function" and node in live:
                self.values[node] = self.rewrite(node)
        results = [self.values[node] for node in output.all_input_nodes]
        logits = self.act(results[0]) if len(results) == 1 else None
        if logits is None:
            raise UnsupportedModel("output of the model", expected="logits [1, s, vocab]", found=words(results))
        return self.nodes, logits.name, self.shapes

    @property
    def context_length(self) -> int:
        return self.trace.context

    def placeholder(self, node: fx.Node) -> Value:
        signature = self.trace.program.graph_signature
        value = node.meta["val"]
        if node.name in signature.inputs_to_parameters:
            return Weight(signature.inputs_to_parameters[node.name], tuple(value.shape))
        if node.name in signature.inputs_to_buffers:
            name = signature.inputs_to_buffers[node.name]
            if not value.shape and name in self.trace.tables:
                return float(self.trace.tables[name].item())
            return Buffer(name, tuple(value.shape))
        if node.name in signature.inputs_to_lifted_tensor_constants:
            return _numbers(self.trace.program.constants[signature.inputs_to_lifted_tensor_constants[node.name]])
        if node.name not in signature.user_inputs:
            return Unknown(node.name)
        return Ids() if isinstance(value, torch.Tensor) else value

    def rewrite(self, node: fx.Node) -> Value:
        name = "getitem" if node.target is operator.getitem else str(node.target).removesuffix(".default")
        family = ".".join(name.split(".")[:2])
        rewrite = TABLE.get(family)
        arguments = [self.argument(argument) for argument in node.args]
        options = {key: value for key, value in node.kwargs.items() if key not in _STORAGE_KWARGS}
        known = rewrite is not None and (not options or family in OPTIONS) and _is_float32(node)
        if name.split(".")[1:2] and name.split(".")[1].endswith("_"):  # changes its first operand in place
            known = known and _is_last_use(node)
        self.node = node
        value = rewrite(self, node, *arguments, **options) if rewrite and known else None
        if isinstance(value, Unary) and len(self.live & node.users.keys()) > 1:
            value = self.act(value)  # more than a step of one function: a value in its own right
        if value is None:
            where, kind = self.module(node)
            raise UnsupportedModel(
                f"ATen op {name} in {where or 'the model'} ({kind}) is not understood",
                expected="a pattern that the compiler's table knows (n730c/frontend/rewrites.py)",
                found=f"operands {words(arguments)}",
                hint="Run n730c models to see what works.",
            )
        return value

    def act(self, value: Value) -> Act | None:
        if isinstance(value, Act):
            return value
        key = value.node if isinstance(value, Unary) else value if isinstance(value, Part) else None
        if key is not None and key in self.settled:
            return self.settled[key]
        act = settle(self, value)
        if act is not None and key is not None:
            self.settled[key] = act
        return act

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

    def add_bias(self, act: Act, bias: Weight) -> bool:
        node = self.nodes[-1]
        if node.name != act.name or node.op is not Op.LINEAR or node.param("bias") is not None:
            return False
        self.shapes[bias.name] = bias.shape
        self.nodes[-1] = replace(node, params=(*node.params, ("bias", bias.name)))
        return True

    def emit(
        self,
        node: fx.Node,
        op: Op,
        inputs: Sequence[Act | Ids],
        width: int,
        params: Mapping[str, Weight | Buffer | Ones] | None = None,
        attrs: Mapping[str, Attr] | None = None,
    ) -> Act:
        """Append an IR node and give its result. Its name: its module's where it has a weight, else its op's."""
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


def _is_last_use(node: fx.Node) -> bool:
    """Whether nothing reads the first operand of ``node`` after it."""
    after, later = node.next, set[fx.Node]()
    while after.op != "root":
        later.add(after)
        after = after.next
    return isinstance(node.args[0], fx.Node) and not later & node.args[0].users.keys()


def _numbers(tensor: torch.Tensor) -> Value:
    """The values of a small tensor in the model's code; a plain number where it has no axes."""
    if tensor.is_meta or tensor.numel() > 64:
        return Unknown("a tensor")
    return float(tensor.item()) if not tensor.shape else Numbers(tuple(tensor.reshape(-1).tolist()))


def _is_float32(node: fx.Node) -> bool:
    """The trace is FP32 throughout; another float type would round in a way that the IR does not say."""
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == torch.float32


def _ancestors(output: fx.Node) -> set[fx.Node]:
    live: set[fx.Node] = set()
    todo = [output]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo.extend(node.all_input_nodes)
    return live
