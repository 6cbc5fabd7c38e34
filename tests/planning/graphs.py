"""Small Llama-shaped graphs made by hand, so that planning is tested without tracing anything."""

from __future__ import annotations

from n730c.ir.core import Const, Graph, Node, Op, Param

CONTEXT = 2048


def llama_graph(
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    vocab: int,
    tied: bool,
    bias: bool,
    window: int = CONTEXT,
    experts: int = 0,
) -> Graph:
    """The graph that tracing and fusing a Llama (or, with ``bias``, Qwen2) of these sizes gives; with ``experts``, two
    of which a token takes, instead of one feed-forward part."""
    params = [Param("embed", (vocab, hidden))]
    nodes = [Node("x0", Op.EMBEDDING, ("ids",), (("weight", "embed"),), width=hidden)]

    def linear(name: str, source: str, rows: int, cols: int, layer: int | None, biased: bool = False) -> None:
        params.append(Param(f"{name}.weight", (rows, cols)))
        roles = [("weight", f"{name}.weight")]
        if biased:
            params.append(Param(f"{name}.bias", (rows,)))
            roles.append(("bias", f"{name}.bias"))
        nodes.append(Node(name, Op.LINEAR, (source,), tuple(roles), width=rows, layer=layer))

    def norm(name: str, source: str, layer: int | None) -> None:
        params.append(Param(f"{name}.weight", (hidden,)))
        roles = (("weight", f"{name}.weight"),)
        nodes.append(Node(name, Op.RMS_NORM, (source,), roles, (("eps", 1e-5),), width=hidden, layer=layer))

    def rope(name: str, source: str, count: int, layer: int) -> None:
        attrs = (("heads", count), ("head_dim", head_dim), ("rotary_dim", head_dim), ("scaling", 1.0))
        roles = (("inv_freq", "inv_freq"),)
        nodes.append(Node(name, Op.ROPE, (source,), roles, attrs, width=count * head_dim, layer=layer))

    x = "x0"
    for i in range(layers):
        norm(f"n{i}", x, i)
        linear(f"q{i}", f"n{i}", heads * head_dim, hidden, i, bias)
        linear(f"k{i}", f"n{i}", kv_heads * head_dim, hidden, i, bias)
        linear(f"v{i}", f"n{i}", kv_heads * head_dim, hidden, i, bias)
        rope(f"qr{i}", f"q{i}", heads, i)
        rope(f"kr{i}", f"k{i}", kv_heads, i)
        attrs = (
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("head_dim", head_dim),
            ("scale", head_dim**-0.5),
            ("window", window),
        )
        inputs = (f"qr{i}", f"kr{i}", f"v{i}")
        nodes.append(Node(f"a{i}", Op.ATTENTION, inputs, attrs=attrs, width=heads * head_dim, layer=i))
        linear(f"o{i}", f"a{i}", hidden, heads * head_dim, i)
        nodes.append(Node(f"r{i}", Op.ADD, (x, f"o{i}"), width=hidden, layer=i))
        norm(f"m{i}", f"r{i}", i)
        if experts:
            linear(f"route{i}", f"m{i}", experts, hidden, i)
            attrs = (("top_k", 2), ("normalized", True))
            nodes.append(Node(f"gates{i}", Op.ROUTE, (f"route{i}",), attrs=attrs, width=experts, layer=i))
            params.append(Param(f"gu{i}", (experts, 2 * ffn, hidden)))
            params.append(Param(f"dn{i}", (experts, hidden, ffn)))
            roles = (("gate_up", f"gu{i}"), ("down", f"dn{i}"))
            nodes.append(Node(f"d{i}", Op.EXPERTS, (f"m{i}", f"gates{i}"), roles, width=hidden, layer=i))
            nodes.append(Node(f"x{i + 1}", Op.ADD, (f"r{i}", f"d{i}"), width=hidden, layer=i))
            x = f"x{i + 1}"
            continue
        linear(f"g{i}", f"m{i}", ffn, hidden, i)
        linear(f"u{i}", f"m{i}", ffn, hidden, i)
        nodes.append(Node(f"s{i}", Op.SILU_MUL, (f"g{i}", f"u{i}"), width=ffn, layer=i))
        linear(f"d{i}", f"s{i}", hidden, ffn, i)
        nodes.append(Node(f"x{i + 1}", Op.ADD, (f"r{i}", f"d{i}"), width=hidden, layer=i))
        x = f"x{i + 1}"
    norm("final", x, None)
    if tied:
        nodes.append(Node("logits", Op.LINEAR, ("final",), (("weight", "embed"),), width=vocab))
    else:
        linear("logits", "final", vocab, hidden, None)
    inv_freq = Const("inv_freq", tuple(10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)))
    return Graph("llama", vocab, CONTEXT, tuple(params), (inv_freq,), tuple(nodes), "logits")
