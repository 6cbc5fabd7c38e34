"""The TOKENIZER section of a package: its values and its writer (runtime/FORMAT.md, section 6).

Knows bytes only. What the tables mean for a Hugging Face tokenizer is the business of ``frontend/tokenizer.py``;
``tokenizer_validate.py`` checks what is written here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

NO_ID = 0xFFFFFFFF
MAX_TOKENS = 0xFFFFFF  # ids are 24 bits wide in the hash tables; all ones mark an empty slot
MAX_ADDED_BYTES = 255
MAX_PIECE_BYTES = 1024  # of a token of Unigram and WordPiece
MAX_TEXT_BYTES = 255  # of a text in a step
MAX_EXTRA_IDS = 16
MAX_STEPS = 16  # of a program
MAX_STATES = 1023  # of an automaton
ACCEPTS = 0x8000  # bit of a transition
TABLES = (
    "token_offsets",
    "token_bytes",
    "token_flags",
    "bytes",
    "merges",
    "words",
    "scores",
    "sorted",
    "added_raw",
    "added_normalized",
    "text",
    "prefix",
    "suffix",
    "class_index",
    "class_pages",
    "class_flags",
    "byte_classes",
    "automata",
    "transitions",
    "chars",
    "decompositions",
    "compositions",
    "maps",
    "normalizer",
    "pre_tokenizer",
    "decoder",
)
HEADER = 32 + 8 * len(TABLES)
_MASK = (1 << 64) - 1
_HASH_FACTOR = 0x9E3779B97F4A7C15


class Kind(IntEnum):
    BYTE_BPE = 1
    CHAR_BPE = 2
    UNIGRAM = 3
    WORD_PIECE = 4


class ModelFlag(IntFlag):
    FUSE_UNKNOWN = 1  # unknown characters side by side are one token
    BYTE_FALLBACK = 2  # a character without a token becomes its bytes' tokens, if there are all of them


class TokenFlag(IntFlag):
    SPECIAL = 1  # left out when ids are turned into text
    EOS = 2  # ends generation


class AddedFlag(IntFlag):
    LSTRIP = 1
    RSTRIP = 2
    SINGLE_WORD = 4


class ClassFlag(IntFlag):
    r"""What a class of characters is beside its part in the automata."""

    STRIP_SPACE = 1  # \s around added tokens
    WORD = 2  # \w beside added tokens
    FORM = 4  # the normal form may change it, or what stands before it
    WHITE = 8  # the step STRIP takes it away


class Op(IntEnum):
    """What a step does; the first seven make the words of a text, the others the text of tokens."""

    REPLACE = 1
    FORM = 2
    MAP = 3
    PREPEND = 4
    STRIP = 5
    SPLIT = 6
    PREFIX = 7
    SUBSTITUTE = 8
    DROP_FIRST = 9
    JOIN = 10
    BYTES = 11
    TRIM = 12


class Behavior(IntEnum):
    """What becomes of a match when a text is cut."""

    ISOLATED = 0
    REMOVED = 1
    MERGED_WITH_PREVIOUS = 2
    MERGED_WITH_NEXT = 3
    CONTIGUOUS = 4


INVERT = 8  # added to a behavior: what lies between matches counts as a match, and the other way round
BYTES = 16  # added to a behavior: each byte is a character of the GPT-2 alphabet

NO_RULES = AddedFlag(0)
NO_MODEL_FLAGS = ModelFlag(0)
Automaton = NDArray[np.uint16]  # [states, classes + 1]: next state (0: none) with ACCEPTS


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text itself. ``text``: what to look for, 1 … 255 bytes."""

    text: bytes
    id: int
    flags: AddedFlag = NO_RULES


@dataclass(frozen=True)
class Classes:
    """``pages[index[c >> 8]][c & 255]`` is the class of code point c: uint16[4352], uint8[pages, 256]."""

    index: NDArray[np.uint16]
    pages: NDArray[np.uint8]
    flags: Sequence[ClassFlag]  # of each class
    of_bytes: Sequence[int]  # class of the character that stands for each of the 256 bytes

    @staticmethod
    def of(labels: NDArray[np.uint8], flags: Sequence[ClassFlag], of_bytes: Sequence[int]) -> Classes:
        """From the class of each code point: uint8[0x110000]."""
        pages, index = np.unique(labels.reshape(-1, 256), axis=0, return_inverse=True)
        return Classes(index.reshape(-1).astype(np.uint16), pages, flags, of_bytes)


ONE_CLASS = Classes.of(np.zeros(0x110000, np.uint8), (ClassFlag(0),), (0,) * 256)


@dataclass(frozen=True)
class FormTables:
    """Combining classes and full decompositions, and the pairs that compose; Hangul syllables left out."""

    combining: dict[int, int]  # code point → canonical combining class, where it is not 0
    decompositions: dict[int, tuple[int, ...]]
    compositions: dict[tuple[int, int], int]


NO_FORM = FormTables({}, {}, {})


@dataclass(frozen=True)
class MapRule:
    """Code points ``first`` … ``last`` become ``text``, or (``around``) stand between two of it."""

    first: int
    last: int
    text: bytes
    around: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """A step of a program; which fields count is the operation's business."""

    op: Op
    arg: int = 0
    automaton: Automaton | None = None
    text: bytes = b""
    by: bytes = b""
    rules: tuple[MapRule, ...] = ()


@dataclass(frozen=True)
class TokenizerTables:
    """A tokenizer, ready to be written."""

    kind: Kind
    pieces: Sequence[bytes]  # what each id is in the vocabulary (BYTE_BPE: its bytes); empty: no such token
    flags: Sequence[TokenFlag]  # one a piece
    byte_ids: Sequence[int]  # id of each of the 256 bytes, or NO_ID
    model_flags: ModelFlag = NO_MODEL_FLAGS
    unknown: int = NO_ID  # id of what the vocabulary lacks; NO_ID: that is dropped
    merges: Sequence[tuple[int, int, int]] = ()  # (left, right, result) in order of rank, no pair twice
    words: Sequence[int] = ()  # ids whose piece, standing alone as a word, is that one token
    scores: Sequence[float] = ()  # Unigram: of each id, and of an unknown character
    sorted_ids: Sequence[int] = ()  # Unigram and WordPiece: ids of the vocabulary, no text twice
    word_limit: int = 0  # WordPiece: characters of the longest word that is looked at
    continuing: bytes = b""  # WordPiece: what stands in front of all but the first token of a word
    added_raw: Sequence[AddedToken] = ()  # looked for before normalization
    added_normalized: Sequence[AddedToken] = ()  # looked for after it
    prefix: Sequence[int] = ()  # put in front of a prompt
    suffix: Sequence[int] = ()  # put behind it
    classes: Classes = ONE_CLASS
    form: FormTables = NO_FORM
    normalizer: Sequence[Step] = ()
    pre_tokenizer: Sequence[Step] = ()
    decoder: Sequence[Step] = ()


def _slots(homes: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Linear probing in the order given: the slot of each entry, and the most probes that a lookup takes."""
    taken = bytearray(capacity)
    slots = []
    longest = 0
    for home in homes:
        slot, probes = home, 1
        while taken[slot]:
            slot = slot + 1 if slot + 1 < capacity else 0
            probes += 1
        taken[slot] = 1
        slots.append(slot)
        longest = max(longest, probes)
    return slots, longest


def _hash_table(hashes: Sequence[int], entries: Sequence[bytes], size: int) -> tuple[bytes, int]:
    """Open addressing with empty slots all ones; ``hashes`` are 32 bits, ``entries`` of ``size`` bytes each."""
    if not entries:
        return b"", 0
    capacity = len(entries) * 5 // 3 + 1
    while True:
        slots, probes = _slots([h * capacity >> 32 for h in hashes], capacity)
        if probes < 255:
            break
        capacity += capacity // 4 + 1
    table = bytearray(b"\xff" * (capacity * size))
    for slot, entry in zip(slots, entries, strict=True):
        table[slot * size : (slot + 1) * size] = entry
    return bytes(table), min(probes + 1, capacity)  # one more, so that a miss can reach an empty slot


def _merge_table(merges: Sequence[tuple[int, int, int]]) -> tuple[bytes, int]:
    hashes, entries = [], []
    for rank, (left, right, result) in enumerate(merges):
        key = left << 24 | right
        hashes.append((key * _HASH_FACTOR & _MASK) >> 32)
        entries.append((key << 48 | rank << 24 | result).to_bytes(12, "big"))
    return _hash_table(hashes, entries, 12)


def _word_table(words: Sequence[int], pieces: Sequence[bytes]) -> tuple[bytes, int]:
    hashes, entries = [], []
    for token in words:
        h = 0xCBF29CE484222325  # FNV-1a
        for byte in pieces[token]:
            h = (h ^ byte) * 0x100000001B3 & _MASK
        h = (h ^ h >> 32) * _HASH_FACTOR & _MASK
        hashes.append(h >> 32)
        entries.append(struct.pack(">I", (h >> 24 & 0xFF) << 24 | token))
    return _hash_table(hashes, entries, 4)


def _first_bytes(texts: Sequence[bytes]) -> bytes:
    """For each first byte the index of the first of the sorted texts that begins with it or a higher one: u32[257]."""
    firsts = np.array([text[0] for text in texts], np.int64)
    return np.searchsorted(firsts, np.arange(257)).astype(">u4").tobytes()


class _Text:
    """The pool of texts that added tokens, maps and steps point at."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._at: dict[bytes, int] = {b"": 0}

    def put(self, text: bytes) -> int:
        if text not in self._at:
            self._at[text] = len(self.data)
            self.data += text
        return self._at[text]


def _added_table(tokens: Sequence[AddedToken], text: _Text) -> bytes:
    """The index by first byte and the records."""
    if not tokens:
        return b""
    ordered = sorted(tokens, key=lambda token: token.text)
    records = b"".join(
        struct.pack(">IIBBH", token.id, text.put(token.text), len(token.text), token.flags, 0) for token in ordered
    )
    return _first_bytes([token.text for token in ordered]) + records


def _sorted_table(ids: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    ordered = sorted(ids, key=lambda token: pieces[token])
    return _first_bytes([pieces[token] for token in ordered]) + _u32s(ordered)


def _form_tables(form: FormTables) -> dict[str, bytes]:
    chars = bytearray()
    pool: list[int] = []
    for code in sorted(form.combining.keys() | form.decompositions.keys()):
        parts = form.decompositions.get(code, ())
        chars += struct.pack(">IBBH", code, form.combining.get(code, 0), len(parts), len(pool))
        pool.extend(parts)
    pairs = sorted(form.compositions.items())
    return {
        "chars": bytes(chars),
        "decompositions": _u32s(pool),
        "compositions": np.array([(*pair, whole) for pair, whole in pairs], dtype=">u4").tobytes(),
    }


class _Programs:
    """The programs' steps, and the automata, maps and texts that they share."""

    def __init__(self, text: _Text) -> None:
        self._text = text
        self._automata: dict[bytes, int] = {}
        self.automata = bytearray()
        self.transitions = bytearray()
        self.maps = bytearray()

    def write(self, steps: Sequence[Step]) -> bytes:
        return b"".join(map(self._step, steps))

    def _step(self, step: Step) -> bytes:
        automaton = 0 if step.automaton is None else self._automaton(step.automaton)
        if step.op is Op.MAP:
            begin = len(self.maps) // 16
            for rule in step.rules:
                fields = rule.first, rule.last, self._text.put(rule.text), len(rule.text), rule.around, 0
                self.maps += struct.pack(">IIIBBH", *fields)
            return struct.pack(">BBHIIHH", step.op, step.arg, automaton, begin, len(self.maps) // 16, 0, 0)
        text = self._text.put(step.text + step.by)
        return struct.pack(">BBHIIHH", step.op, step.arg, automaton, text, 0, len(step.text), len(step.by))

    def _automaton(self, automaton: Automaton) -> int:
        rows = automaton.astype(">u2").tobytes()
        if rows not in self._automata:
            self._automata[rows] = len(self._automata)
            self.automata += struct.pack(">IHH", len(self.transitions) // 2, len(automaton), 0)
            self.transitions += rows
        return self._automata[rows]


def _u32s(values: Sequence[int]) -> bytes:
    return np.array(values, dtype=">u4").tobytes()


def write_tokenizer(tokenizer: TokenizerTables) -> bytes:
    """The bytes of the section. The same value gives the same bytes."""
    t = tokenizer
    text = _Text()
    programs = _Programs(text)
    merges, merge_probes = _merge_table(t.merges)
    words, word_probes = _word_table(t.words, t.pieces)
    offsets = np.cumsum([0, *(len(piece) for piece in t.pieces)])
    tables = {
        "token_offsets": offsets.astype(">u4").tobytes(),
        "token_bytes": b"".join(t.pieces),
        "token_flags": bytes(t.flags),
        "bytes": _u32s(t.byte_ids),
        "merges": merges,
        "words": words,
        "scores": np.array(t.scores, dtype=">f8").tobytes(),
        "sorted": _sorted_table(t.sorted_ids, t.pieces) if t.kind in (Kind.UNIGRAM, Kind.WORD_PIECE) else b"",
        "added_raw": _added_table(t.added_raw, text),
        "added_normalized": _added_table(t.added_normalized, text),
        "prefix": _u32s(t.prefix),
        "suffix": _u32s(t.suffix),
        "class_index": t.classes.index.astype(">u2").tobytes(),
        "class_pages": t.classes.pages.tobytes(),
        "class_flags": bytes(t.classes.flags),
        "byte_classes": bytes(t.classes.of_bytes),
        **_form_tables(t.form),
        "normalizer": programs.write(t.normalizer),
        "pre_tokenizer": programs.write(t.pre_tokenizer),
        "decoder": programs.write(t.decoder),
        "automata": bytes(programs.automata),
        "transitions": bytes(programs.transitions),
        "maps": bytes(programs.maps),
    }
    continuing = text.put(t.continuing)
    tables["text"] = bytes(text.data)
    longest_word = max((len(t.pieces[token]) for token in t.words), default=0)
    header = struct.pack(
        ">IIBBHIHHIHHI",
        *(t.kind, len(t.pieces), t.model_flags, len(t.continuing), t.word_limit, longest_word),
        *(merge_probes, word_probes, t.unknown, len(t.classes.flags), 0, continuing),
    )
    body = bytearray()
    for name in TABLES:
        body += bytes(-(HEADER + len(body)) % 16)
        header += struct.pack(">II", HEADER + len(body), len(tables[name]))
        body += tables[name]
    return header + bytes(body)
