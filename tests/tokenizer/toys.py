"""Small tokenizers of every kind, trained here, with the patterns, normalizers and decoders that real models have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.tokenizer.texts import mixed_text, random_text

VOCAB = 3000
BASE = VOCAB - 60  # what is trained; added tokens take some of the rest
SPACE = "\u2581"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama3": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "gpt4": [
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    "gpt4o": [GPT4O],
    "tekken": [GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")],
    "deepseek": [
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"],
    "bloom": [" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"],
    "qwen3.5": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
}
BYTE_KINDS = ("gpt2", *PATTERNS, "starcoder", "falcon")
CHAR_KINDS = ("llama2", "mistral", "gemma", "chars")
PIECE_KINDS = ("t5", "unigram", "bert", "bert-cased")
KINDS = (*BYTE_KINDS, *CHAR_KINDS, *PIECE_KINDS)


def _snippets(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for text in mixed_text(200_000, seed):
        yield from (text[i : i + 24] for i in range(0, len(text), 24))
    for _ in range(8000):
        yield random_text(rng, [])


def _spaced(seed: int) -> Iterator[str]:
    """Text for models whose pieces begin with a space."""
    return (text.replace(" ", SPACE) for text in _snippets(seed))


@cache
def _trained(model: str) -> dict[str, Any]:
    """The ``model`` of a tokenizer.json, trained once for all kinds that share it.

    Trained on text that is not cut into words: tokens reach across every boundary, so that a boundary in the wrong
    place shows in the ids.
    """
    if model == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        bytes_ = trainers.BpeTrainer(vocab_size=BASE, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(_snippets(4), bytes_)
    elif model == "chars":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        chars = trainers.BpeTrainer(
            vocab_size=BASE - 256,
            special_tokens=["<unk>", "<s>", "</s>"],
            limit_alphabet=600,
            initial_alphabet=[SPACE],
            show_progress=False,
        )
        tokenizer.train_from_iterator(_spaced(5), chars)
    elif model == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        special = ["<unk>", "<s>", "</s>"]
        unigram = trainers.UnigramTrainer(
            vocab_size=900, special_tokens=special, unk_token="<unk>", max_piece_length=12, show_progress=False
        )
        few = (
            "".join(c for c in text if c < "\u0250") for text in islice(_snippets(6), 3000)
        )  # it keeps each character
        tokenizer.train_from_iterator(few, unigram)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = trainers.WordPieceTrainer(
            vocab_size=BASE, special_tokens=special, limit_alphabet=800, show_progress=False
        )
        tokenizer.train_from_iterator(_snippets(7), pieces)
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found


def _with(model: dict[str, Any], **options: Any) -> Tokenizer:
    spec = {"version": "1.0", "added_tokens": [], "model": {**model, **options}}
    return Tokenizer.from_str(json.dumps(spec))


def _thinned_out(merges: list[Any], rng: random.Random) -> list[Any]:
    """Without a tenth of the merges: some tokens of the vocabulary cannot be reached by merging any more."""
    return [merge for merge in merges if rng.random() > 0.1]


def _bos(tokenizer: Tokenizer, bos: str) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def _byte_kind(kind: str) -> Tokenizer:
    """``gpt2``: added tokens with every rule. ``llama3``: ignore_merges and a BOS template. ``qwen2``: NFC."""
    model = _trained("bytes")
    merges = _thinned_out(model["merges"], random.Random(1))
    tokenizer = _with(model, merges=merges, ignore_merges=kind in ("llama3", "gpt4o"))
    tokenizer.decoder = decoders.ByteLevel()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=kind == "starcoder")
    if kind == "gpt2":
        tokenizer.pre_tokenizer = gpt2
    elif kind == "starcoder":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    elif kind == "falcon":
        three = pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")
        digits = pre_tokenizers.Digits(individual_digits=False)
        steps = [pre_tokenizers.Punctuation("contiguous"), gpt2, digits, three]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    else:
        splits = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in PATTERNS[kind]]
        digits = [pre_tokenizers.Digits(individual_digits=True)] if kind == "deepseek-coder" else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, *digits, byte_level])
    if kind in ("qwen2", "qwen3.5"):
        tokenizer.normalizer = normalizers.NFC()
    special = {
        "gpt2": ["<|endoftext|>"],
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", *(f"<|reserved_{i}|>" for i in range(20))],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }.get(kind, ["<|endoftext|>"])
    tokenizer.add_special_tokens(special)
    if kind == "gpt2":
        tokenizer.add_tokens(
            [
                AddedToken("<mask>", lstrip=True, normalized=False),
                AddedToken("<sep>", rstrip=True),
                AddedToken("<both>", lstrip=True, rstrip=True),
                AddedToken("word", single_word=True),
                AddedToken("wordy"),
                AddedToken("\u00e9t\u00e9", single_word=True, lstrip=True, normalized=False),
                AddedToken("  ", normalized=True),
                AddedToken("<ma"),
            ]
        )
    if kind == "qwen2":
        tokenizer.add_tokens(
            ["<tool>", AddedToken("e\u0301t", normalized=True), AddedToken("a\u0308", normalized=False), "\u212b\u0301"]
        )
    if kind == "llama3":
        steps = [processors.ByteLevel(trim_offsets=False), _bos(tokenizer, "<|begin_of_text|>")]
        tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer


def _with_bytes(model: dict[str, Any], lost: tuple[int, ...] = ()) -> dict[str, Any]:
    """The vocabulary with a token for each byte behind the others; ``lost``: bytes without one."""
    names = [f"<0x{byte:02X}>" for byte in range(256) if byte not in lost]
    if isinstance(model["vocab"], list):
        return {**model, "vocab": [*model["vocab"], *([name, -20.0] for name in names)], "byte_fallback": True}
    count = len(model["vocab"])
    vocab = {**model["vocab"], **{name: count + i for i, name in enumerate(names)}}
    return {**model, "vocab": vocab, "byte_fallback": True}


def _char_kind(kind: str) -> Tokenizer:
    """SentencePiece's BPE as Llama 2, Mistral and Gemma have it; ``chars``: without bytes, tokens across spaces."""
    model = _trained("chars")
    replace, fallback = decoders.Replace(SPACE, " "), decoders.ByteFallback()
    strip = decoders.Strip(" ", 1, 0)
    if kind == "llama2":
        within = [m for m in model["merges"] if m[0][-1] == SPACE or m[1][0] != SPACE]
        tokenizer = _with(_with_bytes(model), merges=within, fuse_unk=True)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        tokenizer.decoder = decoders.Sequence([replace, fallback, decoders.Fuse(), strip])
    elif kind == "mistral":
        tokenizer = _with(_with_bytes(model, lost=(0xE2,)), fuse_unk=True, ignore_merges=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([replace, fallback, decoders.Fuse(), strip])
    elif kind == "gemma":
        within = [m for m in model["merges"] if m[0][-1] == SPACE or m[1][0] != SPACE]
        tokenizer = _with(_with_bytes(model), merges=within, fuse_unk=True)
        tokenizer.normalizer = normalizers.Replace(" ", SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([replace, fallback, decoders.Fuse()])
    else:
        tokenizer = _with(model, fuse_unk=False)
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
        tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("two words", normalized=True)])
    tokenizer.post_processor = _bos(tokenizer, "<s>")
    return tokenizer


def _piece_kind(kind: str) -> Tokenizer:
    """Unigram as T5 has it, or with all sorts of normalizers and bytes; WordPiece as BERT has it."""
    if kind in ("t5", "unigram"):
        model = _trained("unigram")
        tokenizer = _with(model if kind == "t5" else _with_bytes(model))
        if kind == "t5":
            spaces = normalizers.Replace(Regex(" {2,}"), SPACE)
            tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(left=False, right=True), spaces])
        else:
            steps = [normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
            tokenizer.normalizer = normalizers.Sequence(steps)
        scheme = "always" if kind == "t5" else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme)
        space = decoders.Metaspace(SPACE, prepend_scheme=scheme)
        bytes_ = [decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = space if kind == "t5" else decoders.Sequence([space, *bytes_])
        tokenizer.add_special_tokens([AddedToken("</s>", special=True, normalized=False, rstrip=True)])
        tokenizer.add_tokens([AddedToken("<extra id>", lstrip=True)])
        return tokenizer
    tokenizer = _with(_trained("pieces"), max_input_chars_per_word=30)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=kind == "bert")
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=kind == "bert")
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def make_tokenizer(kind: str) -> Tokenizer:
    make: Callable[[str], Tokenizer]
    make = _byte_kind if kind in BYTE_KINDS else _char_kind if kind in CHAR_KINDS else _piece_kind
    return make(kind)


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    """A folder that holds the tokenizer as a model's would."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def added_texts(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def end_of_text(tokenizer: Tokenizer) -> int:
    """The first special token."""
    return min(token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special)
