"""Compiles a Jinja chat template to a chat program: statements; chat_expressions.py has the expressions.

Jinja's scopes become scopes at run time: an iteration of a loop, ``with``, a block that is captured and a macro have
one each; what ``set`` assigns lives in the innermost, and names are looked up from there outwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import nodes

from n730c.chat_format import MAX_OPERANDS, ChatProgram, Op
from n730c.errors import UnsupportedModel
from n730c.frontend.chat_code import NO_CHAT, Code, Label, refuse
from n730c.frontend.chat_expressions import Expressions
from n730c.frontend.chat_template import parse_template


def compile_chat(template: str, special_tokens: Mapping[str, str], source: str) -> ChatProgram:
    """The program for ``template``; ``special_tokens`` (bos_token and kin) are its first variables.

    ``source``: where the template stands, for errors. Raises UnsupportedModel, which names what cannot be compiled.
    """
    tree = parse_template(template, source)
    try:
        return _compile(tree, special_tokens)
    except RecursionError:
        raise UnsupportedModel(
            f"the chat template in {source} cannot be compiled", found="expressions nested too deep", hint=NO_CHAT
        ) from None


def _compile(tree: nodes.Template, special_tokens: Mapping[str, str]) -> ChatProgram:
    code = Code()
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    macros: dict[str, tuple[int, nodes.Macro]] = {}
    for macro in tree.find_all(nodes.Macro):
        if macro not in tree.body or macro.name in assigned or macro.name in macros:
            raise refuse(macro, f"macro {macro.name} that is not defined once and for all", "macros at the top")
        macros[macro.name] = len(macros), macro
    statements = Statements(code, frozenset(assigned | macros.keys() | special_tokens.keys()), {})
    for name, text in special_tokens.items():
        code.text(Op.STRING, text)
        code.text(Op.STORE, name)
    statements.main(tree.body, macros)
    entries = [(statements.entry_of(number), len(macro.args)) for number, macro in macros.values()]
    return ChatProgram(code.finished(), list(code.strings), entries)


@dataclass
class _Loop:
    """Where ``continue`` and ``break`` go."""

    again: Label
    end: Label


@dataclass
class Statements(Expressions):
    """Compiles statements into ``code``; each leaves the stack as it was."""

    loops: list[_Loop] = field(default_factory=list)
    entries: dict[int, Label] = field(default_factory=dict)

    def entry_of(self, macro: int) -> int:
        at = self.entries[macro].at
        assert at is not None
        return at

    def main(self, body: Sequence[nodes.Node], macros: Mapping[str, tuple[int, nodes.Macro]]) -> None:
        """The template itself, then its macros. At the top a macro can be called only behind its definition."""
        for node in body:
            if isinstance(node, nodes.Macro):
                self.macros[node.name] = macros[node.name]
            else:
                self.statement(node)
        self.code.emit(Op.END)
        for number, macro in macros.values():
            self.macro(number, macro)

    def statements(self, body: Sequence[nodes.Node]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: nodes.Node) -> None:
        """Raises UnsupportedModel for what has no place in a chat program."""
        code = self.code
        match node:
            case nodes.Output():
                for part in node.nodes:
                    self.output(part)
                return
            case nodes.Scope():
                code.emit(Op.SCOPE)
                self.statements(node.body)
                code.emit(Op.END_SCOPE)
                return
        code.at_line(node)
        match node:
            case nodes.If():
                self.branches(node)
            case nodes.For():
                self.loop(node)
            case nodes.Assign():
                self.assign(node)
            case nodes.AssignBlock():
                self.captured(node.body)
                self.filtered(node.filter)
                self.store(node.target)
            case nodes.FilterBlock():
                self.captured(node.body)
                self.filtered(node.filter)
                code.emit(Op.PRINT)
            case nodes.With():
                self.all(node.values)
                code.emit(Op.SCOPE)
                for target in reversed(node.targets):
                    self.store(target)
                self.statements(node.body)
                code.emit(Op.END_SCOPE)
            case nodes.ExprStmt():
                self.expression(node.node)
                code.emit(Op.DROP)
            case nodes.Break() | nodes.Continue():
                if not self.loops:
                    raise refuse(node, "break or continue outside of a loop")
                code.emit(Op.JUMP, self.loops[-1].end if isinstance(node, nodes.Break) else self.loops[-1].again)
            case _:
                raise refuse(node, f"statement {type(node).__name__}")

    def output(self, part: nodes.Expr) -> None:
        if isinstance(part, nodes.TemplateData):
            self.code.text(Op.TEXT, part.data)
            return
        self.code.at_line(part)
        while isinstance(part, nodes.Filter) and part.name == "safe" and part.node is not None:
            part = part.node  # nothing is escaped, so it changes nothing in what is printed
        self.expression(part)
        self.code.emit(Op.PRINT)

    def branches(self, node: nodes.If) -> None:
        end = Label()
        for branch in (node, *node.elif_):
            other = Label()
            self.expression(branch.test)
            self.code.emit(Op.JUMP_FALSE, other)
            self.statements(branch.body)
            self.code.emit(Op.JUMP, end)
            self.code.place(other)
        self.statements(node.else_)
        self.code.place(end)

    def loop(self, node: nodes.For) -> None:
        if node.recursive:
            raise refuse(node, "a recursive loop")
        code, loop = self.code, _Loop(Label(), Label())
        if node.test is None:
            self.iterable(node.iter)
        else:
            self.those_that(node, node.test)
        code.emit(Op.FOR)
        code.place(loop.again)
        code.emit(Op.NEXT, loop.end)
        self.store(node.target)
        self.loops.append(loop)
        self.statements(node.body)
        self.loops.pop()
        if node.else_:  # in Jinja it is what an iteration that came to its end prevents
            code.emit(Op.FOR_DONE)
        code.emit(Op.JUMP, loop.again)
        code.place(loop.end)
        if node.else_:
            done = Label()
            code.emit(Op.FOR_ELSE, done)
            code.emit(Op.SCOPE)
            self.statements(node.else_)
            code.emit(Op.END_SCOPE)
            code.place(done)
        code.emit(Op.FOR_END)

    def those_that(self, node: nodes.For, test: nodes.Node) -> None:
        """Push the list of items that pass the test of ``for … if``.

        Jinja tests one item at a time, between the iterations: what these may change must not be asked for.
        """
        changed = {target.name for target in node.find_all(nodes.NSRef)}
        if any(name.name == "loop" or name.name in changed for name in test.find_all(nodes.Name)):
            raise refuse(node, "a loop whose condition asks for what the loop changes")
        code, again, end = self.code, Label(), Label()
        code.emit(Op.LIST, 0)
        self.iterable(node.iter)
        code.emit(Op.FOR)
        code.place(again)
        code.emit(Op.NEXT, end)
        code.emit(Op.DUP)
        self.store(node.target)
        self.expression(test)
        code.keep_if_true(again)
        code.place(end)
        code.emit(Op.FOR_END)

    def assign(self, node: nodes.Assign) -> None:
        self.expression(node.node)
        self.store(node.target)

    def store(self, target: nodes.Node) -> None:
        """Take the topmost value off the stack into a name, an attribute of a namespace, or several of them."""
        code = self.code
        if isinstance(target, nodes.Name):
            if target.name == "loop":
                raise refuse(target, "an assignment to loop")
            code.text(Op.STORE, target.name)
        elif isinstance(target, nodes.NSRef):
            if target.attr.startswith("_"):
                raise refuse(target, f"attribute {target.attr}")
            code.text(Op.LOAD, target.name)
            code.text(Op.SET_ATTR, target.attr)
        elif isinstance(target, nodes.Tuple):
            code.counted(target, Op.UNPACK, len(target.items), MAX_OPERANDS)
            for item in target.items:
                self.store(item)
        else:
            raise refuse(target, f"an assignment to {type(target).__name__}")

    def captured(self, body: Sequence[nodes.Node]) -> None:
        outer, self.loops = self.loops, []  # no break out of the middle of a captured text
        self.code.emit(Op.SCOPE)
        self.code.emit(Op.CAPTURE)
        self.statements(body)
        self.code.emit(Op.CAPTURED)
        self.code.emit(Op.END_SCOPE)
        self.loops = outer

    def filtered(self, node: nodes.Filter | None) -> None:
        """A chain of filters whose innermost has nothing to work on but the topmost value."""
        if node is not None:
            self.filtered(node.node if isinstance(node.node, nodes.Filter) else None)
            self.apply(node)

    def macro(self, number: int, node: nodes.Macro) -> None:
        code = self.code
        self.entries[number] = Label()
        code.place(self.entries[number])
        for parameter in reversed(node.args):
            self.store(parameter)
        without = len(node.args) - len(node.defaults)
        for parameter, default in zip(node.args[without:], node.defaults, strict=True):
            given = Label()
            code.text(Op.LOAD, parameter.name)
            code.emit(Op.GIVEN, given)
            self.expression(default)
            self.store(parameter)
            code.place(given)
        outer, self.loops = self.loops, []
        self.statements(node.body)
        self.loops = outer
        code.emit(Op.RETURN)
