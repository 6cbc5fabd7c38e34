"""The CHAT section of a package: a chat template as a small program (runtime/FORMAT.md, CHAT).

Knows instructions and bytes only. What a Jinja template means is the business of ``frontend/chat_compiler.py``; the
native twin of the validator is ``runtime/src/chat_validate.cpp``, and ``runtime/src/chat_render.cpp`` runs the program.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

HEADER = struct.Struct(">IIII")  # version, instructions, strings, macros
MACRO = struct.Struct(">II")  # first instruction, parameters
VERSION = 1
MAX_INSTRUCTIONS = MAX_STRINGS = 1 << 18
MAX_MACROS = 1 << 10
MAX_OPERANDS = 255  # that one instruction takes from the stack
INTEGER_BIAS = 1 << 23


class Op(IntEnum):
    """Instructions. The comment says what the 24-bit operand is and what happens to the stack."""

    END = 0
    LINE = 1  # line of the template that what follows comes from
    TEXT = 2  # string: → output
    PRINT = 3  # a →
    STRING = 4  # string: → a
    INTEGER = 5  # value + 2^23: → a
    VALUE = 6  # a Value: → a
    LOAD = 7  # string (a name): → a
    STORE = 8  # name: a →
    SET_ATTR = 9  # name: namespace a →
    ATTR = 10  # name: a → a.name
    ITEM = 11  # a key → a[key]
    SLICE = 12  # a start stop step → a[start:stop:step]
    LIST = 13  # n: a1 … an → list
    MAPPING = 14  # n: k1 a1 … kn an → mapping
    NAMESPACE = 15  # n: k1 a1 … kn an → namespace
    UNPACK = 16  # n: list → an … a1
    APPEND = 17  # list a → list
    DUP = 18  # a → a a
    DROP = 19  # a →
    NOT = 20  # a → boolean
    NEGATE = 21  # a → -a
    BINARY = 22  # a Binary: a b → c
    CONCAT = 23  # n: a1 … an → text
    COMPARE = 24  # a Compare: a b → boolean
    JUMP = 25  # instruction
    JUMP_FALSE = 26  # instruction: a →
    AND = 27  # instruction: a → a and a jump if it is false, else →
    OR = 28  # instruction: a → a and a jump if it is true, else →
    FOR = 29  # a →, begins a loop
    NEXT = 30  # instruction: → item, in a scope of its own, or a jump if there is none
    FOR_ELSE = 31  # instruction: jumps there if the loop has come to a FOR_DONE
    FOR_END = 32  # ends the loop and its scopes
    SCOPE = 33
    END_SCOPE = 34
    CAPTURE = 35  # output from here on
    CAPTURED = 36  # becomes a text: → a
    CALL = 37  # macro: a1 … an → text
    RETURN = 38
    GIVEN = 39  # instruction: a →, jumps if it is not MISSING
    BUILTIN = 40  # number · 256 + n: a1 … an → a
    FOR_DONE = 41  # the end of the loop's body


class Value(IntEnum):
    UNDEFINED = 0
    NONE = 1
    FALSE = 2
    TRUE = 3
    MISSING = 4  # undefined, as GIVEN sees it: an argument that was left out


class Binary(IntEnum):
    ADD = 0
    SUB = 1
    MUL = 2
    FLOOR_DIV = 3
    MOD = 4


class Compare(IntEnum):
    EQ = 0
    NE = 1
    LT = 2
    LE = 3
    GT = 4
    GE = 5
    IN = 6
    NOT_IN = 7


# Number, least and most operands of each; names as in FORMAT.md.
BUILTINS: dict[str, tuple[int, int, int]] = {
    name: (number, least, most)
    for number, (name, least, most) in enumerate(
        (
            ("range", 1, 3),
            ("raise_exception", 1, 1),
            ("strftime_now", 1, 1),
            ("strip", 1, 2),
            ("lstrip", 1, 2),
            ("rstrip", 1, 2),
            ("split", 1, 3),
            ("rsplit", 1, 3),
            ("splitlines", 1, 1),
            ("startswith", 2, 2),
            ("endswith", 2, 2),
            ("removeprefix", 2, 2),
            ("removesuffix", 2, 2),
            ("replace", 3, 4),
            ("upper", 1, 1),
            ("lower", 1, 1),
            ("capitalize", 1, 1),
            ("title", 1, 1),
            ("title_filter", 1, 1),
            ("find", 2, 2),
            ("count", 2, 2),
            ("join", 2, 2),
            ("join_filter", 2, 2),
            ("get", 2, 3),
            ("keys", 1, 1),
            ("values", 1, 1),
            ("items", 1, 1),
            ("length", 1, 1),
            ("first", 1, 1),
            ("last", 1, 1),
            ("list", 1, 1),
            ("reversed", 1, 1),
            ("int", 1, 2),
            ("abs", 1, 1),
            ("tojson", 1, 2),
            ("default", 2, 3),
            ("cycle", 2, MAX_OPERANDS),
            ("is_defined", 1, 1),
            ("is_none", 1, 1),
            ("is_string", 1, 1),
            ("is_mapping", 1, 1),
            ("is_iterable", 1, 1),
            ("is_sequence", 1, 1),
            ("is_number", 1, 1),
            ("is_integer", 1, 1),
            ("is_boolean", 1, 1),
            ("is_true", 1, 1),
            ("is_false", 1, 1),
            ("divisible", 2, 2),
        )
    )
}

_STRING = (Op.TEXT, Op.STRING, Op.LOAD, Op.STORE, Op.SET_ATTR, Op.ATTR)
_TARGET = (Op.JUMP, Op.JUMP_FALSE, Op.AND, Op.OR, Op.NEXT, Op.FOR_ELSE, Op.GIVEN)
_BELOW = {  # operand is less than
    Op.LINE: 1 << 24,
    Op.INTEGER: 1 << 24,
    Op.VALUE: len(Value),
    Op.LIST: MAX_OPERANDS + 1,
    Op.MAPPING: MAX_OPERANDS // 2 + 1,
    Op.NAMESPACE: MAX_OPERANDS // 2 + 1,
    Op.UNPACK: MAX_OPERANDS + 1,
    Op.CONCAT: MAX_OPERANDS + 1,
    Op.BINARY: len(Binary),
    Op.COMPARE: len(Compare),
}
_ENDS = (Op.END, Op.JUMP, Op.RETURN)  # never go on to the instruction behind them


@dataclass(frozen=True)
class ChatProgram:
    """Instructions with their operands, the strings they name, and macros as (first instruction, parameters)."""

    code: Sequence[tuple[Op, int]]
    strings: Sequence[str]
    macros: Sequence[tuple[int, int]]

    def text(self) -> str:
        """A listing for people."""
        lines = []
        for at, (op, operand) in enumerate(self.code):
            if op in _STRING:
                shown = repr(self.strings[operand])
            elif op is Op.INTEGER:
                shown = str(operand - INTEGER_BIAS)
            elif op is Op.BUILTIN:
                shown = f"{list(BUILTINS)[operand >> 8]} {operand & 255}"
            else:
                shown = str(operand)
            lines.append(f"{at:5} {op.name} {shown}")
        return "\n".join(lines) + "\n"


def write_chat(program: ChatProgram) -> bytes:
    """The bytes of the section."""
    texts = [text.encode() for text in program.strings]
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    return b"".join(
        (
            HEADER.pack(VERSION, len(program.code), len(texts), len(program.macros)),
            *(struct.pack(">I", op << 24 | operand) for op, operand in program.code),
            *(MACRO.pack(*macro) for macro in program.macros),
            *(struct.pack(">I", offset) for offset in offsets),
            *texts,
        )
    )


def validate_chat(section: bytes) -> str | None:
    """What breaks FORMAT.md in a CHAT section, or None. An empty one is right: the model has no chat template."""
    if not section:
        return None
    if len(section) < HEADER.size:
        return f"CHAT is cut (expected at least {HEADER.size} bytes, found {len(section)})"
    version, instructions, strings, macros = HEADER.unpack_from(section)
    if version != VERSION:
        return f"version of CHAT (expected {VERSION}, found {version})"
    if not 1 <= instructions <= MAX_INSTRUCTIONS or strings > MAX_STRINGS or macros > MAX_MACROS:
        return f"counts of CHAT (found {instructions} instructions, {strings} strings, {macros} macros)"
    code_end = HEADER.size + 4 * instructions
    macros_end = code_end + MACRO.size * macros
    texts = macros_end + 4 * (strings + 1)
    if texts > len(section):
        return f"CHAT is cut (expected at least {texts} bytes, found {len(section)})"
    offsets = struct.unpack_from(f">{strings + 1}I", section, macros_end)
    if offsets[0] != 0 or offsets[-1] != len(section) - texts or any(a > b for a, b in pairwise(offsets)):
        return "string offsets of CHAT (expected ascending ones that fill the section)"
    for index, (begin, end) in enumerate(pairwise(offsets)):
        try:
            section[texts + begin : texts + end].decode("utf-8")
        except UnicodeDecodeError:
            return f"string {index} of CHAT (expected UTF-8)"
    for index, (entry, parameters) in enumerate(MACRO.iter_unpack(section[code_end:macros_end])):
        if entry >= instructions or parameters > MAX_OPERANDS:
            return f"macro {index} of CHAT (found entry {entry}, {parameters} parameters)"
    words = struct.unpack_from(f">{instructions}I", section, HEADER.size)
    for at, word in enumerate(words):
        if not _is_instruction(word >> 24, word & 0xFFFFFF, instructions, strings, macros):
            return f"instruction {at} of CHAT (found {word:08x})"
    if words[-1] >> 24 not in _ENDS:
        return "CHAT does not end with END, JUMP or RETURN"
    return None


def _is_instruction(number: int, operand: int, instructions: int, strings: int, macros: int) -> bool:
    if number >= len(Op):
        return False
    op = Op(number)
    if op is Op.BUILTIN:
        builtins = tuple(BUILTINS.values())
        return operand >> 8 < len(builtins) and builtins[operand >> 8][1] <= operand & 255 <= builtins[operand >> 8][2]
    if op in _STRING:
        return operand < strings
    if op in _TARGET:
        return operand < instructions
    if op is Op.CALL:
        return operand < macros
    return operand < _BELOW.get(op, 1)
