"""A small graph that uses every op, built by hand; nothing here needs torch."""

from __future__ import annotations

from n730c.ir.core import Const, Graph, Node, Op, Param

VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 11, 6, 4, 2, 4
EXPERTS = 5


def every_op() -> Graph:
    params = {
        "embed": (VOCAB, WIDTH),
        "positions": (40, WIDTH),
        "norm": (WIDTH,),
        "half": (3,),
        "q": (HEADS * HEAD_DIM, WIDTH),
        "q.bias": (HEADS * HEAD_DIM,),
        "kv": (KV_HEADS * HEAD_DIM, WIDTH),
        "o": (WIDTH, HEADS * HEAD_DIM),
        "router": (EXPERTS, WIDTH),
        "gate_up": (EXPERTS, 2 * 3, WIDTH),
        "down": (EXPERTS, WIDTH, 3),
        "gate": (1, WIDTH),
        "head": (VOCAB, WIDTH),
    }
    rope = (("heads", HEADS), ("head_dim", HEAD_DIM), ("rotary_dim", 4), ("scaling", 1.5))
    attention = (("heads", HEADS), ("kv_heads", KV_HEADS), ("head_dim", HEAD_DIM), ("scale", 0.5), ("window", 8))
    nodes = (
        Node("h", Op.EMBEDDING, ("ids",), (("weight", "embed"),), (), WIDTH, None, "embed"),
        Node("n", Op.RMS_NORM, ("h",), (("weight", "norm"),), (("eps", 1e-5),), WIDTH, 0, "layers.0.norm"),
        Node("q", Op.LINEAR, ("n",), (("weight", "q"), ("bias", "q.bias")), (), 16, 0, "layers.0.q"),
        Node("k", Op.LINEAR, ("n",), (("weight", "kv"),), (), 8, 0, "layers.0.k"),
        Node("r", Op.ROPE, ("q",), (("inv_freq", "inv_freq"),), rope, 16, 0, "layers.0"),
        Node("a", Op.ATTENTION, ("r", "k", "k"), (), attention, 16, 0, "layers.0"),
        Node("o", Op.LINEAR, ("a",), (("weight", "o"),), (), WIDTH, 0, "layers.0.o"),
        Node("s", Op.SILU, ("o",), (), (), WIDTH, 0),
        Node("m", Op.MUL, ("s", "n"), (), (), WIDTH, 0),
        Node("f", Op.SILU_MUL, ("m", "o"), (), (), WIDTH, 0),
        Node("p", Op.POSITIONS, ("ids",), (("weight", "positions"),), (), WIDTH, 0, "positions"),
        Node("l", Op.LAYER_NORM, ("p",), (("weight", "half"), ("bias", "half")), (("eps", 1e-5),), WIDTH, 0),
        Node("c", Op.SLICE, ("f",), (), (("blocks", 2), ("first", 0), ("count", 2)), 4, 0),
        *(Node(op.value, op, ("c",), (), (), 4, 0) for op in (Op.GELU, Op.GELU_TANH, Op.RELU, Op.RELU_SQUARED)),
        Node("scale", Op.SCALE, ("l",), (), (("factor", 0.5),), WIDTH, 0),
        Node("cap", Op.SOFTCAP, ("scale",), (), (("cap", 2.0),), WIDTH, 0),
        Node("sum", Op.ADD, ("h", "cap"), (), (), WIDTH, 0),
        Node("router", Op.LINEAR, ("sum",), (("weight", "router"),), (), EXPERTS, 0),
        Node("gates", Op.ROUTE, ("router",), (), (("top_k", 2), ("normalized", False)), EXPERTS, 0),
        Node("e", Op.EXPERTS, ("sum", "gates"), (("gate_up", "gate_up"), ("down", "down")), (), WIDTH, 0),
        Node("g", Op.LINEAR, ("e",), (("weight", "gate"),), (), 1, 0),
        Node("out", Op.GATE, ("e", "g"), (), (), WIDTH, 0),
        Node("logits", Op.LINEAR, ("out",), (("weight", "head"),), (), VOCAB, None, "head"),
    )
    return Graph(
        name="every op",
        vocab=VOCAB,
        context=32,
        params=tuple(Param(name, shape) for name, shape in params.items()),
        consts=(Const("inv_freq", (1.0, 0.25)),),
        nodes=nodes,
        output="logits",
    )
