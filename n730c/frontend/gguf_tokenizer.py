"""From a GGUF file's metadata to the files of a Hugging Face folder that say how text becomes tokens.

What comes out is what the model's own folder holds (tokenizer.json and kin), so that one road leads from there to the
package, and the ``tokenizers`` library can be asked what it means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from n730c.errors import UnsupportedModel
from n730c.frontend.gguf_file import GgufFile
from n730c.frontend.gguf_patterns import WORDS
from n730c.frontend.gguf_sentencepiece import merges, specification

_KEY = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)  # token_type
# Ends of a turn in files that name only the end of a text; llama.cpp stops at these too.
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>")


def write_text_files(file: GgufFile, settings: dict[str, Any], folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer.json, tokenizer_config.json and, if there is one, the chat
    template to ``folder``. ``settings``: the configuration. Raises UnsupportedModel."""
    tokenizer = _tokenizer(file, int(settings["vocab_size"]))
    tokens = file.metadata[f"{_KEY}tokens"]
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    for role in ("bos", "eos"):
        token = settings.get(f"{role}_token_id")
        if token is not None:
            config[f"{role}_token"] = tokens[_token_id(file, f"{role}_token_id", token, len(tokens))]
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise _odd(file, "tokenizer.chat_template", "a text", template)
    texts = {
        "config.json": json.dumps(settings),
        "generation_config.json": json.dumps({"eos_token_id": end_ids(file)}),
        "tokenizer.json": json.dumps(tokenizer),
        "tokenizer_config.json": json.dumps(config),
    }
    if template:
        texts["chat_template.jinja"] = template
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode("utf-8"))


def end_ids(file: GgufFile) -> list[int]:
    """Ids of the tokens that end a text or a turn. Raises UnsupportedModel."""
    tokens = _list(file, "tokens", str)
    ids = [(key, file.metadata.get(_KEY + key)) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    named = [_token_id(file, key, token, len(tokens)) for key, token in ids if token is not None]
    control = [i for i, kind in enumerate(_types(file, len(tokens))) if kind == _CONTROL]
    return list(dict.fromkeys((*named, *(i for i in control if tokens[i] in _ENDS))))


def _types(file: GgufFile, count: int) -> list[int]:
    there = f"{_KEY}token_type" in file.metadata
    return _list(file, "token_type", int, count) if there else [_NORMAL] * count


def _odd(file: GgufFile, key: str, expected: str, found: object) -> UnsupportedModel:
    shown = "nothing" if found is None else ascii(found)
    return UnsupportedModel(f"{file.path}: {key}", expected=expected, found=shown[:80], hint="Convert the model again.")


def _token_id(file: GgufFile, key: str, token: object, count: int) -> int:
    if type(token) is not int or not 0 <= token < count:
        raise _odd(file, _KEY + key, f"a token, 0 ... {count - 1}", token)
    return token


def _list(file: GgufFile, key: str, item: type, length: int | None = None) -> list[Any]:
    values = file.metadata.get(_KEY + key)
    sound = isinstance(values, list) and all(type(v) is item for v in values)
    if not sound or not isinstance(values, list) or (length is not None and len(values) != length):
        what = f"{'' if length is None else f'{length} '}values of {item.__name__}"
        raise _odd(file, _KEY + key, what, None if values is None else f"{type(values).__name__}")
    return values


def _tokenizer(file: GgufFile, vocab: int) -> dict[str, Any]:
    """tokenizer.json"""
    model = file.metadata.get(f"{_KEY}model")
    if model not in ("gpt2", "llama"):
        raise UnsupportedModel(
            f"{file.path}: tokenizer {model!a}",
            expected="gpt2 (byte-level BPE) or llama (SentencePiece BPE)",
            found="another kind",
            hint="Take the model's Hugging Face folder instead.",
        )
    tokens = _list(file, "tokens", str)
    if not 1 <= len(tokens) <= vocab:
        raise _odd(file, f"{_KEY}tokens", f"1 to {vocab} tokens, the rows of the embedding", f"{len(tokens)}")
    types = _types(file, len(tokens))
    known = {text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED}
    if len(known) != sum(kind != _UNUSED for kind in types):
        raise _odd(file, f"{_KEY}tokens", "no two tokens of one text", "some")
    common = {
        "version": "1.0",
        "added_tokens": [
            {
                **{"id": i, "content": text, "special": types[i] == _CONTROL},
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
            for text, i in known.items()
            if types[i] in (_CONTROL, _USER)
        ],
    }
    if model == "llama":
        scores = _list(file, "scores", float, len(tokens))
        pairs = merges(known, scores, [text for text, i in known.items() if types[i] == _NORMAL])
        unknown = next((tokens[i] for i, kind in enumerate(types) if kind == _UNKNOWN), None)
        prefix = file.metadata.get(f"{_KEY}add_space_prefix", True) is not False
        processor = _post_processor(file, tokens, True)
        return {**common, **specification(known, pairs, unknown, prefix), "post_processor": processor}
    given = [merge.split(" ") for merge in _list(file, "merges", str)]
    for merge in given:
        if len(merge) != 2 or merge[0] not in known or merge[1] not in known or "".join(merge) not in known:
            raise _odd(file, f"{_KEY}merges", "pairs of tokens that make a token", " ".join(merge))
    pre = file.metadata.get(f"{_KEY}pre")
    if not isinstance(pre, str) or pre not in WORDS:
        raise UnsupportedModel(
            f"{file.path}: the tokenizer's pattern (tokenizer.ggml.pre)",
            expected=f"one of {', '.join(WORDS)}",
            found=ascii(pre) if pre is not None else "none",
            hint="Take the model's Hugging Face folder instead.",
        )
    words = WORDS[pre]
    return {
        **common,
        "normalizer": {"type": "NFC"} if words.nfc else None,
        "pre_tokenizer": words.pre_tokenizer,
        "post_processor": _post_processor(file, tokens, words.bos),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": words.ignore_merges, "vocab": known, "merges": given},
    }


def _post_processor(file: GgufFile, tokens: list[str], bos_by_default: bool) -> dict[str, Any] | None:
    """What is put in front of and behind a text."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special = {}
    for role, default in (("bos", bos_by_default), ("eos", False)):
        wanted, token = file.metadata.get(f"{_KEY}add_{role}_token", default), f"{role}_token_id"
        if not wanted or _KEY + token not in file.metadata:
            continue
        text = tokens[_token_id(file, token, file.metadata[_KEY + token], len(tokens))]
        special[text] = {"id": text, "ids": [tokens.index(text)], "tokens": [text]}
        single.insert(0 if role == "bos" else len(single), {"SpecialToken": {"id": text, "type_id": 0}})
    if not special:
        return None
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
