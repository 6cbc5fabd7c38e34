"""The assembler under the chat template compiler: instructions, labels, strings, and how a construct is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from jinja2 import nodes

from n730c.chat_format import BUILTINS, INTEGER_BIAS, MAX_OPERANDS, Op, Value
from n730c.errors import UnsupportedModel

NO_CHAT = "Build with --no-chat to leave the template out."


def refuse(node: nodes.Node, what: str, expected: str = "") -> UnsupportedModel:
    """The error for a construct that has no place in a chat program."""
    return UnsupportedModel(
        f"the chat template cannot be compiled: {what} in line {node.lineno}", expected=expected, hint=NO_CHAT
    )


class Label:
    """A place in the code; jumps may name it before it is known."""

    at: int | None = None


@dataclass
class Code:
    """Instructions in the making. ``strings`` are numbered as they come up."""

    words: list[tuple[Op, int | Label]] = field(default_factory=list)
    strings: dict[str, int] = field(default_factory=dict)
    line: int = 0

    def emit(self, op: Op, operand: int | Label = 0) -> None:
        self.words.append((op, operand))

    def at_line(self, node: nodes.Node) -> None:
        """What follows comes from the line of ``node``."""
        if node.lineno != self.line:
            self.line = node.lineno
            self.emit(Op.LINE, min(node.lineno, (1 << 24) - 1))

    def place(self, label: Label) -> None:
        label.at = len(self.words)

    def keep_if_true(self, again: Label) -> None:
        """End of a loop that filters: list item condition → list, with the item or without, then on to ``again``."""
        drop = Label()
        self.emit(Op.JUMP_FALSE, drop)
        self.emit(Op.APPEND)
        self.emit(Op.JUMP, again)
        self.place(drop)
        self.emit(Op.DROP)
        self.emit(Op.JUMP, again)

    def text(self, op: Op, text: str) -> None:
        """``op`` with a string (or a name) as its operand."""
        self.emit(op, self.strings.setdefault(text, len(self.strings)))

    def integer(self, node: nodes.Node, value: int) -> None:
        if not -INTEGER_BIAS <= value < INTEGER_BIAS:
            raise refuse(node, f"the number {value}", "less than 2^23")
        self.emit(Op.INTEGER, value + INTEGER_BIAS)

    def value(self, value: Value) -> None:
        self.emit(Op.VALUE, value)

    def counted(self, node: nodes.Node, op: Op, count: int, most: int = MAX_OPERANDS) -> None:
        if count > most:
            raise refuse(node, f"{count} values in one expression", f"at most {most}")
        self.emit(op, count)

    def builtin(self, node: nodes.Node, name: str, count: int, shown: str) -> None:
        """Call a builtin on the ``count`` topmost values; ``shown``: what the template calls it."""
        number, least, most = BUILTINS[name]
        if not least <= count <= most:
            raise refuse(node, f"{shown} with {count - 1} arguments", f"{least - 1} to {most - 1}")
        self.emit(Op.BUILTIN, number << 8 | count)

    def finished(self) -> list[tuple[Op, int]]:
        """All instructions, with labels turned into numbers."""
        done = []
        for op, operand in self.words:
            if isinstance(operand, Label):
                assert operand.at is not None, op
                operand = operand.at
            done.append((op, operand))
        return done
