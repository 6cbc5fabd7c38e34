"""The IR's vocabulary: one entry an op — arity, params, attributes, shape rule and numpy reference.

Activations are float32 ``[s, features]``; shape rules speak of ``features`` only, because ``s`` is the same everywhere.
The references are the oracle for every kernel on every device: plain, unfused FP32, in the notation of the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import special

from n730c.ir.core import Attr, Op

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]
WidthRule = Callable[[tuple[int, ...], Mapping[str, Shape], Mapping[str, Attr]], int]
Reference = Callable[[tuple[Array, ...], Mapping[str, Array], Mapping[str, Attr]], Array]


class ShapeMismatch(Exception):
    """A shape rule does not hold; ``verify`` turns it into an InvalidIR that names the node."""

    def __init__(self, what: str, expected: object, found: object) -> None:
        super().__init__(what)
        self.what, self.expected, self.found = what, str(expected), str(found)


@dataclass(frozen=True)
class OpSpec:
    """What is to know of one op.

    ``width(input widths, shapes by role, attrs)`` gives the features of the result or raises ShapeMismatch.
    ``reference(inputs [s, features], params by role, attrs)`` computes it; the rows are positions 0 … s-1.
    """

    arity: int
    width: WidthRule
    reference: Reference
    params: tuple[str, ...] = ()  # roles of checkpoint tensors that must be there
    optional: tuple[str, ...] = ()  # roles that may be there
    consts: tuple[str, ...] = ()  # roles of tables that the compiler computed
    attrs: Mapping[str, type] = field(default_factory=dict)  # positive
    natural: Mapping[str, type] = field(default_factory=dict)  # attributes that may be 0
    may_have: Mapping[str, type] = field(default_factory=dict)  # positive attributes that may be left out
    takes_ids: bool = False  # the input is the graph's token ids i64[s]
    takes_positions: bool = False  # of which only the number matters


def _expect(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise ShapeMismatch(what, expected, found)


# --- embedding, linear, norms ---


def _embedding_width(_: tuple[int, ...], shapes: Mapping[str, Shape], __: Mapping[str, Attr]) -> int:
    _expect("number of dimensions of weight", 2, len(shapes["weight"]))
    return shapes["weight"][1]


def _embedding(inputs: tuple[Array, ...], params: Mapping[str, Array], _: Mapping[str, Attr]) -> Array:
    return params["weight"][inputs[0].astype(np.int64)]


def _positions(inputs: tuple[Array, ...], params: Mapping[str, Array], _: Mapping[str, Attr]) -> Array:
    """A learned vector for each position (Gehring et al. 2017)."""
    return params["weight"][: len(inputs[0])].copy()  # a part would keep the whole alive


def _linear_width(widths: tuple[int, ...], shapes: Mapping[str, Shape], _: Mapping[str, Attr]) -> int:
    _expect("number of dimensions of weight", 2, len(shapes["weight"]))
    out_features, in_features = shapes["weight"]
    _expect("features of the input", in_features, widths[0])
    if "bias" in shapes:
        _expect("shape of bias", (out_features,), shapes["bias"])
    return out_features


def _linear(inputs: tuple[Array, ...], params: Mapping[str, Array], _: Mapping[str, Attr]) -> Array:
    y = inputs[0] @ params["weight"].T
    return y + params["bias"] if "bias" in params else y


def _slice_width(widths: tuple[int, ...], _: Mapping[str, Shape], attrs: Mapping[str, Attr]) -> int:
    blocks, first, count = (int(attrs[key]) for key in ("blocks", "first", "count"))
    if widths[0] % blocks or first + count > widths[0] // blocks:
        raise ShapeMismatch("slice", f"to lie in each of {blocks} blocks of {widths[0]} features", (first, count))
    return blocks * count


def _slice(inputs: tuple[Array, ...], _: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Of each of ``blocks`` equal blocks of features, ``count`` from ``first`` on."""
    blocks, first, count = (int(attrs[key]) for key in ("blocks", "first", "count"))
    x = inputs[0].reshape(len(inputs[0]), blocks, -1)[..., first : first + count]
    return x.reshape(len(x), blocks * count)


def _norm_width(widths: tuple[int, ...], shapes: Mapping[str, Shape], _: Mapping[str, Attr]) -> int:
    """The weight is as wide as what is normed together: all features, or those of one head."""
    _expect("number of dimensions of weight", 1, len(shapes["weight"]))
    if widths[0] % shapes["weight"][0]:
        raise ShapeMismatch("shape of weight", f"({widths[0]},) or a divisor of it", shapes["weight"])
    if "bias" in shapes:
        _expect("shape of bias", shapes["weight"], shapes["bias"])
    return widths[0]


def _rms_norm(inputs: tuple[Array, ...], params: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Zhang & Sennrich 2019, equation 4, with eps inside the root; each len(weight) features by themselves."""
    x = inputs[0].reshape(len(inputs[0]), -1, len(params["weight"]))
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    root: Array = np.sqrt(mean + np.float32(attrs["eps"]))
    return (params["weight"] * (x * (np.float32(1) / root))).reshape(inputs[0].shape)


def _layer_norm(inputs: tuple[Array, ...], params: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Ba et al. 2016; each len(weight) features by themselves."""
    x = inputs[0].reshape(len(inputs[0]), -1, len(params["weight"]))
    x = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    root: Array = np.sqrt(variance + np.float32(attrs["eps"]))
    y: Array = params["weight"] * (x * (np.float32(1) / root))
    return (y + params["bias"] if "bias" in params else y).reshape(inputs[0].shape)


# --- rope, attention ---


def _rope_width(widths: tuple[int, ...], shapes: Mapping[str, Shape], attrs: Mapping[str, Attr]) -> int:
    _expect("features of the input (heads x head_dim)", int(attrs["heads"]) * int(attrs["head_dim"]), widths[0])
    if int(attrs["rotary_dim"]) > int(attrs["head_dim"]):
        raise ShapeMismatch("rotary_dim", f"at most head_dim {attrs['head_dim']}", attrs["rotary_dim"])
    _expect("rotary_dim (2 x entries of inv_freq)", 2 * shapes["inv_freq"][0], attrs["rotary_dim"])
    return widths[0]


def _rope(inputs: tuple[Array, ...], params: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Su et al. 2021: dimension i turns with i + rotary_dim/2, or 2i with 2i + 1 (``pairs``); the rest passes."""
    x = inputs[0].reshape(len(inputs[0]), int(attrs["heads"]), int(attrs["head_dim"]))
    n = int(attrs["rotary_dim"]) // 2
    angle = np.arange(len(x), dtype=np.float32)[:, None] * params["inv_freq"]  # [s, n], rounded to FP32 on purpose
    scaling = np.float32(attrs["scaling"])
    cos = (np.cos(angle.astype(np.float64)).astype(np.float32) * scaling)[:, None, :]
    sin = (np.sin(angle.astype(np.float64)).astype(np.float32) * scaling)[:, None, :]
    pairs = bool(attrs.get("pairs", False))
    a, b = (x[..., : 2 * n : 2], x[..., 1 : 2 * n : 2]) if pairs else (x[..., :n], x[..., n : 2 * n])
    turned = a * cos - b * sin, b * cos + a * sin
    first = np.stack(turned, axis=-1).reshape(*a.shape[:-1], 2 * n) if pairs else np.concatenate(turned, axis=-1)
    y = np.concatenate((first, x[..., 2 * n :]), axis=-1)
    return y.reshape(inputs[0].shape)


def _attention_width(widths: tuple[int, ...], _: Mapping[str, Shape], attrs: Mapping[str, Attr]) -> int:
    heads, kv_heads, head_dim = (int(attrs[key]) for key in ("heads", "kv_heads", "head_dim"))
    if heads % kv_heads:
        raise ShapeMismatch("heads", f"a multiple of kv_heads {kv_heads}", heads)
    _expect("features of q (heads x head_dim)", heads * head_dim, widths[0])
    _expect("features of k (kv_heads x head_dim)", kv_heads * head_dim, widths[1])
    _expect("features of v (kv_heads x head_dim)", kv_heads * head_dim, widths[2])
    return widths[0]


def _attention(inputs: tuple[Array, ...], _: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Causal scaled dot-product attention (Vaswani et al. 2017); query head h reads kv head h / (heads/kv_heads).

    A token sees itself and the ``window`` - 1 tokens before it; the model's whole context where there is no window.
    ``softcap``: scores pass through cap · tanh(score / cap) (Gemma 2).
    """
    s = len(inputs[0])
    heads, kv_heads, head_dim = (int(attrs[key]) for key in ("heads", "kv_heads", "head_dim"))
    q = inputs[0].reshape(s, heads, head_dim)
    k, v = (x.reshape(s, kv_heads, head_dim) for x in inputs[1:])
    hidden = ~np.tri(s, dtype=bool) | np.tri(
        s, k=-int(attrs["window"]), dtype=bool
    )  # the future and what the window has left
    out = np.empty_like(q)
    for head in range(heads):  # one head at a time keeps the memory at s x s floats
        kv = head // (heads // kv_heads)
        scores = (q[:, head] @ k[:, kv].T) * np.float32(attrs["scale"])
        if "softcap" in attrs:
            scores = softcap(scores, attrs["softcap"])
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, head] = (weights / weights.sum(axis=-1, keepdims=True)) @ v[:, kv]
    return out.reshape(s, heads * head_dim)


# --- elementwise ---


def _same_width(widths: tuple[int, ...], _: Mapping[str, Shape], __: Mapping[str, Attr]) -> int:
    for width in widths[1:]:
        _expect("features of the inputs", widths[0], width)
    return widths[0]


def silu(x: Array) -> Array:
    """x · sigmoid(x), elementwise (float32)."""
    with np.errstate(over="ignore"):  # exp(-x) may overflow to inf; then the quotient is the right zero
        return np.divide(x, np.float32(1) + np.exp(-x), dtype=np.float32)


def gelu_tanh(x: Array) -> Array:
    """Hendrycks & Gimpel 2016, the approximation with tanh (float32)."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * (x * x * x))
    y: Array = np.multiply(np.float32(0.5) * x, np.float32(1) + np.tanh(inner), dtype=np.float32)
    return y


def gelu(x: Array) -> Array:
    """x · Φ(x), with the error function (float32)."""
    wide = x.astype(np.float64)
    y: Array = (wide * special.ndtr(wide)).astype(np.float32)
    return y


def softcap(x: Array, cap: Attr) -> Array:
    """cap · tanh(x / cap): the identity near 0, never beyond ±cap (float32)."""
    y: Array = np.float32(cap) * np.tanh(x / np.float32(cap))
    return y


def _relu(x: Array) -> Array:
    return np.maximum(x, np.float32(0))


# --- mixture of experts ---


def _route_width(widths: tuple[int, ...], _: Mapping[str, Shape], attrs: Mapping[str, Attr]) -> int:
    if int(attrs["top_k"]) > widths[0]:
        raise ShapeMismatch("top_k", f"at most {widths[0]} experts", attrs["top_k"])
    return widths[0]


def _route(inputs: tuple[Array, ...], _: Mapping[str, Array], attrs: Mapping[str, Attr]) -> Array:
    """Shazeer et al. 2017 as Mixtral has it: the softmax of the logits where it is among the ``top_k`` largest (of
    equals the first), zero elsewhere; ``normalized``: divided by the sum of those. [s, experts]"""
    scaled = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    chances = scaled / scaled.sum(axis=-1, keepdims=True)
    chosen = np.argsort(-chances, axis=-1, kind="stable")[:, : int(attrs["top_k"])]
    gates = np.zeros_like(chances)
    np.put_along_axis(gates, chosen, np.take_along_axis(chances, chosen, axis=-1), axis=-1)
    kept = gates.sum(axis=-1, keepdims=True) if attrs["normalized"] else np.float32(1)
    return np.asarray(gates / kept, dtype=np.float32)


def _experts_width(widths: tuple[int, ...], shapes: Mapping[str, Shape], _: Mapping[str, Attr]) -> int:
    _expect("number of dimensions of gate_up and down", (3, 3), (len(shapes["gate_up"]), len(shapes["down"])))
    experts, both, hidden = shapes["gate_up"]
    _expect("features of x", hidden, widths[0])
    _expect("features of the gates (experts)", experts, widths[1])
    _expect("shape of down", (experts, hidden, both // 2), shapes["down"])
    _expect("rows of gate_up (an even number)", 0, both % 2)
    return widths[0]


def _experts(inputs: tuple[Array, ...], params: Mapping[str, Array], _: Mapping[str, Attr]) -> Array:
    """Σ gate · down(silu(gate_proj(x)) · up_proj(x)) over the experts whose gate is not zero, in their order."""
    x, gates = inputs
    half = params["gate_up"].shape[1] // 2
    out = np.zeros_like(x)
    for expert, (gate_up, down) in enumerate(zip(params["gate_up"], params["down"], strict=True)):
        tokens = np.flatnonzero(gates[:, expert])
        if len(tokens):
            both = x[tokens] @ gate_up.T
            y = (silu(both[:, :half]) * both[:, half:]) @ down.T
            out[tokens] += gates[tokens, expert, None] * y
    return out


def _gate_width(widths: tuple[int, ...], _: Mapping[str, Shape], __: Mapping[str, Attr]) -> int:
    _expect("features of the gate", 1, widths[1])
    return widths[0]


def _gate(inputs: tuple[Array, ...], _: Mapping[str, Array], __: Mapping[str, Attr]) -> Array:
    """x · sigmoid(g), one g a token"""
    x, g = inputs
    with np.errstate(over="ignore"):
        return np.asarray(x * (np.float32(1) / (np.float32(1) + np.exp(-g))), dtype=np.float32)


OPS: Mapping[Op, OpSpec] = {
    Op.EMBEDDING: OpSpec(1, _embedding_width, _embedding, params=("weight",), takes_ids=True),
    Op.POSITIONS: OpSpec(1, _embedding_width, _positions, params=("weight",), takes_positions=True),
    Op.LINEAR: OpSpec(1, _linear_width, _linear, params=("weight",), optional=("bias",)),
    Op.SLICE: OpSpec(1, _slice_width, _slice, attrs={"blocks": int, "count": int}, natural={"first": int}),
    Op.RMS_NORM: OpSpec(1, _norm_width, _rms_norm, params=("weight",), attrs={"eps": float}),
    Op.LAYER_NORM: OpSpec(1, _norm_width, _layer_norm, params=("weight",), optional=("bias",), attrs={"eps": float}),
    Op.ROPE: OpSpec(
        1,
        _rope_width,
        _rope,
        consts=("inv_freq",),
        attrs={"heads": int, "head_dim": int, "rotary_dim": int, "scaling": float},
        may_have={"pairs": bool},
    ),
    Op.ATTENTION: OpSpec(
        3,
        _attention_width,
        _attention,
        attrs={"heads": int, "kv_heads": int, "head_dim": int, "scale": float, "window": int},
        may_have={"softcap": float},
    ),
    Op.SILU: OpSpec(1, _same_width, lambda x, _, __: silu(x[0])),
    Op.GELU: OpSpec(1, _same_width, lambda x, _, __: gelu(x[0])),
    Op.GELU_TANH: OpSpec(1, _same_width, lambda x, _, __: gelu_tanh(x[0])),
    Op.RELU: OpSpec(1, _same_width, lambda x, _, __: _relu(x[0])),
    Op.RELU_SQUARED: OpSpec(1, _same_width, lambda x, _, __: _relu(x[0]) * _relu(x[0])),
    Op.SCALE: OpSpec(1, _same_width, lambda x, _, a: x[0] * np.float32(a["factor"]), attrs={"factor": float}),
    Op.SOFTCAP: OpSpec(1, _same_width, lambda x, _, a: softcap(x[0], a["cap"]), attrs={"cap": float}),
    Op.MUL: OpSpec(2, _same_width, lambda x, _, __: x[0] * x[1]),
    Op.ADD: OpSpec(2, _same_width, lambda x, _, __: x[0] + x[1]),
    Op.SILU_MUL: OpSpec(2, _same_width, lambda x, _, __: silu(x[0]) * x[1]),
    Op.ROUTE: OpSpec(1, _route_width, _route, attrs={"top_k": int, "normalized": bool}),
    Op.EXPERTS: OpSpec(2, _experts_width, _experts, params=("gate_up", "down")),
    Op.GATE: OpSpec(2, _gate_width, _gate),
}
