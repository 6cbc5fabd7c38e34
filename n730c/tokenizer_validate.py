"""The checks of a TOKENIZER section (runtime/FORMAT.md, section 6); tokenizer_format.py writes it.

Its native twin is ``runtime/src/tokenizer_validate.cpp``: both accept and refuse the same bytes with the same words.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from n730c.tokenizer_format import (
    ACCEPTS,
    HEADER,
    MAX_EXTRA_IDS,
    MAX_PIECE_BYTES,
    MAX_STATES,
    MAX_STEPS,
    MAX_TEXT_BYTES,
    MAX_TOKENS,
    NO_ID,
    TABLES,
    Kind,
    Op,
)

_INDEX = 257 * 4  # bytes of the index by first byte
_STEP = 16
# What the fields of a step may hold: the programs that it may stand in, its largest arg, whether it has an automaton,
# how many texts (negative: as many, and the first is not empty).
_RULES = {
    Op.REPLACE: (("normalizer", "pre_tokenizer"), 0, True, 1),
    Op.FORM: (("normalizer",), 1, False, 0),
    Op.MAP: (("normalizer",), 0, False, 0),
    Op.PREPEND: (("normalizer",), 0, False, 1),
    Op.STRIP: (("normalizer",), 3, False, 0),
    Op.SPLIT: (("pre_tokenizer",), 31, True, 0),
    Op.PREFIX: (("pre_tokenizer",), 1, False, 1),
    Op.SUBSTITUTE: (("decoder",), 0, False, -2),
    Op.DROP_FIRST: (("decoder",), 0, False, -1),
    Op.JOIN: (("decoder",), 0, False, 1),
    Op.BYTES: (("decoder",), 0, False, 0),
    Op.TRIM: (("decoder",), 255, False, -1),
}


def _added_fault(table: bytes, text: bytes, tokens: int) -> bool:
    if not table:
        return False
    count, rest = divmod(len(table) - _INDEX, 12)
    if count < 1 or rest or count > 65535:
        return True
    texts: list[bytes] = []
    for token, offset, length, flags, reserved in struct.iter_unpack(">IIBBH", table[_INDEX:]):
        found = text[offset : offset + length]
        if token >= tokens or length == 0 or flags > 7 or reserved or len(found) != length:
            return True
        if texts and texts[-1] >= found:
            return True
        texts.append(found)
    firsts = np.array([found[0] for found in texts])
    return bool(np.any(np.frombuffer(table[:_INDEX], ">u4") != np.searchsorted(firsts, np.arange(257))))


def _sorted_fault(table: bytes, offsets: NDArray[np.int64], data: bytes) -> bool:
    if not table:
        return False
    ids = np.frombuffer(table[_INDEX:], ">u4")
    if np.any(ids >= len(offsets) - 1):
        return True
    texts = [data[offsets[i] : offsets[i + 1]] for i in ids.astype(np.int64)]
    if any(not 1 <= len(text) <= MAX_PIECE_BYTES for text in texts):
        return True
    if any(last >= text for last, text in pairwise(texts)):
        return True
    firsts = np.array([text[0] for text in texts], np.int64)
    return bool(np.any(np.frombuffer(table[:_INDEX], ">u4") != np.searchsorted(firsts, np.arange(257))))


def _class_fault(tables: dict[str, bytes], classes: int) -> bool:
    highest = max(max(tables[name], default=0) for name in ("class_pages", "byte_classes"))
    return highest >= classes or max(tables["class_flags"]) > 15


def _automata_fault(tables: dict[str, bytes], row: int) -> bool:
    transitions = np.frombuffer(tables["transitions"], ">u2").astype(np.int64)
    for first, states, reserved in struct.iter_unpack(">IHH", tables["automata"]):
        if not 1 <= states <= MAX_STATES or reserved or first + states * row > len(transitions):
            return True
        rows = transitions[first : first + states * row].reshape(states, row)
        nexts, accepts = rows & (ACCEPTS - 1), (rows & ACCEPTS) != 0
        if np.any(nexts > states) or np.any(accepts[0]):
            return True
    return False


def _maps_fault(tables: dict[str, bytes]) -> bool:
    return any(
        first > last or last > 0x10FFFF or around > 1 or reserved or offset + size > len(tables["text"])
        for first, last, offset, size, around, reserved in struct.iter_unpack(">IIIBBH", tables["maps"])
    )


def _step_fault(step: bytes, program: str, tables: dict[str, bytes]) -> bool:
    op, arg, automaton, x, y, a, b = struct.unpack(">BBHIIHH", step)
    if op not in _RULES:
        return True
    programs, highest, has_automaton, texts = _RULES[Op(op)]
    if program not in programs or arg > highest or (op == Op.SPLIT and (arg & 7) > 4):
        return True
    if automaton >= len(tables["automata"]) // 8 if has_automaton else automaton != 0:
        return True
    if max(a, b) > MAX_TEXT_BYTES or (texts < 0 and a == 0):
        return True
    if op == Op.MAP:
        return not x <= y <= len(tables["maps"]) // 16 or a != 0 or b != 0
    if y or (texts == 0 and (x or a)) or (texts != -2 and b):
        return True
    return bool(x + a + b > len(tables["text"]))


def _program_fault(tables: dict[str, bytes]) -> bool:
    return any(
        _step_fault(tables[program][at : at + _STEP], program, tables)
        for program in ("normalizer", "pre_tokenizer", "decoder")
        for at in range(0, len(tables[program]), _STEP)
    )


def _not_scalar(codes: NDArray[np.int64]) -> bool:
    """Is one of them no Unicode scalar value (a surrogate, or beyond U+10FFFF)?"""
    return bool(np.any((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes <= 0xDFFF))))


def _form_fault(tables: dict[str, bytes]) -> str | None:
    raw = np.frombuffer(tables["chars"], np.uint8).reshape(-1, 8)
    codes = np.frombuffer(tables["chars"], ">u4").reshape(-1, 2)[:, 0].astype(np.int64)
    ends = np.frombuffer(tables["chars"], ">u2").reshape(-1, 4)[:, 3].astype(np.int64) + raw[:, 5]
    pool = np.frombuffer(tables["decompositions"], ">u4").astype(np.int64)
    unordered = np.any(codes[1:] <= codes[:-1])
    if _not_scalar(codes) or unordered or np.any(raw[:, 5] > 18) or np.any(ends > len(pool)) or _not_scalar(pool):
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

    kind, tokens, flags, continuing_size, _ = struct.unpack_from(">IIBBH", data)
    longest_word, merge_probes, word_probes, unknown = struct.unpack_from(">IHHI", data, 12)
    classes, reserved, continuing = struct.unpack_from(">HHI", data, 24)
    if not 1 <= kind <= 4:
        return "its kind is unknown"
    if tokens == 0 or tokens > min(vocab, MAX_TOKENS):
        return "its number of tokens does not fit the model"
    if flags > 3 or reserved:
        return "a flag or a reserved field is not as it must be"
    if unknown >= tokens and (unknown != NO_ID or kind > Kind.CHAR_BPE):
        return "its unknown token is no token"
    if not 1 <= classes <= 255:
        return "its number of classes is out of range"
    if longest_word > 65535 or merge_probes > 255 or word_probes > 255:
        return "a limit is too large"
    size_of = {name: len(table) for name, table in tables.items()}
    units = {"merges": 12, "words": 4, "sorted": 4, "prefix": 4, "suffix": 4, "class_pages": 256, "automata": 8}
    units |= {"transitions": 2, "chars": 8, "decompositions": 4, "compositions": 12, "maps": 16}
    units |= {"normalizer": _STEP, "pre_tokenizer": _STEP, "decoder": _STEP}
    exact = {"token_offsets": 4 * (tokens + 1), "token_flags": tokens, "bytes": 1024, "class_index": 8704}
    exact |= {"class_flags": classes, "byte_classes": 256, "scores": 8 * (tokens + 1) if kind == Kind.UNIGRAM else 0}
    if (
        any(size_of[name] != size for name, size in exact.items())
        or any(size_of[name] % unit for name, unit in units.items())
        or (not tables["merges"] and merge_probes)
        or (not tables["words"] and word_probes)
        or (size_of["sorted"] < _INDEX if kind > Kind.CHAR_BPE else size_of["sorted"] != 0)
        or max(size_of["prefix"], size_of["suffix"]) > 4 * MAX_EXTRA_IDS
        or max(size_of[name] for name in ("normalizer", "pre_tokenizer", "decoder")) > _STEP * MAX_STEPS
    ):
        return "a table has the wrong size"
    if continuing + continuing_size > size_of["text"]:
        return "a text lies outside its table"

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
    if _sorted_fault(tables["sorted"], offsets, tables["token_bytes"]):
        return "sorted tokens are not as they must be"
    if any(_added_fault(tables[name], tables["text"], tokens) for name in ("added_raw", "added_normalized")):
        return "added tokens are not as they must be"
    if np.any(np.frombuffer(tables["prefix"] + tables["suffix"], ">u4") >= tokens):
        return "an id in front or behind names no token"
    if np.any(np.frombuffer(tables["class_index"], ">u2") >= size_of["class_pages"] // 256):
        return "a class page is missing"
    if _class_fault(tables, classes):
        return "a class is not as it must be"
    if _automata_fault(tables, classes + 1):
        return "an automaton is not as it must be"
    if _maps_fault(tables):
        return "a map is not as it must be"
    if _program_fault(tables):
        return "a step is not as it must be"
    return _form_fault(tables)
