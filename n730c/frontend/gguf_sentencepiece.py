"""SentencePiece BPE from a GGUF file: pieces and their scores become the merges of a tokenizer.json.

SentencePiece joins, again and again, the two neighbours whose joint text is the piece of the highest score. The same
joins as a list of pairs, the highest score first, are what the tokenizers library takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_PIECE = 256  # characters; none that is in use comes near
_SPACE = "\u2581"


def merges(known: Mapping[str, int], scores: Sequence[float], joined: Sequence[str]) -> list[list[str]]:
    """All pairs of pieces that make one of ``joined``, in the order in which they are tried."""
    found = []
    for piece in joined:
        pairs = ((piece[:i], piece[i:]) for i in range(1, min(len(piece), MAX_PIECE)))
        here = [(left, right) for left, right in pairs if left in known and right in known]
        found += [(-scores[known[piece]], known[left], known[right], left, right) for left, right in here]
    return [[left, right] for _, _, _, left, right in sorted(found)]


def specification(
    vocab: Mapping[str, int], pairs: list[list[str]], unknown: str | None, prefix: bool
) -> dict[str, Any]:
    """What tokenizer.json says of cutting text and putting it together. ``prefix``: text gets a space in front."""
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    front = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*front, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            **{"type": "BPE", "unk_token": unknown, "fuse_unk": True, "byte_fallback": True, "dropout": None},
            **{"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False},
            **{"vocab": dict(vocab), "merges": pairs},
        },
    }
