"""The text form: one line a node, read by people, compared by golden tests, parsed back exactly.

    graph "tiny" (%ids) vocab=2048 context=512
    param model.norm.weight : [256]
    const model.rotary_emb.inv_freq : [1.0, 0.1]
    %norm = rms_norm(%l3_add_1) {weight=model.norm.weight, eps=1e-05} : f32[s,256]  # model.norm
    return %lm_head

What follows ``#`` is where the node came from: ``layer N`` and the module's path. Names that are not plain words are
written as JSON strings; floats are the shortest decimals that read back as the same number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from n730c.errors import InvalidIR
from n730c.ir.core import Attr, Const, Graph, Node, Op, Param

T = TypeVar("T")
_WORD = re.compile(r"[A-Za-z0-9_./+|-]+")
_RESERVED = {"true", "false", "layer"}
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z0-9_./+|-]+|[%(){}\[\]=:,#])')


def to_text(graph: Graph) -> str:
    """The text of ``graph``; ``parse(to_text(graph)) == graph`` for every graph that ``verify`` accepts."""
    inputs = ", ".join(f"%{_name(name)}" for name in graph.inputs)
    tables = "" if graph.tables_for is None else f" tables_for={graph.tables_for}"
    lines = [f"graph {json.dumps(graph.name)} ({inputs}) vocab={graph.vocab} context={graph.context}{tables}"]
    lines += [f"param {_name(p.name)} : [{','.join(map(str, p.shape))}]" for p in graph.params]
    lines += [f"const {_name(c.name)} : [{', '.join(str(np.float32(v)) for v in c.values)}]" for c in graph.consts]
    lines += [_node_text(node) for node in graph.nodes]
    return "\n".join([*lines, f"return %{_name(graph.output)}"]) + "\n"


def _name(name: str) -> str:
    plain = _WORD.fullmatch(name) and name not in _RESERVED and not _is_number(name)
    return name if plain else json.dumps(name)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _node_text(node: Node) -> str:
    inputs = ", ".join(f"%{_name(name)}" for name in node.inputs)
    items = [f"{_name(role)}={_name(name)}" for role, name in node.params]
    items += [f"{_name(key)}={json.dumps(value)}" for key, value in node.attrs]
    braces = f" {{{', '.join(items)}}}" if items else ""
    layer = [f"layer {node.layer}"] if node.layer is not None else []
    origin = " ".join([*layer, *([_name(node.source)] if node.source else [])])
    line = f"%{_name(node.name)} = {node.op.value}({inputs}){braces} : f32[s,{node.width}]"
    return f"{line}  # {origin}" if origin else line


def parse(text: str) -> Graph:
    """The graph that ``text`` describes, not yet verified. Raises InvalidIR naming the line and what was expected."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InvalidIR("IR text", expected="a line 'graph …'", found="nothing")
    head = _Line(*lines[0])
    head.take("graph")
    name, inputs = head.name(), head.items("(", ")", head.value_name)
    vocab, context = head.keyed_int("vocab"), head.keyed_int("context")
    tables_for = head.keyed_int("tables_for") if head.tokens[head.at :] else None
    head.end()
    params: list[Param] = []
    consts: list[Const] = []
    nodes: list[Node] = []
    for number, content in lines[1:-1]:
        line = _Line(number, content)
        if line.maybe("param"):
            params.append(Param(line.name(), line.items_after_colon(line.integer)))
        elif line.maybe("const"):
            consts.append(Const(line.name(), line.items_after_colon(line.float32)))
        else:
            nodes.append(line.node())
        line.end()
    tail = _Line(*lines[-1])
    tail.take("return")
    output = tail.value_name()
    tail.end()
    return Graph(name, vocab, context, tuple(params), tuple(consts), tuple(nodes), output, inputs, tables_for)


class _Line:
    """The tokens of one line and a cursor: a recursive-descent parser with one rule a method."""

    def __init__(self, number: int, content: str) -> None:
        self.number, self.at, self.tokens = number, 0, list[str]()
        end = 0
        while content[end:].strip():
            match = _TOKEN.match(content, end)
            if not match:
                raise InvalidIR(f"IR text, line {number}: cannot read {content[end:].strip()[:20]!r}")
            self.tokens.append(match[1])
            end = match.end()

    def fail(self, expected: str) -> InvalidIR:
        found = self.tokens[self.at] if self.at < len(self.tokens) else "the end of the line"
        return InvalidIR(f"IR text, line {self.number}", expected=expected, found=found)

    def maybe(self, token: str) -> bool:
        found = self.at < len(self.tokens) and self.tokens[self.at] == token
        self.at += found
        return found

    def take(self, *tokens: str) -> None:
        for token in tokens:
            if not self.maybe(token):
                raise self.fail(f"'{token}'")

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("the end of the line")

    def word(self, expected: str, fits: Callable[[str], bool] = lambda word: True) -> str:
        word = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not _WORD.fullmatch(word) or not fits(word):
            raise self.fail(expected)
        self.at += 1
        return self.tokens[self.at - 1]

    def name(self) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at].startswith('"'):
            try:
                name = json.loads(self.tokens[self.at])
            except ValueError:
                raise self.fail("a JSON string") from None
            self.at += 1
            return str(name)
        return self.word("a name")

    def value_name(self) -> str:
        self.take("%")
        return self.name()

    def integer(self) -> int:
        return int(self.word("a whole number", str.isdecimal))

    def float32(self) -> float:
        return float(np.float32(self.word("a number", _is_number)))

    def keyed_int(self, key: str) -> int:
        self.take(key, "=")
        return self.integer()

    def items_after_colon(self, item: Callable[[], T]) -> tuple[T, ...]:
        self.take(":")
        return self.items("[", "]", item)

    def items(self, opening: str, closing: str, item: Callable[[], T]) -> tuple[T, ...]:
        self.take(opening)
        found: list[T] = []
        while not self.maybe(closing):
            if found:
                self.take(",")
            found.append(item())
        return tuple(found)

    def binding(self) -> tuple[str, str | None, Attr]:
        """``role=name`` of a param, or ``key=literal`` of an attribute (then the name is None)."""
        key = self.name()
        self.take("=")
        for token, truth in (("true", True), ("false", False)):
            if self.maybe(token):
                return key, None, truth
        if self.at < len(self.tokens) and _is_number(self.tokens[self.at]):
            word = self.word("a number")
            return key, None, int(word) if word.lstrip("-").isdecimal() else float(word)
        return key, self.name(), 0

    def node(self) -> Node:
        name = self.value_name()
        self.take("=")
        op = Op(self.word("the name of an op", lambda word: word in {op.value for op in Op}))
        inputs = self.items("(", ")", self.value_name)
        bindings = self.items("{", "}", self.binding) if self.tokens[self.at : self.at + 1] == ["{"] else ()
        self.take(":", "f32", "[", "s", ",")
        width = self.integer()
        self.take("]")
        layer = source = None
        if self.maybe("#"):
            layer = self.integer() if self.maybe("layer") else None
            source = self.name() if self.at < len(self.tokens) else None
        params = tuple((role, ref) for role, ref, _ in bindings if ref is not None)
        attrs = tuple((key, value) for key, ref, value in bindings if ref is None)
        return Node(name, op, inputs, params, attrs, width, layer, source or "")
