"""Filters and tests of a chat template, and the loops that Jinja's lazy filters become.

They work on the topmost value of the stack; what they take beside it are expressions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import nodes

from n730c.chat_format import Compare, Op
from n730c.frontend.chat_code import Code, Label, refuse

# Filters that take the text of whatever they are given, as methods of texts.
_TEXT_FILTERS = {
    "trim": "strip",
    "upper": "upper",
    "lower": "lower",
    "capitalize": "capitalize",
    "title": "title_filter",
}
_FILTERS = {"length": "length", "count": "length", "first": "first", "last": "last", "abs": "abs"}
_LAZY = ("map", "select", "reject", "selectattr", "rejectattr", "reverse")
_KINDS = ("none", "string", "mapping", "iterable", "sequence", "number", "integer", "boolean", "true", "false")
_TESTS = {"defined": "is_defined", **{name: f"is_{name}" for name in _KINDS}}
_COMPARING_TESTS = {
    **dict.fromkeys(("eq", "equalto", "=="), Compare.EQ),
    **dict.fromkeys(("ne", "!="), Compare.NE),
    **dict.fromkeys(("lt", "lessthan", "<"), Compare.LT),
    **dict.fromkeys(("le", "<="), Compare.LE),
    **dict.fromkeys(("gt", "greaterthan", ">"), Compare.GT),
    **dict.fromkeys(("ge", ">="), Compare.GE),
    "in": Compare.IN,
}


@dataclass
class Filters(ABC):
    """Compiles filters and tests into ``code``."""

    code: Code

    @abstractmethod
    def expression(self, node: nodes.Node) -> None:
        """Instructions that push the value of ``node``. Raises UnsupportedModel."""

    def all(self, items: Sequence[nodes.Expr]) -> None:
        for item in items:
            self.expression(item)

    def arguments(self, node: nodes.Call | nodes.Filter, names: Sequence[str], shown: str) -> None:
        """Push the arguments in the order of ``names``; those that were left out at the end are not pushed."""
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise refuse(node, f"{shown} with * or **")
        given: dict[str, nodes.Expr] = dict(zip(names, node.args, strict=False))
        if len(node.args) > len(names):
            raise refuse(node, f"{shown} with {len(node.args)} arguments", f"at most {len(names)}")
        for pair in node.kwargs:
            if pair.key not in names or pair.key in given:
                raise refuse(node, f"{shown} with the argument {pair.key}", ", ".join(names) or "none")
            given[str(pair.key)] = pair.value
        for name in names[: len(given)]:
            if name not in given:
                raise refuse(node, f"{shown} without the argument {name}")
            self.expression(given[name])

    def filter(self, node: nodes.Filter) -> None:
        """A filter; those that are lazy in Jinja only where that makes no difference."""
        if node.name in _LAZY:
            raise refuse(node, f"filter {node.name} whose result is not turned into a list", f"{node.name} … | list")
        assert node.node is not None
        if node.name in ("list", "join", "first"):
            self.iterable(node.node)
        else:
            self.expression(node.node)
        self.apply(node)

    def apply(self, node: nodes.Filter) -> None:
        """The filter on the topmost value."""
        code, name = self.code, node.name
        plain = len(node.args) + len(node.kwargs)
        if name in _TEXT_FILTERS:
            code.emit(Op.CONCAT, 1)
            self.arguments(node, ("chars",) if name == "trim" else (), f"filter {name}")
            code.builtin(node, _TEXT_FILTERS[name], 1 + plain, f"filter {name}")
        elif name in _FILTERS:
            self.arguments(node, (), f"filter {name}")
            code.builtin(node, _FILTERS[name], 1, f"filter {name}")
        elif name == "string":
            self.arguments(node, (), "filter string")
            code.emit(Op.CONCAT, 1)
        elif name in ("list", "items"):
            self.arguments(node, (), f"filter {name}")
            code.builtin(node, name, 1, f"filter {name}")
        elif name == "int":
            self.arguments(node, ("default",), "filter int")
            code.builtin(node, "int", 1 + plain, "filter int")
        elif name in ("default", "d"):
            self.arguments(node, ("default_value", "boolean"), f"filter {name}")
            if plain == 0:
                code.text(Op.STRING, "")
            code.builtin(node, "default", max(2, 1 + plain), f"filter {name}")
        elif name == "replace":
            self.replace(node)
        elif name == "join":
            self.arguments(node, ("d",), "filter join")
            if plain == 0:
                code.text(Op.STRING, "")
            code.builtin(node, "join_filter", 2, "filter join")
        elif name == "tojson":
            self.tojson(node)
        else:
            raise refuse(node, f"filter {name}")

    def replace(self, node: nodes.Filter) -> None:
        self.code.emit(Op.CONCAT, 1)
        if not 2 <= len(node.args) <= 3 or node.kwargs:
            raise refuse(node, "filter replace", "two or three unnamed arguments")
        for argument in node.args[:2]:
            self.expression(argument)
            self.code.emit(Op.CONCAT, 1)
        self.all(node.args[2:])
        self.code.builtin(node, "replace", 1 + len(node.args), "filter replace")

    def tojson(self, node: nodes.Filter) -> None:
        indent: nodes.Expr | None = None
        for pair in node.kwargs:
            if pair.key == "indent":
                indent = pair.value
            elif not (pair.key == "ensure_ascii" and pair.value == nodes.Const(False)):
                raise refuse(node, f"filter tojson with the argument {pair.key}", "indent")
        if node.args:
            raise refuse(node, "filter tojson with unnamed arguments", "indent=…")
        if indent is not None:
            self.expression(indent)
        self.code.builtin(node, "tojson", 1 if indent is None else 2, "filter tojson")

    def test(self, node: nodes.Test) -> None:
        """The test on the topmost value."""
        code, name = self.code, node.name
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise refuse(node, f"test {name} with named arguments")
        count = len(node.args)
        if name in _TESTS and count == 0:
            code.builtin(node, _TESTS[name], 1, f"test {name}")
        elif name == "undefined" and count == 0:
            code.builtin(node, "is_defined", 1, "test undefined")
            code.emit(Op.NOT)
        elif name in _COMPARING_TESTS and count == 1:
            self.all(node.args)
            code.emit(Op.COMPARE, _COMPARING_TESTS[name])
        elif name == "divisibleby" and count == 1:
            self.all(node.args)
            code.builtin(node, "divisible", 2, "test divisibleby")
        elif name in ("odd", "even") and count == 0:
            code.integer(node, 2)
            code.builtin(node, "divisible", 2, f"test {name}")
            if name == "odd":
                code.emit(Op.NOT)
        else:
            raise refuse(node, f"test {name}")

    def iterable(self, node: nodes.Node) -> None:
        """Push what is gone through at once, so that Jinja's lazy filters may stand here."""
        if not (isinstance(node, nodes.Filter) and node.name in _LAZY):
            self.expression(node)
            return
        assert node.node is not None
        if node.name == "reverse":
            self.iterable(node.node)
            self.code.builtin(node, "reversed", 1, "filter reverse")
            return
        if any(name.name == "loop" for argument in node.args for name in argument.find_all(nodes.Name)):
            raise refuse(node, f"loop within filter {node.name}")
        self.code.emit(Op.LIST, 0)
        self.iterable(node.node)
        again, end = Label(), Label()
        self.code.emit(Op.FOR)
        self.code.place(again)
        self.code.emit(Op.NEXT, end)
        self.each(node, again)
        self.code.place(end)
        self.code.emit(Op.FOR_END)

    def each(self, node: nodes.Filter, again: Label) -> None:
        """The body of such a filter's loop: list item → list, then on to ``again``."""
        code, line = self.code, node.lineno
        if node.name == "map":
            self.mapped(node)
            code.emit(Op.APPEND)
            code.emit(Op.JUMP, again)
            return
        arguments = list(node.args)
        if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise refuse(node, f"filter {node.name} with named arguments")
        code.emit(Op.DUP)
        if node.name.endswith("attr"):
            self.attribute(node, arguments.pop(0) if arguments else None)
        if arguments:
            name = arguments.pop(0)
            if not (isinstance(name, nodes.Const) and isinstance(name.value, str)):
                raise refuse(node, f"filter {node.name} by a computed test", "the name of a test")
            self.test(nodes.Test(nodes.Const(None), name.value, arguments, [], None, None, lineno=line))
        if node.name.startswith("reject"):
            code.emit(Op.NOT)
        code.keep_if_true(again)

    def mapped(self, node: nodes.Filter) -> None:
        keywords: dict[str, nodes.Expr] = {str(pair.key): pair.value for pair in node.kwargs}
        if not node.args and "attribute" in keywords and keywords.keys() <= {"attribute", "default"}:
            self.attribute(node, keywords["attribute"], keywords.get("default"))
            return
        if not node.args or not isinstance(node.args[0], nodes.Const) or not isinstance(node.args[0].value, str):
            raise refuse(node, "filter map", "attribute='…', or the name of a filter")
        filter_name = node.args[0].value
        if filter_name in _LAZY:
            raise refuse(node, f"filter map by {filter_name}")
        self.apply(nodes.Filter(None, filter_name, node.args[1:], node.kwargs, None, None, lineno=node.lineno))

    def attribute(self, node: nodes.Filter, name: nodes.Expr | None, default: nodes.Expr | None = None) -> None:
        """The attribute (a.b.c) of the topmost value, as ``map`` and its kin look it up: entries, not attributes."""
        if not isinstance(name, nodes.Const) or not isinstance(name.value, str):
            raise refuse(node, f"filter {node.name} by a computed attribute", "the name of an attribute")
        for part in name.value.split("."):
            if part.isdigit():
                self.code.integer(node, int(part))
            else:
                self.code.text(Op.STRING, part)
            self.code.emit(Op.ITEM)
            if default is not None:
                self.expression(default)
                self.code.builtin(node, "default", 2, "filter map")
