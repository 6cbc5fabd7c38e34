"""Expressions of a chat template, from Jinja's own syntax tree to instructions that leave one value on the stack."""

from __future__ import annotations

from dataclasses import dataclass, field

from jinja2 import nodes

from n730c.chat_format import MAX_OPERANDS, Binary, Compare, Op, Value
from n730c.frontend.chat_code import Label, refuse
from n730c.frontend.chat_filters import Filters

_CONSTANTS = {None: Value.NONE, False: Value.FALSE, True: Value.TRUE}
_BINARY = {
    nodes.Add: Binary.ADD,
    nodes.Sub: Binary.SUB,
    nodes.Mul: Binary.MUL,
    nodes.FloorDiv: Binary.FLOOR_DIV,
    nodes.Mod: Binary.MOD,
}
_COMPARE = {
    "eq": Compare.EQ,
    "ne": Compare.NE,
    "lt": Compare.LT,
    "lteq": Compare.LE,
    "gt": Compare.GT,
    "gteq": Compare.GE,
    "in": Compare.IN,
    "notin": Compare.NOT_IN,
}
_METHODS = frozenset(
    (
        *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "removeprefix"),
        *("removesuffix", "replace", "upper", "lower", "capitalize", "title", "find", "count", "join"),
        *("get", "keys", "values", "items"),
    )
)
# Attributes that a mapping itself has: `x.items` without a call is a method and never the entry "items".
_OF_MAPPINGS = frozenset(
    ("clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values")
)
_FUNCTIONS = ("range", "raise_exception", "strftime_now", "namespace", "dict")
_OTHER_GLOBALS = ("lipsum", "cycler", "joiner")


@dataclass
class Expressions(Filters):
    """Compiles expressions into ``code``. ``macros``: those of the template by name, with their parameters."""

    assigned: frozenset[str] = frozenset()  # names that the template itself assigns somewhere
    macros: dict[str, tuple[int, nodes.Macro]] = field(default_factory=dict)

    def expression(self, node: nodes.Node) -> None:
        """Instructions that push the value of ``node``. Raises UnsupportedModel."""
        code = self.code
        match node:
            case nodes.Const():
                self.constant(node, node.value)
            case nodes.TemplateData():
                code.text(Op.STRING, node.data)
            case nodes.Name():
                self.name(node)
            case nodes.Tuple() | nodes.List():
                self.all(node.items)
                code.counted(node, Op.LIST, len(node.items))
            case nodes.Dict():
                for pair in node.items:
                    self.expression(pair.key)
                    self.expression(pair.value)
                code.counted(node, Op.MAPPING, len(node.items), MAX_OPERANDS // 2)
            case nodes.CondExpr():
                self.conditional(node)
            case nodes.And() | nodes.Or():
                end = Label()
                self.expression(node.left)
                code.emit(Op.AND if isinstance(node, nodes.And) else Op.OR, end)
                self.expression(node.right)
                code.place(end)
            case nodes.Not():
                self.expression(node.node)
                code.emit(Op.NOT)
            case nodes.Neg():
                self.expression(node.node)
                code.emit(Op.NEGATE)
            case nodes.Concat():
                self.all(node.nodes)
                code.counted(node, Op.CONCAT, len(node.nodes))
            case nodes.Compare():
                if len(node.ops) != 1:
                    raise refuse(node, "a chain of comparisons", "one at a time")
                self.expression(node.expr)
                self.expression(node.ops[0].expr)
                code.emit(Op.COMPARE, _COMPARE[node.ops[0].op])
            case nodes.Getattr():
                if node.attr in _OF_MAPPINGS or node.attr.startswith("_"):
                    raise refuse(node, f"attribute {node.attr} that is not called", "an entry of a message")
                self.expression(node.node)
                code.text(Op.ATTR, node.attr)
            case nodes.Getitem():
                self.item(node)
            case nodes.Filter():
                self.filter(node)
            case nodes.Test(name="defined", node=nodes.Name(name=name)) if (
                self.is_function(node.node) or name in self.macros
            ):
                code.value(Value.TRUE)
            case nodes.Test():
                self.expression(node.node)
                self.test(node)
            case nodes.Call():
                self.call(node)
            case nodes.BinExpr() if type(node) in _BINARY:
                self.expression(node.left)
                self.expression(node.right)
                code.emit(Op.BINARY, _BINARY[type(node)])
            case _:
                raise refuse(node, type(node).__name__)

    def constant(self, node: nodes.Node, value: object) -> None:
        if value is None or isinstance(value, bool):
            self.code.value(_CONSTANTS[value])
        elif isinstance(value, int):
            self.code.integer(node, value)
        elif isinstance(value, str):
            self.code.text(Op.STRING, value)
        else:
            raise refuse(node, f"the constant {value!r}", "a text or a whole number")

    def is_function(self, node: nodes.Node) -> bool:
        """A function of transformers' environment that the template has not given another meaning."""
        return isinstance(node, nodes.Name) and node.name in _FUNCTIONS and node.name not in self.assigned

    def name(self, node: nodes.Name) -> None:
        if node.name in self.macros or self.is_function(node) or node.name in _OTHER_GLOBALS:
            raise refuse(node, f"{node.name} as a value", "a call of it")
        if node.name in ("self", "caller", "varargs", "kwargs"):
            raise refuse(node, f"the variable {node.name}")
        self.code.text(Op.LOAD, node.name)

    def conditional(self, node: nodes.CondExpr) -> None:
        other, end = Label(), Label()
        self.expression(node.test)
        self.code.emit(Op.JUMP_FALSE, other)
        self.expression(node.expr1)
        self.code.emit(Op.JUMP, end)
        self.code.place(other)
        if node.expr2 is None:
            self.code.value(Value.UNDEFINED)
        else:
            self.expression(node.expr2)
        self.code.place(end)

    def item(self, node: nodes.Getitem) -> None:
        self.expression(node.node)
        if isinstance(node.arg, nodes.Slice):
            for part in (node.arg.start, node.arg.stop, node.arg.step):
                self.expression(part or nodes.Const(None, lineno=node.lineno))
            self.code.emit(Op.SLICE)
            return
        self.expression(node.arg)
        self.code.emit(Op.ITEM)

    def call(self, node: nodes.Call) -> None:
        target = node.node
        if isinstance(target, nodes.Name) and target.name in self.macros:
            self.call_macro(node, target.name)
        elif isinstance(target, nodes.Name) and self.is_function(target):
            self.call_function(node, target.name)
        elif isinstance(target, nodes.Getattr) and target.attr == "cycle" and target.node == nodes.Name("loop", "load"):
            self.expression(target.node)
            self.arguments(node, [str(i) for i in range(len(node.args))], "loop.cycle")
            self.code.builtin(node, "cycle", 1 + len(node.args), "loop.cycle")
        elif isinstance(target, nodes.Getattr) and target.attr in _METHODS:
            if node.kwargs:
                raise refuse(node, f".{target.attr}() with named arguments")
            self.expression(target.node)
            self.arguments(node, [str(i) for i in range(len(node.args))], f".{target.attr}()")
            self.code.builtin(node, target.attr, 1 + len(node.args), f".{target.attr}()")
        else:
            name = f".{target.attr}" if isinstance(target, nodes.Getattr) else getattr(target, "name", "an expression")
            raise refuse(node, f"a call of {name}", "a macro, a known function or a method of texts or mappings")

    def call_function(self, node: nodes.Call, name: str) -> None:
        if name in ("namespace", "dict"):
            if node.args or node.dyn_args is not None or node.dyn_kwargs is not None:
                raise refuse(node, f"{name}() of unnamed arguments", "named ones")
            for pair in node.kwargs:
                self.code.text(Op.STRING, pair.key)
                self.expression(pair.value)
            op = Op.NAMESPACE if name == "namespace" else Op.MAPPING
            self.code.counted(node, op, len(node.kwargs), MAX_OPERANDS // 2)
            return
        if node.kwargs:
            raise refuse(node, f"{name}() with named arguments")
        self.arguments(node, [str(i) for i in range(len(node.args))], f"{name}()")
        self.code.builtin(node, name, len(node.args), f"{name}()")

    def call_macro(self, node: nodes.Call, name: str) -> None:
        number, macro = self.macros[name]
        names = [parameter.name for parameter in macro.args]
        if node.dyn_args is not None or node.dyn_kwargs is not None or len(node.args) > len(names):
            raise refuse(node, f"{name}() with other arguments than its own")
        given: dict[str, nodes.Expr] = dict(zip(names, node.args, strict=False))
        for pair in node.kwargs:
            if pair.key not in names or pair.key in given:
                raise refuse(node, f"{name}() with the argument {pair.key}", ", ".join(names) or "none")
            given[pair.key] = pair.value
        for parameter in names:
            if parameter in given:
                self.expression(given[parameter])
            else:
                self.code.value(Value.MISSING)
        self.code.emit(Op.CALL, number)
