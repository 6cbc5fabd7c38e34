"""Reads a Hugging Face tokenizer and turns it into what a package stores.

The structure comes from ``tokenizer.json``; every question of meaning (which ids are added in front, what an id
stands for, which words are whole tokens) is answered by the ``tokenizers`` library itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from n730c.errors import UnsupportedModel
from n730c.frontend.tokenizer_decoder import read_decoder
from n730c.frontend.tokenizer_model import byte_alphabet, finish_scores, reaches_across, read_pieces, read_vocabulary
from n730c.frontend.tokenizer_samples import SAMPLES
from n730c.frontend.tokenizer_steps import cut_at_spaces, flatten, read_words, refuse
from n730c.tokenizer_format import (
    MAX_ADDED_BYTES,
    MAX_EXTRA_IDS,
    AddedFlag,
    AddedToken,
    Kind,
    TokenFlag,
    TokenizerTables,
    write_tokenizer,
)
from n730c.tokenizer_validate import validate_tokenizer

Json = dict[str, Any]

_OTHER_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_SPACE = "\u2581"  # what SentencePiece writes for a space


def _missing(folder: Path, found: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{folder} has no tokenizer",
        expected="a file tokenizer.json",
        found=found,
        hint="Save the model's fast tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))",
    )


def _json_of(folder: Path) -> str:
    """The text of tokenizer.json, or what transformers makes of a folder that has another tokenizer's files only."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    others = [name for name in _OTHER_FILES if (folder / name).is_file()]
    if not others:
        raise _missing(folder, "none")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        converted = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text: str = converted.backend_tokenizer.to_str()
    except Exception as error:  # whatever is wrong with the files, or missing for them (sentencepiece)
        reason = " ".join(str(error).split())
        raise _missing(folder, f"{others[0]}, which transformers cannot convert: {reason[:200]}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    return text


def _refuse_charsmap(text: str) -> None:
    """A normalizer that is a table of its own is not understood; on a damaged one the library would end the program."""
    if '"Precompiled"' in text:
        for part in flatten(json.loads(text).get("normalizer"), "normalizers"):
            if part["type"] == "Precompiled":
                raise refuse("normalizer", "one without a precompiled charsmap", part["type"])


def _load(folder: Path) -> tuple[Json, tokenizers.Tokenizer]:
    """The tokenizer as JSON and as the library's object, without truncation and padding."""
    try:
        text = _json_of(folder)
        _refuse_charsmap(text)
        tokenizer = tokenizers.Tokenizer.from_str(text)
        spec = json.loads(tokenizer.to_str())  # as the installed library writes it: older files have older fields
    except UnsupportedModel:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise UnsupportedModel(
            f"{folder / 'tokenizer.json'} is damaged",
            expected="a tokenizer in the format of the tokenizers library",
            found=" ".join(str(error).split()),
            hint="Download it again",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return spec, tokenizer


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
            raise refuse("added token", f"at most {MAX_ADDED_BYTES} bytes", f"{size} bytes: {text}")
        into = normalized if added.normalized else raw
        if text.encode() in into:
            raise refuse("added token", "no two of the same normalized text", text)
        if text:
            into[text.encode()] = AddedToken(text.encode(), token, flags)
    return list(raw.values()), list(normalized.values())


def _read_extra_ids(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts in front of and behind a prompt."""
    plain: list[int] = []
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for sample in ("x", "a", "1", ".", *added[:1]):  # a tokenizer may drop some of them
        plain = tokenizer.encode(sample, add_special_tokens=False).ids
        if plain:
            break
    full: list[int] = tokenizer.encode(sample, add_special_tokens=True).ids
    if not plain:
        raise refuse("vocabulary", "tokens for printable characters", "none")
    for at in range(len(full) - len(plain) + 1):
        prefix, suffix = full[:at], full[at + len(plain) :]
        if full[at : at + len(plain)] == plain and max(len(prefix), len(suffix)) <= MAX_EXTRA_IDS:
            return prefix, suffix
    raise refuse("post-processor", f"at most {MAX_EXTRA_IDS} ids in front of and behind the text", f"{full}")


def _check_ids(pieces: Sequence[bytes], tokenizer: tokenizers.Tokenizer, model: Json, kind: Kind) -> None:
    """No added token may have taken the id of another token over: the vocabulary's text would be lost."""
    alphabet = byte_alphabet()
    vocab = model["vocab"] if isinstance(model["vocab"], dict) else {t: i for i, (t, _) in enumerate(model["vocab"])}
    for text, token in vocab.items():
        known = kind is Kind.BYTE_BPE and all(c in alphabet for c in text)
        if pieces[token] != (bytes(alphabet[c] for c in text) if known else text.encode()):
            raise UnsupportedModel(
                "an added token has the id of another token", expected="one text an id", found=f"id {token}"
            )


def compile_tokenizer(folder: Path, vocab: int, eos_ids: Sequence[int]) -> bytes:
    """The TOKENIZER section for the tokenizer in a Hugging Face folder.

    ``vocab``: rows of the model's embedding; the tokenizer may have fewer tokens (padding), never more.
    ``eos_ids``: ids that end generation. Raises UnsupportedModel.
    """
    spec, tokenizer = _load(folder)
    count = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *eos_ids], default=-1) + 1
    if count > vocab or count == 0:
        raise UnsupportedModel(
            "the tokenizer does not fit the model",
            expected=f"1 to {vocab} tokens, the rows of the embedding",
            found=str(count),
            hint="Use the tokenizer that belongs to the model",
        )
    words = read_words(spec)
    model = read_vocabulary(spec["model"], tokenizer, bytes_=words.bytes)
    finish_scores(model, count)
    if model.kind is Kind.CHAR_BPE and not reaches_across(_SPACE, spec["model"]):
        cut_at_spaces(words, _SPACE)  # the same tokens in less time and memory: whole texts need not be one word
    pieces = read_pieces(model.kind, tokenizer, count)
    _check_ids(pieces, tokenizer, spec["model"], model.kind)
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}
    raw, normalized = _read_added(tokenizer)
    prefix, suffix = _read_extra_ids(tokenizer)
    alphabet = byte_alphabet()
    neighbours = any(token.flags for token in (*raw, *normalized))
    classes, form, normalizer, pre_tokenizer = words.tables(
        sorted(alphabet, key=alphabet.__getitem__), neighbours=neighbours
    )
    compiled = write_tokenizer(
        TokenizerTables(
            **vars(model),
            pieces=pieces,
            flags=[
                (TokenFlag.SPECIAL if tokenizer.id_to_token(token) in special else TokenFlag(0))
                | (TokenFlag.EOS if token in eos_ids else TokenFlag(0))
                for token in range(count)
            ],
            added_raw=raw,
            added_normalized=normalized,
            prefix=prefix,
            suffix=suffix,
            classes=classes,
            form=form,
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizer,
            decoder=read_decoder(spec.get("decoder"), bytes_=words.bytes),
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
