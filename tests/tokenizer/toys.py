"""Small tokenizers of the three kinds, trained here: GPT-2, Llama 3 and Qwen2."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from n730c.frontend.tokenizer import PATTERNS
from n730c.tokenizer_format import Pattern
from tests.tokenizer.texts import mixed_text, random_text

VOCAB = 3000
KINDS = ("gpt2", "llama3", "qwen2")


def _split(pattern: Pattern) -> pre_tokenizers.PreTokenizer:
    regex = next(text for text, number in PATTERNS.items() if number is pattern)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), behavior="isolated"), byte_level])


def _snippets(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for text in mixed_text(200_000, seed):
        yield from (text[i : i + 24] for i in range(0, len(text), 24))
    for _ in range(8000):
        yield random_text(rng, [])


def _thin_out(tokenizer: Tokenizer, rng: random.Random) -> Tokenizer:
    """Without a tenth of the merges: some tokens of the vocabulary cannot be reached by merging any more."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["merges"] = [merge for merge in spec["model"]["merges"] if rng.random() > 0.1]
    return Tokenizer.from_str(json.dumps(spec))


def make_tokenizer(kind: str) -> Tokenizer:
    """``gpt2``: added tokens with every rule. ``llama3``: ignore_merges and a BOS template. ``qwen2``: NFC."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    special = {
        "gpt2": ["<|endoftext|>"],
        "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", *(f"<|reserved_{i}|>" for i in range(20))],
        "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    }[kind]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 20,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Trained on text that is not cut into words: merges reach across every boundary of the pattern, so that a
    # boundary in the wrong place shows in the ids.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator(_snippets(len(kind)), trainer)
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = _split(Pattern.LLAMA3 if kind == "llama3" else Pattern.QWEN2)
    tokenizer = _thin_out(tokenizer, random.Random(1))
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
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
                ),
            ]
        )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    """A folder that holds the tokenizer as a model's would."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def added_texts(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]
