"""Mixture of experts in a trace: the experts as one opaque node, and the rewrites that recognize the router around it.

transformers lets a function be registered for the experts, as for attention. What it is given, the router computes in
plain ATen ops: softmax over a linear layer's result, the k largest, and perhaps these divided by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from transformers.activations import ACT2FN
from transformers.integrations.moe import ExpertsInterface, _default_apply_gate

from n730c.errors import UnsupportedModel
from n730c.frontend.values import Act, Value, Weight
from n730c.ir.core import Op

EXPERTS = "n730"  # the name under which transformers finds our function


@torch.library.custom_op("n730::experts", mutates_args=())
def _experts_op(
    x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """x [s, hidden], index and weight [s, k], gate_up [experts, 2·width, hidden], down [experts, hidden, width]."""
    return torch.empty_like(x)


@_experts_op.register_fake
def _(
    x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    return torch.empty_like(x)


def _experts_function(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    plain = module.has_gate and not (module.is_transposed or module.has_bias or module.has_post_expert_norm)
    known = plain and module.is_concatenated and type(module)._apply_gate is _default_apply_gate
    if not known or not isinstance(module.act_fn, type(ACT2FN["silu"])):
        raise UnsupportedModel(
            f"experts of kind {type(module).__name__}",
            expected="down(silu(gate(x)) · up(x)) without biases",
            found="others",
            hint="Use a model of the Mixtral or Qwen2-MoE family.",
        )
    result: torch.Tensor = torch.ops.n730.experts(
        hidden_states, top_k_index, top_k_weights, module.gate_up_proj, module.down_proj
    )
    return result


ExpertsInterface.register(EXPERTS, _experts_function)


@dataclass(frozen=True)
class Chances:
    """softmax of a router's logits."""

    logits: Act


@dataclass(frozen=True)
class Chosen:
    """The ``k`` largest of a router's chances, largest first. ``part``: both, their values, indices or sum."""

    logits: Act
    k: int
    part: str = "both"
    normalized: bool = False


@dataclass(frozen=True)
class Gate:
    """sigmoid of one number a token."""

    x: Act


def _softmax(_: Any, node: fx.Node, x: Value, dim: int, *__: Value) -> Value:
    last = len(node.meta["val"].shape) - 1
    return Chances(x) if isinstance(x, Act) and x.rows and dim in (-1, last) else None


def _topk(_: Any, __: fx.Node, x: Value, k: int, dim: int = -1, largest: bool = True, *___: Value) -> Value:
    return Chosen(x.logits, k) if isinstance(x, Chances) and dim in (-1, 1) and largest else None


def _getitem(_: Any, __: fx.Node, x: Value, index: int) -> Value:
    if not isinstance(x, Chosen) or x.part != "both":
        return None
    return replace(x, part=("values", "indices")[index])


def _sum(_: Any, __: fx.Node, x: Value, dims: Value, keep: bool = False) -> Value:
    fits = isinstance(x, Chosen) and x.part == "values" and not x.normalized and dims in ([-1], [1]) and keep
    return replace(x, part="sum") if fits else None


def _div(_: Any, __: fx.Node, x: Value, y: Value) -> Value:
    if isinstance(x, Chosen) and x.part == "values" and not x.normalized and y == replace(x, part="sum"):
        return replace(x, normalized=True)
    return None


def _sigmoid(_: Any, __: fx.Node, x: Value) -> Value:
    return Gate(x) if isinstance(x, Act) and x.rows and x.width == 1 else None


def gated(context: Any, node: fx.Node, a: Value, b: Value) -> Value:
    """A product with a gate: sigmoid of one number times every feature of the token."""
    for gate, x in ((a, b), (b, a)):
        if isinstance(gate, Gate) and isinstance(x, Act) and x.rows:
            return context.emit(node, Op.GATE, [x, gate.x], x.width)
    return None


def _experts(context: Any, node: fx.Node, x: Value, index: Value, weight: Value, gate_up: Value, down: Value) -> Value:
    match x, index, weight:
        case Act(rows=True), Chosen(part="indices"), Chosen(part="values"):
            pass
        case _:
            return None
    if (index.logits, index.k) != (weight.logits, weight.k) or not isinstance(gate_up, Weight):
        return None
    logits = index.logits
    attrs = {"top_k": index.k, "normalized": weight.normalized}
    gates = context.emit(node, Op.ROUTE, [logits], logits.width, None, attrs)
    return context.emit(node, Op.EXPERTS, [x, gates], x.width, {"gate_up": gate_up, "down": down})


TABLE: Mapping[str, Callable[..., Value]] = {
    "n730.experts": _experts,
    "aten.softmax": _softmax,
    "aten.topk": _topk,
    "getitem": _getitem,
    "aten.sum": _sum,
    "aten.div": _div,
    "aten.div_": _div,
    "aten.sigmoid": _sigmoid,
}
