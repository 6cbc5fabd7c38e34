"""The IR: frozen values, single-result nodes, no views.

Every activation is a matrix ``f32[s, features]`` (``s``: tokens of one sequence, in order). Heads are not
an axis: attention and rope carry ``heads`` and ``head_dim`` as attributes and see ``features = heads * head_dim``.
The token ids ``i64[s]`` are the graph's only input. Positions are implicit: 0 … s-1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

Attr = int | float | bool


class Op(Enum):
    """What a node computes; ``ops.py`` holds arity, shape rule and numpy reference of each."""

    EMBEDDING = "embedding"
    POSITIONS = "positions"
    LINEAR = "linear"
    SLICE = "slice"
    RMS_NORM = "rms_norm"
    LAYER_NORM = "layer_norm"
    ROPE = "rope"
    ATTENTION = "attention"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    SCALE = "scale"
    SOFTCAP = "softcap"
    MUL = "mul"
    ADD = "add"
    SILU_MUL = "silu_mul"
    ROUTE = "route"
    EXPERTS = "experts"
    GATE = "gate"


@dataclass(frozen=True)
class Param:
    """A tensor of the checkpoint, by the name it has there, or a view of one (``views.py``). Linears: [out, in]."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Const:
    """A small table that the compiler computed (rope's inverse frequencies), float32."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Node:
    """One operation. ``name`` names its result; ``params``: (role, name of a Param or Const)."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    params: tuple[tuple[str, str], ...] = ()
    attrs: tuple[tuple[str, Attr], ...] = ()
    width: int = 0  # features of the result
    layer: int | None = None
    source: str = ""  # module path in the original model, for error texts

    def param(self, role: str) -> str | None:
        return dict(self.params).get(role)

    def attr(self, key: str) -> Attr:
        return dict(self.attrs)[key]


@dataclass(frozen=True)
class Graph:
    """A whole model. ``nodes`` are in execution order; ``output`` names the logits ``f32[s, vocab]``."""

    name: str
    vocab: int
    context: int  # longest sequence the model was made for (max_position_embeddings), tokens
    params: tuple[Param, ...]
    consts: tuple[Const, ...]
    nodes: tuple[Node, ...]
    output: str
    inputs: tuple[str, ...] = ("ids",)
    tables_for: int | None = None  # tokens of context that consts were computed for; None: for any
    _by_name: dict[str, Node] = field(default_factory=dict, init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        self._by_name.update({node.name: node for node in self.nodes})

    def node(self, name: str) -> Node:
        return self._by_name[name]

    def users(self, name: str) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if name in node.inputs)
