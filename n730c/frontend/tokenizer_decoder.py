"""The decoder of a Hugging Face tokenizer as the steps of a package's program."""

from __future__ import annotations

from typing import Any

from n730c.frontend.tokenizer_steps import flatten, refuse
from n730c.tokenizer_format import MAX_STEPS, MAX_TEXT_BYTES, Op, Step

Json = dict[str, Any]

# What WordPiece's decoder does to each token where it is asked to clean up.
_CLEAN_UP = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
_EXPECTED = "ByteLevel, Replace, Metaspace, WordPiece, ByteFallback, Fuse, Strip behind Fuse, in this order"


def _substitute(what: str, by: str) -> Step:
    if not 0 < len(what.encode()) <= MAX_TEXT_BYTES or len(by.encode()) > MAX_TEXT_BYTES:
        raise refuse("decoder", f"texts of 1 to {MAX_TEXT_BYTES} bytes", f"{what} by {by}")
    return Step(Op.SUBSTITUTE, text=what.encode(), by=by.encode())


def _token_step(spec: Json) -> list[Step] | None:
    """What a component does to each token by itself; None: it is of another kind."""
    kind = spec["type"]
    if kind == "Replace" and "String" in spec["pattern"]:
        return [_substitute(spec["pattern"]["String"], spec["content"])]
    if kind == "Metaspace":
        space = spec["replacement"]
        drop = [] if spec["prepend_scheme"] == "never" else [Step(Op.DROP_FIRST, text=space.encode())]
        return [*drop, _substitute(space, " ")]
    if kind == "WordPiece":
        clean_up = [_substitute(*pair) for pair in _CLEAN_UP] if spec["cleanup"] else []
        join = [Step(Op.JOIN, text=spec["prefix"].encode())] if spec["prefix"] else []
        return [*join, *clean_up]
    return None


def read_decoder(spec: Json | None, *, bytes_: bool) -> list[Step]:
    """The steps; ``bytes_``: tokens are bytes already, as ByteLevel makes them. Raises UnsupportedModel."""
    parts = flatten(spec, "decoders")
    kinds = [part["type"] for part in parts]
    if bytes_ or "ByteLevel" in kinds:
        if kinds != ["ByteLevel"] or not bytes_:
            raise refuse("decoder", "ByteLevel with the pre-tokenizer ByteLevel, and with nothing else", spec)
        return []
    if not parts:
        return [Step(Op.JOIN)]
    steps: list[Step] = []
    while parts and (found := _token_step(parts[0])) is not None:
        steps += found
        parts.pop(0)
    if parts and parts[0]["type"] == "ByteFallback":
        steps.append(Step(Op.BYTES))
        parts.pop(0)
    fused = False
    while parts and parts[0]["type"] == "Fuse":
        fused = True
        parts.pop(0)
    if fused and parts and parts[0]["type"] == "Strip" and parts[0]["stop"] == 0 and parts[0]["start"] <= 255:
        if parts[0]["start"]:
            steps.append(Step(Op.TRIM, parts[0]["start"], text=parts[0]["content"].encode()))
        parts.pop(0)
    while parts and parts[0]["type"] == "Fuse":
        parts.pop(0)
    if parts:
        raise refuse("decoder", _EXPECTED, parts[0])
    if len(steps) > MAX_STEPS:
        raise refuse("decoder", f"at most {MAX_STEPS} steps", str(len(steps)))
    return steps
