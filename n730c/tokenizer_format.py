"""The TOKENIZER section of a package: its writer and its validator (runtime/FORMAT.md, section 6).

Knows bytes only. What the tables mean for a Hugging Face tokenizer is the business of ``frontend/tokenizer.py``;
the native twin of the validator is ``runtime/src/tokenizer_validate.cpp``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

HEADER = 160
KIND_BYTE_BPE = 1
NO_ID = 0xFFFFFFFF
MAX_TOKENS = 0xFFFFFF  # ids are 24 bits wide in the hash tables; all ones mark an empty slot
MAX_ADDED_BYTES = 255
MAX_EXTRA_IDS = 16
TABLES = (
    "token_offsets",
    "token_bytes",
    "token_flags",
    "bytes",
    "merges",
    "words",
    "added_raw",
    "added_normalized",
    "added_text",
    "prefix",
    "suffix",
    "class_index",
    "class_pages",
    "chars",
    "decompositions",
    "compositions",
)
_MASK = (1 << 64) - 1
_HASH_FACTOR = 0x9E3779B97F4A7C15


class Pattern(IntEnum):
    """Which regular expression cuts text into words."""

    GPT2 = 1
    LLAMA3 = 2
    QWEN2 = 3


class TokenFlag(IntFlag):
    SPECIAL = 1  # left out when ids are turned into text
    EOS = 2  # ends generation


class AddedFlag(IntFlag):
    LSTRIP = 1
    RSTRIP = 2
    SINGLE_WORD = 4


NO_RULES = AddedFlag(0)


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text itself. ``text``: what to look for, 1 … 255 bytes."""

    text: bytes
    id: int
    flags: AddedFlag = NO_RULES


@dataclass(frozen=True)
class UnicodeClasses:
    """``pages[index[c >> 8]][c & 255]`` is the class byte of code point c: uint16[4352], uint8[pages, 256]."""

    index: NDArray[np.uint16]
    pages: NDArray[np.uint8]


@dataclass(frozen=True)
class NfcTables:
    """Canonical classes and full canonical decompositions, and the pairs that compose; Hangul syllables left out."""

    combining: dict[int, int]  # code point → canonical combining class, where it is not 0
    decompositions: dict[int, tuple[int, ...]]
    compositions: dict[tuple[int, int], int]


@dataclass(frozen=True)
class ByteBpe:
    """A byte-level BPE tokenizer, ready to be written."""

    pieces: Sequence[bytes]  # what each id stands for in text; empty: no such token
    flags: Sequence[TokenFlag]  # one a piece
    byte_ids: Sequence[int]  # id of each of the 256 bytes; NO_ID: the byte is dropped
    merges: Sequence[tuple[int, int, int]]  # (left, right, result) in order of rank, no pair twice
    words: Sequence[int]  # ids whose piece, standing alone as a word, is that one token
    added_raw: Sequence[AddedToken]  # looked for before normalization
    added_normalized: Sequence[AddedToken]  # looked for after it
    prefix: Sequence[int]  # put in front of a prompt
    suffix: Sequence[int]  # put behind it
    pattern: Pattern
    prefix_space: bool  # text that does not begin with a space gets one
    classes: UnicodeClasses
    nfc: NfcTables | None  # None: text is not normalized


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


def _added_table(tokens: Sequence[AddedToken], text: bytearray) -> bytes:
    """The index by first byte and the records; appends the texts to ``text``."""
    if not tokens:
        return b""
    ordered = sorted(tokens, key=lambda token: token.text)
    firsts = [token.text[0] for token in ordered]
    index = np.searchsorted(np.array(firsts), np.arange(257)).astype(">u4").tobytes()
    records = bytearray()
    for token in ordered:
        records += struct.pack(">IIBBH", token.id, len(text), len(token.text), token.flags, 0)
        text += token.text
    return index + bytes(records)


def _nfc_tables(nfc: NfcTables | None) -> dict[str, bytes]:
    if nfc is None:
        return {"chars": b"", "decompositions": b"", "compositions": b""}
    chars = bytearray()
    pool: list[int] = []
    for code in sorted(nfc.combining.keys() | nfc.decompositions.keys()):
        parts = nfc.decompositions.get(code, ())
        chars += struct.pack(">IBBH", code, nfc.combining.get(code, 0), len(parts), len(pool))
        pool.extend(parts)
    pairs = sorted(nfc.compositions.items())
    return {
        "chars": bytes(chars),
        "decompositions": np.array(pool, dtype=">u4").tobytes(),
        "compositions": np.array([(*pair, whole) for pair, whole in pairs], dtype=">u4").tobytes(),
    }


def _u32s(values: Sequence[int]) -> bytes:
    return np.array(values, dtype=">u4").tobytes()


def write_tokenizer(bpe: ByteBpe) -> bytes:
    """The bytes of the section. The same value gives the same bytes."""
    text = bytearray()
    merges, merge_probes = _merge_table(bpe.merges)
    words, word_probes = _word_table(bpe.words, bpe.pieces)
    offsets = np.cumsum([0, *(len(piece) for piece in bpe.pieces)])
    tables = {
        "token_offsets": offsets.astype(">u4").tobytes(),
        "token_bytes": b"".join(bpe.pieces),
        "token_flags": bytes(bpe.flags),
        "bytes": _u32s(bpe.byte_ids),
        "merges": merges,
        "words": words,
        "added_raw": _added_table(bpe.added_raw, text),
        "added_normalized": _added_table(bpe.added_normalized, text),
        "added_text": bytes(text),
        "prefix": _u32s(bpe.prefix),
        "suffix": _u32s(bpe.suffix),
        "class_index": bpe.classes.index.astype(">u2").tobytes(),
        "class_pages": bpe.classes.pages.tobytes(),
        **_nfc_tables(bpe.nfc),
    }
    longest_word = max((len(bpe.pieces[token]) for token in bpe.words), default=0)
    header = struct.pack(
        ">IIBBBBIHH12x",
        *(KIND_BYTE_BPE, len(bpe.pieces), bpe.pattern, bpe.nfc is not None, bpe.prefix_space, 0),
        *(longest_word, merge_probes, word_probes),
    )
    body = bytearray()
    for name in TABLES:
        body += bytes(-(HEADER + len(body)) % 16)
        header += struct.pack(">II", HEADER + len(body), len(tables[name]))
        body += tables[name]
    return header + bytes(body)


def _added_fault(table: bytes, text: bytes, tokens: int) -> bool:
    if not table:
        return False
    count, rest = divmod(len(table) - 257 * 4, 12)
    if count < 1 or rest or count > 65535:
        return True
    texts: list[bytes] = []
    for token, offset, length, flags, reserved in struct.iter_unpack(">IIBBH", table[257 * 4 :]):
        found = text[offset : offset + length]
        if token >= tokens or length == 0 or flags > 7 or reserved or len(found) != length:
            return True
        if texts and texts[-1] >= found:
            return True
        texts.append(found)
    firsts = np.array([found[0] for found in texts])
    return bool(np.any(np.frombuffer(table[: 257 * 4], ">u4") != np.searchsorted(firsts, np.arange(257))))


def _not_scalar(codes: NDArray[np.int64]) -> bool:
    """Is one of them no Unicode scalar value (a surrogate, or beyond U+10FFFF)?"""
    return bool(np.any((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))))


def _nfc_fault(tables: dict[str, bytes]) -> str | None:
    raw = np.frombuffer(tables["chars"], np.uint8).reshape(-1, 8)
    codes = np.frombuffer(tables["chars"], ">u4").reshape(-1, 2)[:, 0].astype(np.int64)
    ends = np.frombuffer(tables["chars"], ">u2").reshape(-1, 4)[:, 3].astype(np.int64) + raw[:, 5]
    pool = np.frombuffer(tables["decompositions"], ">u4").astype(np.int64)
    unordered = np.any(codes[1:] <= codes[:-1])
    if _not_scalar(codes) or unordered or np.any(raw[:, 5] > 4) or np.any(ends > len(pool)) or _not_scalar(pool):
        return "decompositions are not as they must be"
    triples = np.frombuffer(tables["compositions"], ">u4").reshape(-1, 3).astype(np.uint64)
    keys = triples[:, 0] << np.uint64(32) | triples[:, 1]
    wholes = triples[:, 2].astype(np.int64)
    if np.any(keys[1:] <= keys[:-1]) or np.any(wholes == 0) or _not_scalar(wholes):
        return "compositions are not as they must be"
    return None


def validate_tokenizer(data: bytes, vocab: int) -> str | None:
    """What is wrong with a TOKENIZER section for a model of ``vocab`` tokens, or None.

    Accepts and refuses the same bytes with the same words as ``Tokenizer::validate`` of the runtime.
    """
    if len(data) < HEADER:
        return "the header is cut short"
    if len(data) > 256 << 20:
        return "it is larger than 256 MiB"
    tables: dict[str, bytes] = {}
    at = HEADER
    for name, (offset, size) in zip(TABLES, struct.iter_unpack(">II", data[32:HEADER]), strict=True):
        begin = -(-at // 16) * 16
        if offset != begin or begin + size > len(data):
            return "a table lies in the wrong place"
        if any(data[at:begin]):
            return "padding is not zero"
        tables[name] = data[begin : begin + size]
        at = begin + size
    if at != len(data):
        return "it does not end with its last table"

    kind, tokens, pattern, normalizer, prefix_space, zero = struct.unpack_from(">IIBBBB", data)
    longest_word, merge_probes, word_probes = struct.unpack_from(">IHH", data, 12)
    if kind != KIND_BYTE_BPE:
        return "its kind is unknown"
    if tokens == 0 or tokens > min(vocab, MAX_TOKENS):
        return "its number of tokens does not fit the model"
    if not 1 <= pattern <= 3:
        return "its pattern is unknown"
    if normalizer > 1:
        return "its normalizer is unknown"
    if prefix_space > 1 or zero or any(data[20:32]):
        return "a flag or a reserved field is not as it must be"
    if longest_word > 65535 or merge_probes > 255 or word_probes > 255:
        return "a limit is too large"
    size_of = {name: len(table) for name, table in tables.items()}
    units = {"merges": 12, "words": 4, "prefix": 4, "suffix": 4, "class_pages": 256, "chars": 8, "decompositions": 4}
    units["compositions"] = 12
    exact = {"token_offsets": 4 * (tokens + 1), "token_flags": tokens, "bytes": 1024, "class_index": 8704}
    if (
        any(size_of[name] != size for name, size in exact.items())
        or any(size_of[name] % unit for name, unit in units.items())
        or (not tables["merges"] and merge_probes)
        or (not tables["words"] and word_probes)
        or max(size_of["prefix"], size_of["suffix"]) > 4 * MAX_EXTRA_IDS
    ):
        return "a table has the wrong size"

    offsets = np.frombuffer(tables["token_offsets"], ">u4").astype(np.int64)
    if offsets[0] != 0 or np.any(np.diff(offsets) < 0) or offsets[-1] != size_of["token_bytes"]:
        return "token offsets are out of order"
    if np.any(np.frombuffer(tables["token_flags"], np.uint8) > 3):
        return "a token has unknown flags"
    byte_ids = np.frombuffer(tables["bytes"], ">u4")
    if np.any((byte_ids >= tokens) & (byte_ids != NO_ID)):
        return "a byte names no token"
    fields = np.frombuffer(tables["merges"], np.uint8).reshape(-1, 4, 3).astype(np.uint32)
    values = fields[:, :, 0] << 16 | fields[:, :, 1] << 8 | fields[:, :, 2]
    used = values[np.any(values != 0xFFFFFF, axis=1)]
    if np.any(used[:, [0, 1, 3]] >= tokens):
        return "a merge names no token"
    slots = np.frombuffer(tables["words"], ">u4")
    if np.any((slots & 0xFFFFFF >= tokens) & (slots != NO_ID)):
        return "a word names no token"
    if any(_added_fault(tables[name], tables["added_text"], tokens) for name in ("added_raw", "added_normalized")):
        return "added tokens are not as they must be"
    if np.any(np.frombuffer(tables["prefix"] + tables["suffix"], ">u4") >= tokens):
        return "an id in front or behind names no token"
    if np.any(np.frombuffer(tables["class_index"], ">u2") >= size_of["class_pages"] // 256):
        return "a class page is missing"
    return _nfc_fault(tables)
