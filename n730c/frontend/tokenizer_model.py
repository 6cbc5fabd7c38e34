"""The model of a Hugging Face tokenizer (BPE, Unigram, WordPiece) as the tables of a package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import tokenizers

from n730c.errors import UnsupportedModel
from n730c.frontend.tokenizer_steps import refuse
from n730c.tokenizer_format import MAX_PIECE_BYTES, NO_ID, NO_MODEL_FLAGS, Kind, ModelFlag

Json = dict[str, Any]

_UNKNOWN_PENALTY = 10.0  # what an unknown character costs more than the least likely token of Unigram


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019, GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


@dataclass
class Vocabulary:
    """What ``TokenizerTables`` holds of the model; see there."""

    kind: Kind
    byte_ids: list[int] = field(default_factory=lambda: [NO_ID] * 256)
    model_flags: ModelFlag = NO_MODEL_FLAGS
    unknown: int = NO_ID
    merges: list[tuple[int, int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    sorted_ids: list[int] = field(default_factory=list)
    word_limit: int = 0
    continuing: bytes = b""


def _read_merges(model: Json) -> list[tuple[int, int, int]]:
    vocab: dict[str, int] = model["vocab"]
    rank_of: dict[tuple[int, int], tuple[int, int]] = {}  # of a pair that stands twice the later rank holds
    for rank, (left, right) in enumerate(model["merges"]):
        rank_of[vocab[left], vocab[right]] = rank, vocab[left + right]
    by_rank = sorted(rank_of.items(), key=lambda item: item[1][0])
    return [(left, right, whole) for (left, right), (_, whole) in by_rank]


def read_pieces(kind: Kind, tokenizer: tokenizers.Tokenizer, count: int) -> list[bytes]:
    """What each id stands for, as the ByteLevel decoder has it, or the token itself; empty for ids without a token."""
    alphabet = byte_alphabet() if kind is Kind.BYTE_BPE else {}
    pieces = []
    for token in range(count):
        text = tokenizer.id_to_token(token) or ""
        known = kind is Kind.BYTE_BPE and all(c in alphabet for c in text)
        pieces.append(bytes(alphabet[c] for c in text) if known else text.encode())
    return pieces


def _read_words(vocab: dict[str, int], tokenizer: tokenizers.Tokenizer, kind: Kind) -> list[int]:
    """Ids of the vocabulary that a word of their own text becomes, without any merging at run time."""
    alphabet = byte_alphabet()
    words = []
    for text, token in sorted(vocab.items(), key=lambda item: item[1]):
        if not text or (kind is Kind.BYTE_BPE and any(c not in alphabet for c in text)) or len(text.encode()) > 65535:
            continue
        if [t.id for t in tokenizer.model.tokenize(text)] == [token]:
            words.append(token)
    return words


def _bytes_of_names(vocab: dict[str, int]) -> list[int]:
    return [vocab.get(f"<0x{byte:02X}>", NO_ID) for byte in range(256)]


def _unknown_id(model: Json, name: str, vocab: dict[str, int]) -> int:
    if name not in vocab:
        raise UnsupportedModel(
            f"the tokenizer's {model['type']} model is damaged", expected="its unknown token", found=f"no {name!a}"
        )
    return vocab[name]


def _read_bpe(model: Json, tokenizer: tokenizers.Tokenizer, bytes_: bool) -> Vocabulary:
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise refuse(f"BPE option {name}", "none", model[name])
    vocab: dict[str, int] = model["vocab"]
    kind = Kind.BYTE_BPE if bytes_ else Kind.CHAR_BPE
    found = Vocabulary(kind, merges=_read_merges(model), words=_read_words(vocab, tokenizer, kind))
    if bytes_:
        alphabet = byte_alphabet()
        for name in ("unk_token", "byte_fallback"):
            # Harmless where nothing can be unknown.
            if model.get(name) and not alphabet.keys() <= vocab.keys():
                raise refuse(f"BPE option {name}", "none", model[name])
        found.byte_ids = [vocab.get(c, NO_ID) for c in sorted(alphabet, key=alphabet.__getitem__)]
        return found
    if model.get("unk_token") is not None:
        found.unknown = _unknown_id(model, model["unk_token"], vocab)
        found.model_flags |= ModelFlag.FUSE_UNKNOWN if model.get("fuse_unk") else ModelFlag(0)
    if model.get("byte_fallback"):
        found.model_flags |= ModelFlag.BYTE_FALLBACK
        found.byte_ids = _bytes_of_names(vocab)
    return found


def _check_pieces(vocab: dict[str, int]) -> list[int]:
    longest = max((len(text.encode()) for text in vocab), default=0)
    if longest > MAX_PIECE_BYTES:
        raise refuse("vocabulary", f"tokens of at most {MAX_PIECE_BYTES} bytes", f"{longest} bytes")
    return [token for text, token in vocab.items() if text]


def _read_unigram(model: Json) -> Vocabulary:
    vocab = {text: token for token, (text, _) in enumerate(model["vocab"])}  # of a text that stands twice the later
    if model.get("unk_id") is None:
        raise refuse("Unigram model", "an unknown token", "none")
    found = Vocabulary(Kind.UNIGRAM, unknown=model["unk_id"], sorted_ids=_check_pieces(vocab))
    found.scores = [float(score) for _, score in model["vocab"]]
    if model.get("byte_fallback"):
        found.model_flags |= ModelFlag.BYTE_FALLBACK
        found.byte_ids = _bytes_of_names(vocab)
    return found


def _read_word_piece(model: Json) -> Vocabulary:
    vocab: dict[str, int] = model["vocab"]
    continuing = model["continuing_subword_prefix"].encode()
    limit = model["max_input_chars_per_word"]
    if len(continuing) > 255 or limit > 65535:
        raise refuse("WordPiece model", "a prefix of at most 255 bytes and words of at most 65535", f"{limit}")
    unknown = _unknown_id(model, model["unk_token"], vocab)
    return Vocabulary(
        Kind.WORD_PIECE,
        unknown=unknown,
        sorted_ids=_check_pieces(vocab),
        word_limit=limit,
        continuing=continuing,
    )


def read_vocabulary(model: Json, tokenizer: tokenizers.Tokenizer, *, bytes_: bool) -> Vocabulary:
    """``bytes_``: the words are bytes in the alphabet of ByteLevel. Raises UnsupportedModel."""
    kind = model["type"]
    if bytes_ and kind != "BPE":
        raise refuse("model", "BPE behind the pre-tokenizer ByteLevel", kind)
    if kind == "BPE":
        return _read_bpe(model, tokenizer, bytes_)
    if kind == "Unigram":
        return _read_unigram(model)
    if kind == "WordPiece":
        return _read_word_piece(model)
    raise refuse("model", "BPE, Unigram or WordPiece", kind)


def finish_scores(found: Vocabulary, count: int) -> None:
    """Unigram's scores for ids that are added tokens, and the one of an unknown character."""
    if found.kind is Kind.UNIGRAM:
        unknown = min(found.scores) - _UNKNOWN_PENALTY
        found.scores = [*found.scores, *[0.0] * (count - len(found.scores)), unknown]


def reaches_across(space: str, model: Json) -> bool:
    """Could a merge join ``space`` to another character in front of it?"""
    if space not in model["vocab"] or model.get("ignore_merges"):
        return True
    return any(left[-1:] != space and right[:1] == space for left, right in model["merges"])
