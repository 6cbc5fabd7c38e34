"""The text form reads back exactly, and damaged text is refused with its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.errors import InvalidIR
from n730c.ir.core import Const, Graph, Node, Op, Param
from n730c.ir.text import parse, to_text
from tests.ir.graphs import every_op

names = st.one_of(st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True), st.text(min_size=1, max_size=8))
float32s = st.floats(allow_nan=False, allow_infinity=False, width=32)
attrs = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
pairs = st.tuples(names, names)
nodes = st.builds(
    Node,
    name=names,
    op=st.sampled_from(Op),
    inputs=st.lists(names, max_size=3).map(tuple),
    params=st.lists(pairs, max_size=2).map(tuple),
    attrs=st.lists(st.tuples(names, attrs), max_size=3).map(tuple),
    width=st.integers(0, 2**40),
    layer=st.none() | st.integers(0, 10**6),
    source=st.just("") | names,
)
graphs = st.builds(
    Graph,
    name=st.text(max_size=12),
    vocab=st.integers(0, 2**40),
    context=st.integers(0, 2**40),
    params=st.lists(st.builds(Param, names, st.lists(st.integers(0, 2**40)).map(tuple)), max_size=4).map(tuple),
    consts=st.lists(st.builds(Const, names, st.lists(float32s, max_size=6).map(tuple)), max_size=3).map(tuple),
    nodes=st.lists(nodes, max_size=5).map(tuple),
    output=names,
    inputs=st.lists(names, max_size=2).map(tuple),
)


def types(graph: Graph) -> list[type]:
    """1, 1.0 and True are equal in Python but not in the IR."""
    return [type(value) for node in graph.nodes for _, value in node.attrs]


@given(graphs)
@settings(max_examples=150, deadline=None)
def test_round_trip(graph: Graph) -> None:
    back = parse(to_text(graph))
    assert back == graph
    assert types(back) == types(graph)
    assert to_text(back) == to_text(graph)


def test_what_it_looks_like() -> None:
    text = to_text(every_op())
    assert text.splitlines()[0] == 'graph "every op" (%ids) vocab=11 context=32'
    assert "const inv_freq : [1.0, 0.25]" in text
    assert "%q = linear(%n) {weight=q, bias=q.bias} : f32[s,16]  # layer 0 layers.0.q" in text
    assert "%s = silu(%o) : f32[s,6]  # layer 0\n" in text
    assert text.endswith("return %logits\n")


def test_float32_tables_are_written_short_and_read_exactly() -> None:
    third = float(np.float32(1) / np.float32(3))
    graph = Graph("t", 1, 1, (), (Const("c", (third,)),), (), "x")
    assert "[0.33333334]" in to_text(graph)
    assert parse(to_text(graph)).consts[0].values == (third,)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("vocab=11", "vocab=x", r"line 1 \(expected a whole number, found x\)"),
        ("vocab=11", "vocab=-1", r"line 1 \(expected a whole number, found -1\)"),
        ("[1.0, 0.25]", "[1.0 0.25]", r"\(expected ',', found 0.25\)"),
        ("[1.0, 0.25]", "[1.0, 0.25", r"\(expected ',', found the end of the line\)"),
        ("linear(%n)", "linera(%n)", r"\(expected the name of an op, found linera\)"),
        ("%q = ", "%q ", r"\(expected '=', found linear\)"),
        ("return %logits", "", r"\(expected 'return', found %\)"),
        ("return %logits", "return %logits %x", r"\(expected the end of the line, found %\)"),
        ("%q = ", "§ = ", "line [0-9]+: cannot read '§"),
        ('"every op"', '"every \\q op"', r"line 1 \(expected a JSON string"),
    ],
)
def test_damaged_text_is_refused(old: str, new: str, expected: str) -> None:
    text = to_text(every_op())
    assert old in text
    with pytest.raises(InvalidIR, match=expected):
        parse(text.replace(old, new, 1))


def test_empty_text_is_refused() -> None:
    with pytest.raises(InvalidIR, match="found nothing"):
        parse("\n\n")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_one_character_is_read_or_refused(data: st.DataObject) -> None:
    text = to_text(every_op())
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from(["", "%", '"', "\\", "{", "]", "=", "-", "1", "e", "x", "\n", "é", "\x85"]))
    try:
        parse(text[:at] + new + text[at + 1 :])
    except InvalidIR as error:
        assert "IR text" in str(error)
