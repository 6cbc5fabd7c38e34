"""Give every tensor its storage format."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from n730c.dtypes import Format
from n730c.ir.core import Graph, Node, Op
from n730c.ir.views import stored_name

PRECISIONS: dict[str, Format] = {
    "bf16": Format.BF16,
    "fp16": Format.F16,
    "int8": Format.INT8,
    "int6": Format.INT6,
    "int5": Format.INT5,
    "int4": Format.INT4,
    "nl4": Format.NL4,
    "int3": Format.INT3,
    "nl2": Format.NL2,
    "int2": Format.INT2,
}


MIXED = "mixed"  # a format of its own for every tensor, as measured
AS_STORED = "stored"  # a model that is quantized already keeps the formats that it has

KV_FORMATS: dict[str, Format] = {"fp16": Format.F16, "fp32": Format.F32, "int8": Format.INT8}


def kv_format(kv: str | None, precision: str) -> Format:
    """The format of the KV cache; ``kv`` is a key of KV_FORMATS or None.

    By default F16, except beside weights that were not rounded: there the cache would be the largest error of all, and
    on models whose logits nearly tie it alone turns a few of a hundred greedy continuations.
    """
    if kv is not None:
        return KV_FORMATS[kv]
    return Format.F16 if precision == MIXED or PRECISIONS[precision].is_integer else Format.F32


def assign_uniform(graph: Graph, precision: str) -> Mapping[str, Format]:
    """One precision for all linear layers; ``precision`` is a key of PRECISIONS.

    The embedding and the head get INT8 where the layers get fewer bits: their errors enter and leave the
    model unattenuated, and FACTS on peers shows the same choice. Norms and biases stay FP32.
    """
    layers = PRECISIONS[precision]
    ends = Format.INT8 if layers.is_integer else layers
    formats: dict[str, Format] = {}
    users: dict[str, list[Node]] = {node.name: [] for node in graph.nodes}
    for node in graph.nodes:
        for name in node.inputs:
            users.get(name, []).append(node)
    for node in graph.nodes:
        for role, name in node.params:
            if node.op is Op.LINEAR and role == "weight" and any(user.op is Op.ROUTE for user in users[node.name]):
                formats[name] = Format.F16 if layers.is_integer else layers  # small, and a tie broken wrongly is costly
            elif node.op in (Op.EMBEDDING, Op.POSITIONS, Op.EXPERTS) or (node.op is Op.LINEAR and role == "weight"):
                is_end = node.op in (Op.EMBEDDING, Op.POSITIONS) or node.layer is None
                formats[name] = ends if is_end or formats.get(name) is ends else layers
            else:
                formats[name] = Format.F32
    return MappingProxyType(formats)


def assign_stored(graph: Graph, stored: Mapping[str, Format]) -> Mapping[str, Format]:
    """For a model that is quantized already: every matrix in the format that comes nearest to what it is stored in."""
    uniform = assign_uniform(graph, "fp16")
    return MappingProxyType(
        {name: fmt if fmt is Format.F32 else stored[stored_name(name)] for name, fmt in uniform.items()}
    )
