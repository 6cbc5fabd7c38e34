"""Regular expressions to automata that find the match a backtracking engine would find, in one pass over the text.

States are ordered lists of threads (Pike's construction with priorities, determinized): a thread that has matched ends
those behind it, never those in front. A look ahead is decided when the next character is read, which is why a
match is reported one character late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from n730c.errors import UnsupportedModel
from n730c.frontend.regex import Alt, Cat, Chars, Look, Node, Repeat
from n730c.tokenizer_format import ACCEPTS, MAX_STATES

_MAX_THREADS = 20_000  # instructions of one expression, and states before they are minimized


@dataclass(frozen=True)
class _Step:
    """An instruction. ``symbols``: which symbols let a thread pass (None: any); ``reads``: it takes the symbol."""

    symbols: NDArray[np.bool_] | None
    reads: bool
    targets: tuple[int, ...]  # in order of preference; empty: a match


class _Program:
    """Instructions for a backtracking search; instruction 0 is the match."""

    def __init__(self, firsts: Sequence[int]) -> None:
        self.firsts = list(firsts)
        self.steps = [_Step(None, False, ())]

    def add(self, step: _Step) -> int:
        if len(self.steps) >= _MAX_THREADS:
            raise _too_large("instructions")
        self.steps.append(step)
        return len(self.steps) - 1

    def build(self, node: Node, then: int) -> int:
        """Instructions for ``node`` and, behind it, ``then``; the first of them."""
        if isinstance(node, Chars):
            symbols = np.append(node.chars[self.firsts], False)
            return self.add(_Step(symbols, True, (then,)))
        if isinstance(node, Look):
            symbols = np.append(node.chars[self.firsts], node.end)
            return self.add(_Step(symbols, False, (then,)))
        if isinstance(node, Cat):
            for part in reversed(node.parts):
                then = self.build(part, then)
            return then
        if isinstance(node, Alt):
            return self.add(_Step(None, False, tuple(self.build(part, then) for part in node.parts)))
        return self.repeat(node, then)

    def repeat(self, node: Repeat, then: int) -> int:
        if node.most is None:
            again = self.add(_Step(None, False, ()))
            body = self.build(node.part, again)
            self.steps[again] = _Step(None, False, (then, body) if node.lazy else (body, then))
            begin = again
        else:
            begin = then
            for _ in range(node.most - node.least):
                body = self.build(node.part, begin)
                begin = self.add(_Step(None, False, (then, body) if node.lazy else (body, then)))
        for _ in range(node.least):
            begin = self.build(node.part, begin)
        return begin

    def advance(self, threads: tuple[int, ...], symbol: int) -> tuple[bool, tuple[int, ...]]:
        """Whether what was read so far is a match, and the threads that the symbol leaves."""
        seen: set[int] = set()
        left: dict[int, None] = {}
        stack = list(reversed(threads))
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            step = self.steps[at]
            if not step.targets:
                return True, tuple(left)
            if step.symbols is not None and not step.symbols[symbol]:
                continue
            if step.reads:
                left[step.targets[0]] = None
            else:
                stack.extend(reversed(step.targets))
        return False, tuple(left)


def _too_large(what: str) -> UnsupportedModel:
    return UnsupportedModel(
        "the tokenizer's pattern is too large", expected=f"at most {_MAX_THREADS} {what}", found="more"
    )


def _determinize(program: _Program, start: int, symbols: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Next state and whether it accepts, by state and symbol; state 0 is dead, state 1 the start."""
    numbers: dict[tuple[int, ...], int] = {(): 0, (-1,): 1}  # nothing leads back to (-1,), the start
    states: list[tuple[int, ...]] = [(), (start,)]
    nexts: list[list[int]] = []
    accepts: list[list[bool]] = []
    for threads in states:  # grows on the way
        row, accept_row = [], []
        for symbol in range(symbols):
            accept, left = program.advance(threads, symbol)
            if left not in numbers:
                if len(states) >= _MAX_THREADS:
                    raise _too_large("states")
                numbers[left] = len(states)
                states.append(left)
            row.append(numbers[left])
            accept_row.append(accept)
        nexts.append(row)
        accepts.append(accept_row)
    return np.array(nexts), np.array(accepts)


def _minimize(nexts: NDArray[np.int64], accepts: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The same with equal states united, by refining (Moore); dead stays 0 and the start 1."""
    groups = np.zeros(len(nexts), np.int64)
    groups[1] = 1
    count = 2
    while True:
        rows = np.concatenate([groups[:, None], groups[nexts], accepts], axis=1)
        _, firsts, found = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(firsts)  # groups in the order of their first states: dead, start, …
        names = np.empty(len(order), np.int64)
        names[order] = np.arange(len(order))
        groups = names[found.reshape(-1)]
        if len(order) == count:
            kept = firsts[order]
            return groups[nexts[kept]], accepts[kept]
        count = len(order)


def compile_automaton(node: Node, firsts: Sequence[int]) -> NDArray[np.uint16]:
    """The table of FORMAT.md, section 6: uint16[states, classes + 1]. ``firsts``: a code point of each class.

    Raises UnsupportedModel for expressions that match the empty text or are beyond the limits.
    """
    program = _Program(firsts)
    nexts, accepts = _minimize(*_determinize(program, program.build(node, 0), len(firsts) + 1))
    if accepts[1].any():
        raise UnsupportedModel(
            "the tokenizer's pattern is not supported", expected="matches that are not empty", found="empty ones"
        )
    if len(nexts) - 1 > MAX_STATES:
        raise UnsupportedModel(
            "the tokenizer's pattern is too large", expected=f"at most {MAX_STATES} states", found=str(len(nexts) - 1)
        )
    rows: NDArray[np.uint16] = (nexts[1:] | np.where(accepts[1:], ACCEPTS, 0)).astype(np.uint16)
    return rows
