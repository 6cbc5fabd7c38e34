"""Each rule of the verifier, broken once: the error names the node, what was expected and what was found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from n730c.errors import InvalidIR
from n730c.ir.core import Const, Graph, Node, Op, Param
from n730c.ir.ops import OPS
from n730c.ir.verify import verify
from tests.ir.graphs import every_op


def test_a_sound_graph_passes_and_uses_every_op() -> None:
    verify(every_op())
    assert {node.op for node in every_op().nodes} == set(Op) == set(OPS)


def broken(name: str, /, **changes: Any) -> Graph:
    graph = every_op()
    return replace(graph, nodes=tuple(replace(n, **changes) if n.name == name else n for n in graph.nodes))


def attrs(name: str, /, **changes: Any) -> Graph:
    old = dict(every_op().node(name).attrs)
    return broken(name, attrs=tuple({**old, **changes}.items()))


GRAPH = every_op()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (broken("n", inputs=("h", "h")), r"%n \(rms_norm\): number of inputs \(expected 1, found 2\)"),
        (
            broken("n", inputs=("m",)),
            r"%n \(rms_norm\): input \(expected a value defined by an earlier node, found %m\)",
        ),
        (broken("n", inputs=("ids",)), r"%n .*expected a value defined by an earlier node, found %ids"),
        (broken("h", inputs=("n",)), r"%h \(embedding\): input \(expected the token ids %ids, found %n\)"),
        (broken("q", params=()), r"%q \(linear\): params \(expected weight, found none\)"),
        (broken("q", params=(("weight", "q"), ("gain", "q"))), r"%q \(linear\): params .* found weight gain"),
        (broken("q", params=(("weight", "q"), ("weight", "q"))), r"%q \(linear\): params .* found weight weight"),
        (
            broken("q", params=(("weight", "nix"),)),
            r"%q \(linear\): weight \(expected a param of the graph, found nix\)",
        ),
        (
            broken("r", params=(("inv_freq", "norm"),)),
            r"%r \(rope\): inv_freq \(expected a const of the graph, found norm",
        ),
        (broken("s", attrs=(("eps", 1.0),)), r"%s \(silu\): attributes \(expected none, found eps\)"),
        (attrs("c", blocks=4), r"%c \(slice\): slice \(expected to lie in each of 4 blocks of 6 features"),
        (attrs("c", first=2), r"%c \(slice\): slice .*found \(2, 2\)"),
        (attrs("c", first=-1), r"%c \(slice\): first \(expected a positive number, found -1\)"),
        (broken("l", params=(("weight", "half"), ("bias", "norm"))), r"%l \(layer_norm\): shape of bias .*\(3,\)"),
        (replace(GRAPH, context=41), r"%p \(positions\): rows of weight \(the context\) \(expected 41, found 40\)"),
        (attrs("n", eps=1), r"%n \(rms_norm\): type of eps \(expected float, found int\)"),
        (attrs("a", heads=True), r"%a \(attention\): type of heads \(expected int, found bool\)"),
        (attrs("n", eps=float("nan")), r"%n \(rms_norm\): eps \(expected a positive number, found nan\)"),
        (attrs("a", scale=0.0), r"%a \(attention\): scale \(expected a positive number, found 0.0\)"),
        (attrs("a", kv_heads=3), r"%a \(attention\): heads \(expected a multiple of kv_heads 3, found 4\)"),
        (attrs("a", kv_heads=1), r"%a \(attention\): features of k .*expected 4, found 8"),
        (attrs("r", rotary_dim=2), r"%r \(rope\): rotary_dim .*expected 4, found 2"),
        (attrs("r", rotary_dim=8), r"%r \(rope\): rotary_dim \(expected at most head_dim 4, found 8\)"),
        (attrs("r", heads=3), r"%r \(rope\): features of the input \(heads x head_dim\) \(expected 12, found 16\)"),
        (broken("q", width=15), r"%q \(linear\): features of the result \(expected 16, found 15\)"),
        (broken("q", params=(("weight", "o"),)), r"%q \(linear\): features of the input \(expected 16, found 6\)"),
        (
            broken("q", params=(("weight", "norm"),)),
            r"%q \(linear\): number of dimensions of weight \(expected 2, found 1",
        ),
        (
            broken("k", params=(("weight", "kv"), ("bias", "norm"))),
            r"%k \(linear\): shape of bias .*\(8,\), found \(6,\)",
        ),
        (
            broken("n", params=(("weight", "q.bias"),)),
            r"%n \(rms_norm\): shape of weight .*\(6,\) or a divisor of it, found \(16,\)",
        ),
        (broken("f", inputs=("m", "a")), r"%f \(silu_mul\): features of the inputs \(expected 6, found 16\)"),
        (broken("n", name="h"), r"value name 'h' \(expected one definition, found two\)"),
        (broken("n", name="ids"), r"value name 'ids' \(expected one definition, found two\)"),
        (replace(GRAPH, output="nix"), r"output \(expected the name of a node, found %nix\)"),
        (replace(GRAPH, output="sum"), r"%sum \(add\): features of the output .*expected 11, found 6"),
        (replace(GRAPH, vocab=12), r"%h \(embedding\): rows of weight .*expected 12, found 11"),
        (replace(GRAPH, context=0), r"context \(expected at least 1 token, found 0\)"),
        (
            replace(GRAPH, params=(*GRAPH.params, Param("more", (2,)))),
            r"param or const more \(expected a node that uses it",
        ),
        (replace(GRAPH, params=(*GRAPH.params, Param("q", (2,)))), r"param or const name 'q' .*found two"),
        (replace(GRAPH, params=(Param("embed", (0, 6)), *GRAPH.params[1:])), r"param embed: shape \(expected positive"),
        (replace(GRAPH, consts=(Const("inv_freq", (0.1, 0.2)),)), r"const inv_freq: values \(expected finite float32"),
        (replace(GRAPH, consts=(Const("inv_freq", ()),)), r"const inv_freq: values"),
    ],
)
def test_refusals(graph: Graph, expected: str) -> None:
    with pytest.raises(InvalidIR, match=expected):
        verify(graph)


def test_a_graph_without_nodes_is_refused() -> None:
    with pytest.raises(InvalidIR, match="output"):
        verify(Graph("none", 1, 1, (), (), (), "x"))
    with pytest.raises(InvalidIR, match=r"'' .*found no name"):
        verify(replace(GRAPH, nodes=(Node("", Op.SILU, ("h",)),)))
