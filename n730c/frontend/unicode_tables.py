"""What the installed ``tokenizers`` library thinks of characters: classes, normal forms, what normalizers make of them.

Nothing here comes from a Unicode database of Python's: every table is found by asking the library about every code
point, so that a package follows the library that its model was made for, whatever version of Unicode either has.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers

from n730c.errors import UnsupportedModel
from n730c.tokenizer_format import FormTables, MapRule

CodeSet = NDArray[np.bool_]  # bool[0x110000]

_HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
_HANGUL_TAIL = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))  # vowels and finals, which join what is before them


# Code points that no version of Unicode tells apart: unassigned planes and private ones without their noncharacters.
# Only the first of each is asked about; benchmarks/tokenizer_parity.py looks at every single one.
_ALIKE = [
    range(0x34000, 0x3FFFE),
    *(range(plane << 16, (plane << 16) + 0xFFFE) for plane in range(4, 14)),
    range(0xE1000, 0xEFFFE),
    range(0xF0000, 0xFFFFE),
    range(0x100000, 0x10FFFE),
]


@lru_cache(maxsize=1)
def _characters() -> list[str]:
    """Every Unicode scalar value that may differ from others, except the line feed, which separates them below."""
    asked = np.ones(0x110000, np.bool_)
    asked[0xD800:0xE000] = asked[0x0A] = False
    for alike in _ALIKE:
        asked[alike[1:]] = False
    return [chr(c) for c in np.flatnonzero(asked)]


@lru_cache(maxsize=1)
def _all_characters() -> str:
    return "".join([*_characters(), "\n"])


def _set(text: str) -> CodeSet:
    """The characters of a text, and those like them."""
    found = np.zeros(0x110000, np.bool_)
    found[np.frombuffer(text.encode("utf-32-le"), np.uint32)] = True
    for alike in _ALIKE:
        found[alike] = found[alike[0]]
    return found


@lru_cache(maxsize=64)
def matching(pattern: str) -> CodeSet:
    r"""Code points that a pattern for one character (``\p{L}``, ``\s``) matches, in the engine of the pre-tokenizers.

    Raises UnsupportedModel if the engine does not know the pattern.
    """
    try:
        others = normalizers.Replace(Regex(f"[^{pattern}]+"), "")
    except Exception as error:  # the library raises bare Exceptions
        raise UnsupportedModel(
            f"the tokenizer's pattern has a class {pattern!a} that is unknown", found=str(error)
        ) from error
    return _set(others.normalize_str(_all_characters()))


@lru_cache(maxsize=64)
def _cases(character: str) -> str:
    """What ``character`` matches when case plays no part."""
    if character.lower() == character.upper() == character.casefold():
        return character
    if not character.isascii():
        return normalizers.Replace(Regex(f"(?i:[^{character}])+"), "").normalize_str(_all_characters())
    alike = normalizers.Replace(Regex(f"(?i:{character})"), "")
    return "".join(c for c in _cases_of_letters() if alike.normalize_str(c) == "")


@lru_cache(maxsize=1)
def _cases_of_letters() -> str:
    rest = _set(normalizers.Replace(Regex("(?i:[a-z])+"), "").normalize_str(_all_characters()))
    return "".join(c for c in _characters() if not rest[ord(c)])


def any_case(chars: CodeSet) -> CodeSet:
    """A small set of characters, with those that equal them when case plays no part. Raises UnsupportedModel."""
    codes = np.flatnonzero(chars)
    if len(codes) > 64:
        raise UnsupportedModel(
            "the tokenizer's pattern is not supported", expected="(?i:) around single characters", found="a large class"
        )
    return _set("".join(_cases(chr(c)) for c in codes))


def _alternating(pre_tokenizer: pre_tokenizers.PreTokenizer) -> CodeSet:
    """Code points that the pre-tokenizer looks for, if it cuts runs of them from runs of others; U+0000 is another."""
    runs = [run for run, _ in pre_tokenizer.pre_tokenize_str(_all_characters())]
    return _set("".join(runs[1::2]))


@lru_cache(maxsize=1)
def numeric() -> CodeSet:
    """What the pre-tokenizer Digits cuts out."""
    return _alternating(pre_tokenizers.Digits(individual_digits=False))


@lru_cache(maxsize=1)
def punctuation() -> CodeSet:
    """What the pre-tokenizers Punctuation and BertPreTokenizer cut out."""
    return _alternating(pre_tokenizers.Punctuation(behavior="contiguous"))


@lru_cache(maxsize=1)
def white() -> CodeSet:
    """What WhitespaceSplit and BertPreTokenizer drop, and what the normalizer Strip strips."""
    rest = _set("".join(run for run, _ in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(_all_characters())))
    found = ~rest
    found[0xD800:0xE000] = False
    return found


@lru_cache(maxsize=1)
def words_and_spaces() -> tuple[CodeSet, CodeSet]:
    r"""Code points that are ``\w``, and those that are ``\s``, to the engine behind added tokens and Whitespace.

    The Whitespace pre-tokenizer is ``\w+|[^\w\s]+`` in that engine. It cuts the string of all characters into runs of
    either kind; a run is of words if a letter in front joins it.
    """
    pre_tokenizer = pre_tokenizers.Whitespace()
    words: list[str] = []
    others: list[str] = []
    for run, _ in pre_tokenizer.pre_tokenize_str(_all_characters()):
        is_word = len(pre_tokenizer.pre_tokenize_str("a" + run[0])) == 1
        (words if is_word else others).append(run)
    word, other = _set("".join(words)), _set("".join(others))
    spaces = ~(word | other)
    spaces[0xD800:0xE000] = False
    return word, spaces


def _each(normalizer: normalizers.Normalizer, texts: list[str]) -> list[str]:
    """The normalizer's answer to each text, asked all at once (no text holds a line feed, none reaches across it)."""
    return normalizer.normalize_str("\n".join(texts)).split("\n")


def map_rules(normalizer: normalizers.Normalizer) -> tuple[MapRule, ...]:
    """What a normalizer that looks at each character by itself does to those that it changes."""
    characters = [c for c in _all_characters() if c != "|"]
    answers = normalizer.normalize_str("|".join(characters)).split("|")
    rules: list[MapRule] = []
    for character, answer in sorted(zip(characters, answers, strict=True)):
        if answer == character:
            continue
        code = ord(character)
        around = answer == f" {character} "
        text = b" " if around else answer.encode()
        end = next((alike[-1] for alike in _ALIKE if alike[0] == code and not around), code)
        last = rules[-1] if rules else None
        if last is not None and (last.last, last.text, last.around) == (code - 1, text, around):
            rules[-1] = MapRule(last.first, end, text, around)
        else:
            rules.append(MapRule(code, end, text, around))
    return tuple(rules)


@lru_cache(maxsize=4)
def _formed(form: str) -> list[str]:
    return _each(getattr(normalizers, form)(), _characters())


@lru_cache(maxsize=1)
def _combining_classes() -> dict[int, int]:
    """Ranks of the canonical combining classes, 1 … (their order is all that matters), by code point.

    Two marks change places in NFD if and only if the first has the higher class, and neither has class 0. The marks
    are found by their behaviour between a high and a low one, then sorted into classes by comparing them.
    """
    nfd = normalizers.NFD()
    low, high = "\u0334", "\u0345"  # overlay, iota subscript: the lowest and the highest class there is
    between = [high + c + low for c in _characters()]
    plain = [high + d + low for d in _formed("NFD")]  # what has no class and stays in its place
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
def _compositions() -> dict[tuple[int, int], int]:
    nfc = normalizers.NFC()
    found = {}
    for c, parts, whole in zip(_characters(), _formed("NFD"), _formed("NFC"), strict=True):
        if c != parts and c == whole and ord(c) not in _HANGUL:
            found[ord(nfc.normalize_str(parts[:-1])), ord(parts[-1])] = ord(c)
    return found


@lru_cache(maxsize=4)
def form_tables(form: str) -> tuple[FormTables, CodeSet]:
    """What a normal form (``NFC``, ``NFD``, ``NFKC``, ``NFKD``) needs, Hangul syllables (arithmetic) left out.

    With the code points that may change under it, or change what stands before them.
    """
    composes = form in ("NFC", "NFKC")
    decompositions = {
        ord(c): tuple(map(ord, d))
        for c, d in zip(_characters(), _formed(form.replace("C", "D")), strict=True)
        if c != d and ord(c) not in _HANGUL
    }
    compositions = _compositions() if composes else {}
    changing = _set("".join(c for c, d in zip(_characters(), _formed(form), strict=True) if c != d))
    changing[list(_combining_classes())] = True
    changing[[second for _, second in compositions]] = True
    if composes:
        changing[list(_HANGUL_TAIL)] = True
    return FormTables(_combining_classes(), decompositions, compositions), changing


def partition(sets: list[CodeSet]) -> tuple[NDArray[np.uint8], list[int]]:
    """Classes of code points that no set tells apart: uint8[0x110000], and of each class its first code point.

    Raises UnsupportedModel if there are more than 255 classes.
    """
    keys = np.zeros(0x110000, np.uint64)
    firsts = np.zeros(1, np.int64)
    labels = np.zeros(0x110000, np.int64)
    for begin in range(0, len(sets), 32):  # 32 new bits beside the label so far
        keys = labels.astype(np.uint64)
        for chars in sets[begin : begin + 32]:
            keys = keys << np.uint64(1) | chars
        _, firsts, labels = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    if len(order) > 255:
        raise UnsupportedModel(
            "the tokenizer tells too many kinds of characters apart", expected="at most 255", found=str(len(order))
        )
    renamed = np.empty(len(order), np.uint8)
    renamed[order] = np.arange(len(order))
    return renamed[labels.reshape(-1)], [int(firsts[i]) for i in order]
