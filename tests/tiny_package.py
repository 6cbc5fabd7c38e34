"""Tiny random packages that are right, made from the artifacts alone: no model, no frontend, no planner.

A Llama-shaped program with every op that such a model lowers to (and a MUL and a SILU if asked), random weights, a
plan that shares no bytes. ``python -m tests.tiny_package OUT.n730 --format int4`` writes one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from n730c.artifacts import (
    NONE,
    PAGE,
    Action,
    Buffer,
    BufferKind,
    Cache,
    Entry,
    Event,
    Isa,
    KernelImage,
    KernelSpec,
    Maker,
    Placement,
    Plan,
    Program,
    Scope,
    Segment,
    Step,
    StepOp,
    Tensor,
    Tier,
    segment_layout,
)
from n730c.dtypes import GROUP, TILE_ROWS, Format, round_up
from n730c.package import write_package
from n730c.tokenizer_format import NO_ID, AddedToken, ByteBpe, Pattern, TokenFlag, UnicodeClasses, write_tokenizer


@dataclass(frozen=True)
class Shape:
    """What the toy model looks like. ``hidden`` and ``ffn`` may be anything; ``head_dim`` a multiple of 8."""

    format: Format = Format.INT4
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 96
    vocab: int = 300
    bias: bool = True  # of q, k, v
    tied: bool = False  # the head is the embedding
    split_silu: bool = False  # SILU and MUL instead of SILU_MUL
    images: tuple[Isa, ...] = ()  # of bytes that are no code: never to be trusted
    context: int = 64
    batch: int = 8
    head_batch: int = 2
    contexts: tuple[int, ...] = ()  # further, smaller plans
    seed: int = 0


@dataclass(frozen=True)
class Tiny:
    """All that ``write_package`` takes."""

    program: Program
    plans: tuple[Plan, ...]
    images: tuple[KernelImage, ...]
    tensors: tuple[bytes, ...]
    tokenizer: bytes
    chat: str = "{{ messages[0]['content'] }} — ünïcode"
    meta: dict[str, Any] = field(default_factory=lambda: {"model": "tiny", "compiler": {"name": "n730c"}})

    def write(self, path: Path | str) -> Path:
        write_package(
            path, self.program, self.plans, self.images, self.tensors.__getitem__, self.tokenizer, self.chat, self.meta
        )
        return Path(path)


class _Builder:
    """Grows a program step by step; ids are positions in the lists."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tensors: list[Tensor] = []
        self.segments: list[Segment] = []
        self.buffers: list[Buffer] = []
        self.caches: list[Cache] = []
        self.steps: list[Step] = []
        self.kernels: list[KernelSpec] = []
        self.scope = Scope.BODY
        self.layer = NONE

    def vector(self, name: str, length: int) -> int:
        self.tensors.append(Tensor(name, Format.F32, 1, length, is_vector=True))
        return len(self.tensors) - 1

    def matrix(self, name: str, rows: int, cols: int) -> int:
        self.tensors.append(Tensor(name, self.shape.format, rows, cols, is_vector=False))
        return len(self.tensors) - 1

    def end_segment(self) -> None:
        first = sum(segment.tensor_count for segment in self.segments)
        if first < len(self.tensors):
            size = segment_layout(self.tensors[first:])[1]
            self.segments.append(Segment(first, len(self.tensors) - first, size))

    def step(
        self, op: StepOp, inputs: Sequence[int], width: int, kind: BufferKind = BufferKind.F32, **more: Any
    ) -> int:
        out = NONE
        if width:
            self.buffers.append(Buffer(kind, self.scope, width))
            out = len(self.buffers) - 1
        self.steps.append(Step(op, tuple(inputs), out, layer=self.layer, **more))
        return out

    def norm(self, name: str, x: int) -> int:
        width = self.buffers[x].width
        return self.step(StepOp.RMS_NORM, (x,), width, weight=self.vector(name, width), floats=(2.0**-17,))

    def operand(self, x: int) -> int:
        """What a LINEAR reads: ``x``, or its quantized twin."""
        if not self.shape.format.is_integer:
            return x
        return self.step(StepOp.QUANTIZE, (x,), self.buffers[x].width, BufferKind.Q8)

    def linear(self, weight: int, operand: int, bias: int = NONE) -> int:
        t = self.tensors[weight]
        spec = KernelSpec(StepOp.LINEAR, t.format, t.rows, t.cols)
        if spec not in self.kernels:
            self.kernels.append(spec)
        kernel = self.kernels.index(spec)
        return self.step(StepOp.LINEAR, (operand,), t.rows, weight=weight, bias=bias, kernel=kernel)


def tiny_program(shape: Shape) -> Program:
    s = shape
    b = _Builder(s)
    embedding = b.matrix("embed_tokens.weight", s.vocab, s.hidden)
    x = b.step(StepOp.EMBED, (), s.hidden, weight=embedding)
    frequencies = b.vector("rope.inv_freq", s.head_dim // 2)
    table = b.step(StepOp.ROPE_TABLE, (), s.head_dim, weight=frequencies, floats=(1.0,))
    b.end_segment()
    for i in range(s.layers):
        b.layer = i
        normed = b.operand(b.norm(f"layers.{i}.input_norm.weight", x))
        heads = {}
        for name, count in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
            weight = b.matrix(f"layers.{i}.{name}_proj.weight", count * s.head_dim, s.hidden)
            bias = b.vector(f"layers.{i}.{name}_proj.bias", count * s.head_dim) if s.bias else NONE
            heads[name] = b.linear(weight, normed, bias)
            if name != "v":
                ints = (count, s.head_dim, s.head_dim)
                heads[name] = b.step(StepOp.ROPE, (heads[name], table), count * s.head_dim, ints=ints)
        b.caches.append(Cache(s.kv_heads, s.head_dim))
        b.step(StepOp.KV_STORE, (heads["k"], heads["v"]), 0, ints=(i,))
        mixed = b.step(StepOp.ATTENTION, (heads["q"],), s.heads * s.head_dim, ints=(i, s.heads), floats=(0.25,))
        weight = b.matrix(f"layers.{i}.o_proj.weight", s.hidden, s.heads * s.head_dim)
        x = b.step(StepOp.ADD, (x, b.linear(weight, b.operand(mixed))), s.hidden)
        normed = b.operand(b.norm(f"layers.{i}.post_norm.weight", x))
        gate = b.linear(b.matrix(f"layers.{i}.gate_proj.weight", s.ffn, s.hidden), normed)
        up = b.linear(b.matrix(f"layers.{i}.up_proj.weight", s.ffn, s.hidden), normed)
        if s.split_silu:
            gated = b.step(StepOp.MUL, (b.step(StepOp.SILU, (gate,), s.ffn), up), s.ffn)
        else:
            gated = b.step(StepOp.SILU_MUL, (gate, up), s.ffn)
        weight = b.matrix(f"layers.{i}.down_proj.weight", s.hidden, s.ffn)
        x = b.step(StepOp.ADD, (x, b.linear(weight, b.operand(gated))), s.hidden)
        b.end_segment()
    b.layer = NONE
    b.scope = Scope.HEAD
    head_first = len(b.steps)
    normed = b.operand(b.norm("norm.weight", x))
    b.linear(embedding if s.tied else b.matrix("lm_head.weight", s.vocab, s.hidden), normed)
    b.end_segment()
    return Program(
        tensors=tuple(b.tensors),
        segments=tuple(b.segments),
        buffers=tuple(b.buffers),
        caches=tuple(b.caches),
        steps=tuple(b.steps),
        kernels=tuple(b.kernels),
        head_first=head_first,
        vocab=s.vocab,
    )


def tiny_plan(program: Program, context: int, batch: int, head_batch: int, tokenizer_bytes: int) -> Plan:
    """Everything side by side: no buffer shares a byte with another."""
    end = 0

    def place(size: int, align: int) -> int:
        nonlocal end
        start = round_up(end, align)
        end = start + size
        return start

    placements = tuple(Placement(Tier.RAM, place(segment.size, PAGE)) for segment in program.segments)
    tokenizer = place(tokenizer_bytes, 64)
    caches = tuple(place(cache.size(context), 64) for cache in program.caches)
    buffers = tuple(
        place((batch if b.scope is Scope.BODY else head_batch) * b.token_bytes, 64) for b in program.buffers
    )
    loads = tuple(Event(Action.LOAD, i) for i in range(len(program.segments)))
    body = Event(Action.RUN, 0, program.head_first)
    head = Event(Action.RUN, program.head_first, len(program.steps) - program.head_first)
    return Plan(
        arena_bytes=round_up(end, PAGE),
        vram_bytes=0,
        context=context,
        batch=batch,
        head_batch=head_batch,
        placements=placements,
        buffer_offsets=buffers,
        cache_offsets=caches,
        tokenizer_offset=tokenizer,
        schedule=(*loads, body, head),
        disk_bytes_per_token=0,
        decode_tokens_per_s=10.5,
        prefill_tokens_per_s=100.25,
        first_token_s=0.5,
    )


def random_tensor(tensor: Tensor, rng: np.random.Generator) -> bytes:
    """Bytes of the tensor's format, values within about ±1; norms and frequencies are positive."""
    if tensor.is_vector:
        return rng.uniform(0.01, 1.0, tensor.cols).astype(">f4").tobytes()
    tiles = round_up(tensor.rows, TILE_ROWS) // TILE_ROWS
    real = np.arange(tiles * TILE_ROWS).reshape(tiles, 1, TILE_ROWS) < tensor.rows  # rows that are not padding
    if not tensor.format.is_integer:
        values = rng.normal(0, 0.1, (tiles, tensor.cols, TILE_ROWS)).astype(np.float32) * real
        if tensor.format is Format.F16:
            return values.astype(">f2").tobytes()
        return (values.view(np.uint32) >> 16).astype(">u2").tobytes()
    groups = round_up(tensor.cols, GROUP) // GROUP
    scales = (rng.uniform(0.05, 0.1, (tiles, groups, TILE_ROWS)) / (1 << (tensor.format.bits - 1)) * real).astype(">f2")
    fields = rng.integers(0, 256, (tiles, groups, tensor.format.block_bytes - 2 * TILE_ROWS), dtype=np.uint8)
    if tensor.format is Format.INT8:
        fields[fields == 0x80] = 0  # -128 is no INT8 of ours
    blocks = np.concatenate([scales.view(np.uint8).reshape(tiles, groups, 2 * TILE_ROWS), fields], axis=2)
    return blocks.tobytes()


def tiny_tokenizer(vocab: int) -> bytes:
    """Byte-level BPE over the 256 bytes with two merges and an end-of-text token, as far as ``vocab`` reaches."""
    pieces = [*(bytes([b]) for b in range(256)), b"th", b"the", b"<|end|>"][:vocab]
    tokens = len(pieces)
    merges = [(ord("t"), ord("h"), 256), (256, ord("e"), 257)] if tokens > 257 else []
    added = [AddedToken(b"<|end|>", 258)] if tokens > 258 else []
    return write_tokenizer(
        ByteBpe(
            pieces=pieces,
            flags=[TokenFlag.SPECIAL | TokenFlag.EOS if i == 258 else TokenFlag(0) for i in range(tokens)],
            byte_ids=[b if b < tokens else NO_ID for b in range(256)],
            merges=merges,
            words=[257] if merges else [],
            added_raw=added,
            added_normalized=[],
            prefix=[],
            suffix=[],
            pattern=Pattern.GPT2,
            prefix_space=False,
            classes=UnicodeClasses(np.zeros(4352, np.uint16), np.zeros((1, 256), np.uint8)),
            nfc=None,
        )
    )


def tiny(shape: Shape | None = None, **changes: Any) -> Tiny:
    """A whole toy; ``changes`` are fields of Shape."""
    shape = replace(shape or Shape(), **changes)
    program = tiny_program(shape)
    rng = np.random.default_rng(shape.seed)
    tokenizer = tiny_tokenizer(shape.vocab)
    images = tuple(
        KernelImage(
            isa,
            rng.bytes(100 + 64 * len(program.kernels)),
            tuple(Entry(64 * i, Maker.TEMPLATE) if i % 3 else Entry() for i in range(len(program.kernels))),
        )
        for isa in shape.images
    )
    return Tiny(
        program=program,
        plans=tuple(
            tiny_plan(program, context, shape.batch, shape.head_batch, len(tokenizer))
            for context in (shape.context, *shape.contexts)
        ),
        images=images,
        tensors=tuple(random_tensor(tensor, rng) for tensor in program.tensors),
        tokenizer=tokenizer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--format", choices=[f.name.lower() for f in Format if f is not Format.F32], default="int4")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    out = given.pop("out")
    given["format"] = Format[given["format"].upper()]
    tiny(**given).write(out)


if __name__ == "__main__":
    main()
