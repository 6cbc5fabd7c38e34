"""Character classes and Normalization Form C, exactly as the installed ``tokenizers`` library sees them.

Nothing here comes from a Unicode database of Python's: every table is found by asking the library about every code
point, so that a package follows the library that its model was made for, whatever version of Unicode either has.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers

from n730c.tokenizer_format import NfcTables, UnicodeClasses

# Bits of a class byte (FORMAT.md, section 6).
LETTER, NUMBER, SPACE, STRIP_SPACE, WORD, NFC = 1, 2, 4, 8, 16, 32

_HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
_HANGUL_TAIL = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # vowels and finals, which join what is before them


@lru_cache(maxsize=1)
def _characters() -> list[str]:
    """Every Unicode scalar value except the line feed, which separates them in the questions below."""
    return [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c != 0x0A]


def _matching(pattern: str) -> list[int]:
    """Code points that one character of ``pattern`` matches, in the engine that pre-tokenizers use."""
    others = normalizers.Replace(Regex(f"[^{pattern}]+"), "")
    return [ord(c) for c in others.normalize_str("".join(_characters()) + "\n")]


def _words_and_others() -> tuple[list[int], list[int]]:
    r"""Code points that are ``\w``, and those that are neither ``\w`` nor ``\s``, to the engine behind added tokens.

    The Whitespace pre-tokenizer is ``\w+|[^\w\s]+`` in that engine. It cuts the string of all characters into runs of
    either kind; a run is of words if a letter in front joins it.
    """
    pre_tokenizer = pre_tokenizers.Whitespace()
    words: list[int] = []
    others: list[int] = []
    for run, _ in pre_tokenizer.pre_tokenize_str("".join(_characters())):
        is_word = len(pre_tokenizer.pre_tokenize_str("a" + run[0])) == 1
        (words if is_word else others).extend(map(ord, run))
    return words, others


def _class_bytes(*, words: bool) -> NDArray[np.uint8]:
    """The class byte of every code point but for the NFC bit: uint8[0x110000]."""
    classes = np.zeros(0x110000, np.uint8)
    classes[_matching(r"\p{L}")] |= LETTER
    classes[_matching(r"\p{N}")] |= NUMBER
    classes[_matching(r"\s")] |= SPACE
    if words:
        beside, others = _words_and_others()
        classes[beside] |= WORD
        spaces = np.ones(0x110000, np.bool_)
        spaces[0xD800:0xE000] = False
        spaces[beside] = spaces[others] = False
        classes[spaces] |= STRIP_SPACE
    return classes


def _each(normalizer: normalizers.Normalizer, texts: list[str]) -> list[str]:
    """The normalizer's answer to each text, asked all at once (no text holds a line feed, none reaches across it)."""
    return normalizer.normalize_str("\n".join(texts)).split("\n")


@lru_cache(maxsize=1)
def _decomposed() -> list[str]:
    return _each(normalizers.NFD(), _characters())


def _combining_classes() -> dict[int, int]:
    """Ranks of the canonical combining classes, 1 … (their order is all that matters), by code point.

    Two marks change places in NFD if and only if the first has the higher class, and neither has class 0. The marks
    are found by their behaviour between a high and a low one, then sorted into classes by comparing them.
    """
    nfd = normalizers.NFD()
    low, high = "\u0334", "\u0345"  # overlay, iota subscript: the lowest and the highest class there is
    between = [high + c + low for c in _characters()]
    plain = [high + d + low for d in _decomposed()]  # what has no class and stays in its place
    moved = [q[1] for q, stays, d in zip(between, plain, _each(nfd, between), strict=True) if d != stays]
    marks = [c for c in moved if c not in (low, high) and nfd.normalize_str(c) == c]
    groups: list[list[str]] = [[low], [high]]
    for mark in marks:
        lower = [nfd.normalize_str(mark + group[0]) == group[0] + mark for group in groups]  # group < mark
        higher = [nfd.normalize_str(group[0] + mark) == mark + group[0] for group in groups]  # group > mark
        at = sum(lower)
        if at < len(groups) and not higher[at]:
            groups[at].append(mark)
        else:
            groups.insert(at, [mark])
    return {ord(mark): rank for rank, group in enumerate(groups, 1) for mark in group}


@lru_cache(maxsize=1)
def nfc_tables() -> NfcTables:
    """What Normalization Form C needs, Hangul syllables (arithmetic) left out."""
    nfc = normalizers.NFC()
    decompositions = {
        ord(c): tuple(map(ord, d))
        for c, d in zip(_characters(), _decomposed(), strict=True)
        if c != d and ord(c) not in _HANGUL
    }
    whole = [c for c in map(chr, decompositions) if nfc.normalize_str(c) == c]
    compositions = {}
    for c in whole:
        parts = "".join(map(chr, decompositions[ord(c)]))
        first = nfc.normalize_str(parts[:-1])
        compositions[ord(first), ord(parts[-1])] = ord(c)
    return NfcTables(_combining_classes(), decompositions, compositions)


@lru_cache(maxsize=4)
def unicode_classes(*, nfc: bool, words: bool) -> UnicodeClasses:
    """Two-stage table of class bytes.

    ``nfc``: with the bit that a tokenizer with that normalizer needs. ``words``: with the bits that added tokens with
    rules about their neighbours need. Both take seconds to find out, so nothing asks in vain.
    """
    classes = _class_bytes(words=words)
    if nfc:
        tables = nfc_tables()
        composed = set(tables.compositions.values())
        classes[[c for c in tables.decompositions if c not in composed]] |= NFC
        classes[list(tables.combining)] |= NFC
        classes[[second for _, second in tables.compositions]] |= NFC
        classes[list(_HANGUL_TAIL)] |= NFC
    pages, index = np.unique(classes.reshape(-1, 256), axis=0, return_inverse=True)
    return UnicodeClasses(index.reshape(-1).astype(np.uint16), pages)
