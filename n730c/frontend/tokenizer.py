"""Reads a Hugging Face tokenizer and chat template and turns them into what a package stores.

The structure comes from ``tokenizer.json``; every question of meaning (which ids are added in front, what an id
stands for, which words are whole tokens) is answered by the ``tokenizers`` library itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from n730c.errors import UnsupportedModel
from n730c.frontend.tokenizer_samples import SAMPLES
from n730c.frontend.unicode_tables import nfc_tables, unicode_classes
from n730c.tokenizer_format import (
    MAX_ADDED_BYTES,
    MAX_EXTRA_IDS,
    NO_ID,
    AddedFlag,
    AddedToken,
    ByteBpe,
    Pattern,
    TokenFlag,
    validate_tokenizer,
    write_tokenizer,
)

Json = dict[str, Any]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    _GPT2: Pattern.GPT2,
    _LLAMA3: Pattern.LLAMA3,
    _LLAMA3.replace("{1,3}", ""): Pattern.QWEN2,
}
_SUPPORTED = "supported are byte-level BPE tokenizers of the GPT-2, Llama 3 and Qwen2 kinds"


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019, GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _refuse(what: str, expected: str, found: object) -> UnsupportedModel:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=True)
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UnsupportedModel(f"the tokenizer's {what} is not supported", expected=expected, found=shown, hint=_HINT)


_HINT = f"Use a model with another tokenizer; {_SUPPORTED}"


def _load(folder: Path) -> tuple[Json, tokenizers.Tokenizer]:
    """tokenizer.json as JSON and as the library's object, without truncation and padding."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UnsupportedModel(
            f"{folder} has no tokenizer",
            expected="a file tokenizer.json",
            found="none",
            hint="Save the model's fast tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))",
        )
    try:
        text = path.read_text(encoding="utf-8")
        spec = json.loads(text)
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exceptions
        raise UnsupportedModel(
            f"{path} is damaged",
            expected="a tokenizer in the format of the tokenizers library",
            found=str(error),
            hint="Download it again",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return spec, tokenizer


def _flatten(spec: Json | None, kind: str) -> list[Json]:
    """The steps of a pre-tokenizer, normalizer, decoder or post-processor; nested Sequences laid out flat."""
    if spec is None:
        return []
    if spec.get("type") == "Sequence":
        return [step for part in spec[kind] for step in _flatten(part, kind)]
    return [spec]


def _read_pattern(spec: Json) -> tuple[Pattern, bool]:
    """Which pattern cuts text into words, and whether text gets a space in front."""
    steps = _flatten(spec.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise _refuse("pre-tokenizer", "ByteLevel, or Split and ByteLevel", spec.get("pre_tokenizer"))
    byte_level = steps[-1]
    prefix_space = bool(byte_level.get("add_prefix_space", True))
    if byte_level.get("use_regex", True):
        if len(steps) != 1:
            raise _refuse("pre-tokenizer", "nothing in front of ByteLevel's own pattern", spec["pre_tokenizer"])
        return Pattern.GPT2, prefix_space
    if len(steps) != 2 or steps[0].get("type") != "Split" or prefix_space:
        raise _refuse("pre-tokenizer", "one Split, then ByteLevel without prefix space", spec["pre_tokenizer"])
    split = steps[0]
    if split.get("behavior") != "Isolated" or split.get("invert", False):
        raise _refuse("Split", "behavior Isolated, not inverted", {k: split.get(k) for k in ("behavior", "invert")})
    regex = split["pattern"].get("Regex")
    if regex not in PATTERNS:
        raise _refuse("pattern", "that of GPT-2, Llama 3 or Qwen2", regex or split["pattern"])
    return PATTERNS[regex], False


def _check_kind(spec: Json) -> bool:
    """Refuses everything but byte-level BPE; returns whether text is normalized (NFC)."""
    model = spec["model"]
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        raise _refuse("model", "BPE", kind)
    for field in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(field):
            # An unknown token is harmless where nothing can be unknown; the caller looks at that.
            if field in ("unk_token", "byte_fallback") and _byte_alphabet().keys() <= model["vocab"].keys():
                continue
            raise _refuse(f"BPE option {field}", "none", model[field])
    decoder = _flatten(spec.get("decoder"), "decoders")
    if [step.get("type") for step in decoder] != ["ByteLevel"]:
        raise _refuse("decoder", "ByteLevel", spec.get("decoder"))
    normalizer = _flatten(spec.get("normalizer"), "normalizers")
    if any(step.get("type") != "NFC" for step in normalizer):
        raise _refuse("normalizer", "NFC or none", spec.get("normalizer"))
    return bool(normalizer)


def _read_merges(spec: Json) -> list[tuple[int, int, int]]:
    vocab: dict[str, int] = spec["model"]["vocab"]
    rank_of: dict[tuple[int, int], tuple[int, int]] = {}  # of a pair that stands twice the later rank holds
    for rank, merge in enumerate(spec["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rank_of[vocab[left], vocab[right]] = rank, vocab[left + right]
    by_rank = sorted(rank_of.items(), key=lambda item: item[1][0])
    return [(left, right, whole) for (left, right), (_, whole) in by_rank]


def _read_pieces(spec: Json, tokenizer: tokenizers.Tokenizer, count: int) -> list[bytes]:
    """What each id stands for, as the ByteLevel decoder has it; empty for ids without a token."""
    alphabet = _byte_alphabet()
    pieces = []
    for token in range(count):
        text = tokenizer.id_to_token(token) or ""
        known = all(c in alphabet for c in text)
        pieces.append(bytes(alphabet[c] for c in text) if known else text.encode())
    return pieces


def _read_words(spec: Json, tokenizer: tokenizers.Tokenizer, pieces: Sequence[bytes]) -> list[int]:
    """Ids of the vocabulary that a word of their own text becomes, without any merging at run time."""
    alphabet = _byte_alphabet()
    words = []
    for text, token in sorted(spec["model"]["vocab"].items(), key=lambda item: item[1]):
        if not text or any(c not in alphabet for c in text) or len(text) > 65535:
            continue
        if [t.id for t in tokenizer.model.tokenize(text)] != [token]:
            continue
        if pieces[token] != bytes(alphabet[c] for c in text):  # an added token took the id over
            raise UnsupportedModel(
                "an added token has the id of another token", expected="one text an id", found=f"id {token}"
            )
        words.append(token)
    return words


def _read_added(tokenizer: tokenizers.Tokenizer) -> tuple[list[AddedToken], list[AddedToken]]:
    """Added tokens that are looked for before and after normalization."""
    raw: dict[bytes, AddedToken] = {}
    normalized: dict[bytes, AddedToken] = {}
    for token, added in sorted(tokenizer.get_added_tokens_decoder().items()):
        text = added.content
        if added.normalized and tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        flags = AddedFlag(0)
        for wanted, flag in (
            (added.lstrip, AddedFlag.LSTRIP),
            (added.rstrip, AddedFlag.RSTRIP),
            (added.single_word, AddedFlag.SINGLE_WORD),
        ):
            flags |= flag if wanted else AddedFlag(0)
        size = len(text.encode())
        if size > MAX_ADDED_BYTES:
            raise _refuse("added token", f"at most {MAX_ADDED_BYTES} bytes", f"{size} bytes: {text}")
        into = normalized if added.normalized else raw
        if text.encode() in into:
            raise _refuse("added token", "no two of the same normalized text", text)
        if text:
            into[text.encode()] = AddedToken(text.encode(), token, flags)
    return list(raw.values()), list(normalized.values())


def _read_extra_ids(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts in front of and behind a prompt."""
    sample = "x"
    plain: list[int] = tokenizer.encode(sample, add_special_tokens=False).ids
    full: list[int] = tokenizer.encode(sample, add_special_tokens=True).ids
    if not plain:
        raise _refuse("vocabulary", "a token for every printable byte", f"none for {sample!r}")
    for at in range(len(full) - len(plain) + 1):
        prefix, suffix = full[:at], full[at + len(plain) :]
        if full[at : at + len(plain)] == plain and max(len(prefix), len(suffix)) <= MAX_EXTRA_IDS:
            return prefix, suffix
    raise _refuse("post-processor", f"at most {MAX_EXTRA_IDS} ids in front of and behind the text", f"{full}")


def compile_tokenizer(folder: Path, vocab: int, eos_ids: Sequence[int]) -> bytes:
    """The TOKENIZER section for the tokenizer in a Hugging Face folder.

    ``vocab``: rows of the model's embedding; the tokenizer may have fewer tokens (padding), never more.
    ``eos_ids``: ids that end generation. Raises UnsupportedModel.
    """
    spec, tokenizer = _load(folder)
    try:
        normalizes = _check_kind(spec)
        pattern, prefix_space = _read_pattern(spec)
        merges = _read_merges(spec)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{folder / 'tokenizer.json'} is damaged", found=f"{error!r}") from error
    count = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *eos_ids], default=-1) + 1
    if count > vocab or count == 0:
        raise UnsupportedModel(
            "the tokenizer does not fit the model",
            expected=f"1 to {vocab} tokens, the rows of the embedding",
            found=str(count),
            hint="Use the tokenizer that belongs to the model",
        )
    pieces = _read_pieces(spec, tokenizer, count)
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}
    flags = [
        (TokenFlag.SPECIAL if tokenizer.id_to_token(token) in special else TokenFlag(0))
        | (TokenFlag.EOS if token in eos_ids else TokenFlag(0))
        for token in range(count)
    ]
    byte_of = _byte_alphabet()
    model_vocab: dict[str, int] = spec["model"]["vocab"]
    raw, normalized = _read_added(tokenizer)
    prefix, suffix = _read_extra_ids(tokenizer)
    compiled = write_tokenizer(
        ByteBpe(
            pieces=pieces,
            flags=flags,
            byte_ids=[model_vocab.get(c, NO_ID) for c in sorted(byte_of, key=byte_of.__getitem__)],
            merges=merges,
            words=_read_words(spec, tokenizer, pieces),
            added_raw=raw,
            added_normalized=normalized,
            prefix=prefix,
            suffix=suffix,
            pattern=pattern,
            prefix_space=prefix_space,
            classes=unicode_classes(nfc=normalizes, words=any(token.flags for token in (*raw, *normalized))),
            nfc=nfc_tables() if normalizes else None,
        )
    )
    fault = validate_tokenizer(compiled, vocab)
    if fault is not None:
        raise UnsupportedModel("the tokenizer is beyond the limits of a package", found=fault)
    return compiled


def check_tokenizer(compiled: bytes, folder: Path, encode: Callable[[str], list[int]]) -> None:
    """Compares ``encode`` (text → ids, no special tokens added) with the library on difficult texts.

    ``encode`` is the native encoder working on ``compiled``. Raises UnsupportedModel at the first difference.
    """
    _, tokenizer = _load(folder)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:64]
    glued = "".join(f" {text}{word}{text}" for text, word in zip(added, ("a", " ", "\n", "'s", "é") * 13, strict=False))
    for text in (*SAMPLES, glued):
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        found = encode(text)
        if found != expected:
            at = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), len(found))
            raise UnsupportedModel(
                f"the compiled tokenizer ({len(compiled)} bytes) differs from the original on {text[:40]!a}",
                expected=f"{expected[at : at + 4]} at token {at}",
                found=f"{found[at : at + 4]}",
                hint="Please report this model's tokenizer",
            )
