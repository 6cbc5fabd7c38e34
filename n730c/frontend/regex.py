"""Parses the regular expressions of tokenizers: those of Oniguruma (Ruby syntax) that an automaton can search.

What a character class holds is decided by the ``tokenizers`` library (``unicode_tables.matching``). Taken are
alternatives, groups, ``(?i:…)``, classes, quantifiers of every kind (possessive ones behind a single character) and
looks ahead at one character; anything else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from n730c.errors import UnsupportedModel
from n730c.frontend.unicode_tables import any_case, matching

CharSet = NDArray[np.bool_]  # which code points: bool[0x110000]


@dataclass(frozen=True, eq=False)
class Chars:
    """One character of the set."""

    chars: CharSet


@dataclass(frozen=True, eq=False)
class Look:
    """Nothing, where the next character is in the set, or (``end``) the text ends."""

    chars: CharSet
    end: bool


@dataclass(frozen=True, eq=False)
class Cat:
    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Alt:
    """The first of the alternatives that leads to a match."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """``least`` to ``most`` times (None: any number), as often or (``lazy``) as seldom as possible."""

    part: Node
    least: int
    most: int | None
    lazy: bool = False


Node = Chars | Look | Cat | Alt | Repeat

_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "a": 7, "e": 27}
_MAX_REPEAT = 256


def char_set(codes: Sequence[int]) -> CharSet:
    found = np.zeros(0x110000, np.bool_)
    found[list(codes)] = True
    return found


def literal(text: str) -> Node:
    """The text itself."""
    return Cat(tuple(Chars(char_set([ord(c)])) for c in text))


def parse_regex(pattern: str) -> Node:
    """Raises UnsupportedModel for what is beyond these expressions."""
    parser = _Parser(pattern)
    node = parser.alternatives()
    if parser.at < len(pattern):
        raise parser.refuse("a group that is open", pattern[parser.at :])
    return node


def sets_of(node: Node) -> list[CharSet]:
    if isinstance(node, Chars | Look):
        return [node.chars]
    parts = (node.part,) if isinstance(node, Repeat) else node.parts
    return [chars for part in parts for chars in sets_of(part)]


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.ignore_case = False

    def refuse(self, expected: str, found: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"the tokenizer's pattern {_short(self.pattern)} is not supported",
            expected=expected,
            found=_short(found),
            hint="Use a model with another tokenizer",
        )

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise self.refuse("a whole expression", "its end")
        self.at += 1
        return self.pattern[self.at - 1]

    def until(self, end: str) -> str:
        begin = self.at
        stop = self.pattern.find(end, begin)
        if stop < 0:
            raise self.refuse(f"a closing {end}", "none")
        self.at = stop + len(end)
        return self.pattern[begin:stop]

    def alternatives(self) -> Node:
        ignore_case = self.ignore_case
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        self.ignore_case = ignore_case  # (?i) holds until its group ends
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self.quantified())
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def quantified(self) -> Node:
        node = self.atom()
        while self.at < len(self.pattern):
            bounds = self.bounds()
            if bounds is None:
                break
            least, most, interval = bounds
            if isinstance(node, Look):
                raise self.refuse("quantifiers behind characters and groups", self.pattern[: self.at])
            lazy = self.take("?")
            possessive = not lazy and not interval and self.take("+")  # behind {} a + repeats once more
            if not possessive:
                node = Repeat(node, least, most, lazy)
            elif isinstance(node, Chars):
                # What is not given back is what the next character is not.
                ends = Look(~node.chars, end=True)
                loop: Node = Cat((Repeat(node, least, None), ends))
                node = loop if most is None else Alt((node, ends))
            else:
                raise self.refuse("possessive quantifiers behind single characters", self.pattern[: self.at])
        return node

    def bounds(self) -> tuple[int, int | None, bool] | None:
        for sign, found in (("*", (0, None, False)), ("+", (1, None, False)), ("?", (0, 1, False))):
            if self.take(sign):
                return found
        if not self.take("{"):
            return None
        text = self.until("}")
        low, comma, high = text.partition(",")
        if not (low + high).isdecimal():
            raise self.refuse("a quantifier {n}, {n,}, {,m} or {n,m}", "{" + text + "}")
        least = int(low or "0")
        most = least if not comma else int(high) if high else None
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise self.refuse(f"a quantifier of at most {_MAX_REPEAT}", "{" + text + "}")
        return least, most, True

    def atom(self) -> Node:
        c = self.next()
        if c == "(":
            return self.group()
        if c == "[":
            return Chars(self.folded(self.bracket()))
        if c == "$":  # before each line break, whatever the options
            return Look(char_set([10]), end=True)
        if c == "\\" and self.take("z"):
            return Look(char_set([]), end=True)
        if c == ".":
            return Chars(~char_set([10]))
        if c in "^*+?{":
            raise self.refuse("an expression without " + c, self.pattern[self.at - 1 :])
        if c == "\\":
            return Chars(self.folded(self.escape()))
        return Chars(self.folded(char_set([ord(c)])))

    def folded(self, chars: CharSet) -> CharSet:
        return any_case(chars) if self.ignore_case else chars

    def group(self) -> Node:
        for prefix, make in (("?=", self.ahead), ("?!", self.not_ahead)):
            if self.take(prefix):
                return make(self.closed(self.alternatives))
        if self.take("?i:"):
            self.ignore_case, before = True, self.ignore_case
            node = self.closed(self.alternatives)
            self.ignore_case = before
            return node
        if self.take("?i)"):
            self.ignore_case = True  # for all that follows, which is one group: a(?i)b|c is a(?i:b|c)
            return self.alternatives()
        if not self.take("?:") and self.peek("?"):
            raise self.refuse("groups (…), (?:…), (?i:…), (?=…) and (?!…)", self.pattern[self.at - 1 :])
        return self.closed(self.alternatives)

    def closed(self, inner: Callable[[], Node]) -> Node:
        node = inner()
        if not self.take(")"):
            raise self.refuse("a closing )", "none")
        return node

    def ahead(self, node: Node) -> Look:
        found = _single(node)
        if found is None:
            raise self.refuse("looks ahead at one character", self.pattern[: self.at])
        return found

    def not_ahead(self, node: Node) -> Look:
        found = self.ahead(node)
        return replace(found, chars=~found.chars, end=not found.end)

    def escape(self) -> CharSet:
        r"""What stands behind a ``\``: a class or one character."""
        c = self.next()
        if c in "sSdDwWhH":
            return matching("\\" + c)
        if c in "pP":
            if not self.take("{"):
                raise self.refuse(r"\p{…}", "\\" + c)
            return matching("\\" + c + "{" + self.until("}") + "}")
        if c in _CONTROLS:
            return char_set([_CONTROLS[c]])
        if c in "xu":
            return char_set([self.hexadecimal(c)])
        if c.isalnum():
            raise self.refuse("escapes of characters and classes", "\\" + c)
        return char_set([ord(c)])

    def hexadecimal(self, kind: str) -> int:
        if kind == "x" and self.take("{"):
            digits = self.until("}")
        else:
            size = 2 if kind == "x" else 4
            digits = self.pattern[self.at : self.at + size]
            self.at += len(digits)
        try:
            return ord(chr(int(digits, 16)))
        except (ValueError, OverflowError):
            raise self.refuse("a code point", "\\" + kind + digits) from None

    def bracket(self) -> CharSet:
        """What stands behind a ``[``, to its ``]``; classes within classes are united, ``&&`` intersects."""
        negated = self.take("^")
        whole: CharSet | None = None
        union = char_set([])
        first = True
        while first or not self.peek("]"):
            if self.take("&&"):
                whole = union if whole is None else whole & union
                union = char_set([])
                continue
            first = False
            if re.compile(r"\[:\^?\w+:\]").match(self.pattern, self.at):
                raise self.refuse("classes without [: :]", self.pattern[self.at :])
            if self.take("["):
                union |= self.bracket()
                continue
            low = self.member()
            if self.peek("-") and not self.peek("-]") and low.sum() == 1:
                self.at += 1
                high = self.member()
                if high.sum() != 1:
                    raise self.refuse("a range of characters", self.pattern[: self.at])
                begin, end = int(low.argmax()), int(high.argmax())
                if begin > end:
                    raise self.refuse("a range that ascends", self.pattern[: self.at])
                low = char_set(range(begin, end + 1))
                low[0xD800:0xE000] = False
            union |= low
        self.at += 1
        found = union if whole is None else whole & union
        if negated:
            found = ~found
            found[0xD800:0xE000] = False
        return found

    def member(self) -> CharSet:
        c = self.next()
        return self.escape() if c == "\\" else char_set([ord(c)])


def _single(node: Node) -> Look | None:
    """The look ahead that a part of one character is, if it is one."""
    if isinstance(node, Chars):
        return Look(node.chars, end=False)
    if isinstance(node, Look):
        return node
    if isinstance(node, Alt):
        looks = [_single(part) for part in node.parts]
        found = [look for look in looks if look is not None]
        if len(found) == len(looks):
            return Look(np.logical_or.reduce([look.chars for look in found]), any(look.end for look in found))
    return None


def _short(text: str) -> str:
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= 80 else shown[:77] + "..."
