"""How GGUF files name the way in which a byte-level BPE cuts text into words (``tokenizer.ggml.pre``).

A name stands for what the models' own tokenizer.json says; llama.cpp's expressions for the same are approximations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True)
class Words:
    """How words are cut. ``splits``: one after the other; none: by GPT-2's expression, which is ByteLevel's own."""

    splits: tuple[str, ...] = ()
    digits: bool = False  # each digit by itself
    nfc: bool = False  # text is normalized before
    ignore_merges: bool = False  # a word that is a token is that token
    bos: bool = False  # the first token is put in front where the file does not say otherwise

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        steps: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
            for split in self.splits
        ]
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not self.splits}
        return {"type": "Sequence", "pretokenizers": [*steps, bytes_]} if steps else bytes_


_llama3 = Words((_LLAMA3,))
WORDS: Mapping[str, Words] = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), replace(_llama3, ignore_merges=True, bos=True)),
    "dbrx": _llama3,  # and Phi-4
    "chatglm-bpe": _llama3,
    "glm4": replace(_llama3, ignore_merges=True),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), Words((_QWEN2,), nfc=True)),
    "qwen35": Words((_QWEN35,), nfc=True),
    **dict.fromkeys(("gpt-2", "phi-2"), Words()),
    **dict.fromkeys(("starcoder", "refact", "smollm"), Words(digits=True)),
    "command-r": Words(digits=True, nfc=True),
    **dict.fromkeys(("gpt-4o", "llama4"), Words((_GPT4O,))),
    "tekken": Words((_GPT4O.replace(f"{_CONTRACTIONS}?", "").replace("{1,3}", ""),), ignore_merges=True, bos=True),
    "deepseek-coder": Words(_DEEPSEEK_CODER, digits=True),
    "deepseek-v3": Words(_DEEPSEEK_V3),
}
