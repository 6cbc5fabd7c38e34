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
    PIECE,
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
    UnaryFunction,
    segment_layout,
)
from n730c.chat_format import INTEGER_BIAS, ChatProgram, Op, write_chat
from n730c.dtypes import GROUP, TILE_ROWS, Format, round_up
from n730c.package import write_package
from n730c.package.check_steps import FORMS
from n730c.passes.card_memory import rounds_of, vram_bytes
from n730c.quant import encode
from n730c.tokenizer_format import NO_ID, AddedToken, Kind, TokenFlag, TokenizerTables, write_tokenizer

# What `{{ messages[0]['content'] }} — ünïcode` becomes.
TINY_CHAT = write_chat(
    ChatProgram(
        [
            (Op.LINE, 1),
            (Op.LOAD, 0),
            (Op.INTEGER, INTEGER_BIAS),
            (Op.ITEM, 0),
            (Op.STRING, 1),
            (Op.ITEM, 0),
            (Op.PRINT, 0),
            (Op.TEXT, 2),
            (Op.END, 0),
        ],
        ["messages", "content", " — ünïcode"],
        [],
    )
)


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
    other_ops: bool = False  # learned positions, LAYER_NORM with a bias, UNARY
    images: tuple[Isa, ...] = ()  # of bytes that are no code: never to be trusted
    context: int = 64
    batch: int = 8
    head_batch: int = 2
    contexts: tuple[int, ...] = ()  # further, smaller plans
    window: int = 0  # of all attentions; 0: none
    card: int = 0  # tiles that a graphics card has of each matrix at most; -1: it has the whole program
    crossing: int = 0  # further tiles, which are brought to it for batches of ``card_batch`` tokens
    card_batch: int = 5
    vram: bool = False  # segments of which the card computes everything are nowhere else
    slots: int = 0  # places in the ring that layers are streamed through (with ``vram`` half of them); 0: all in RAM
    rows: bool = False  # the embedding is read by rows
    experts: int = 0  # instead of one gate_proj, up_proj and down_proj
    top_k: int = 2
    places: int = 0  # for experts that are read when they are chosen; 0: all in RAM
    wide: bool = False  # Q16 for what integer matrices read
    blocks: bool = False  # many small segments, and matrices of more than 16 rows cut into blocks of 16 and the rest
    seed: int = 0


@dataclass(frozen=True)
class Tiny:
    """All that ``write_package`` takes."""

    program: Program
    plans: tuple[Plan, ...]
    images: tuple[KernelImage, ...]
    tensors: tuple[bytes, ...]
    tokenizer: bytes
    chat: bytes = TINY_CHAT
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
        for numbers, count, zero in (("ints", FORMS[op].ints, 0), ("floats", FORMS[op].floats, 0.0)):
            given = tuple(more.get(numbers, ()))
            more[numbers] = given + (zero,) * (count - len(given))  # as a reader finds them
        self.steps.append(Step(op, tuple(inputs), out, layer=self.layer, **more))
        return out

    def norm(self, name: str, x: int) -> int:
        width = self.buffers[x].width
        return self.step(StepOp.RMS_NORM, (x,), width, weight=self.vector(name, width), floats=(2.0**-17,))

    def operand(self, x: int) -> int:
        """What a LINEAR reads: ``x``, or its quantized twin."""
        if not self.shape.format.is_integer:
            return x
        kind = BufferKind.Q16 if self.shape.wide else BufferKind.Q8
        return self.step(StepOp.QUANTIZE, (x,), self.buffers[x].width, kind)

    def linear(self, weight: int, operand: int, bias: int = NONE) -> int:
        return self.block(self.tensors[weight].rows, weight, operand, bias, 0)

    def block(self, width: int, weight: int, operand: int, bias: int, first: int) -> int:
        """Rows ``first`` … of an output of ``width``; the first block makes the buffer."""
        t = self.tensors[weight]
        spec = KernelSpec(StepOp.LINEAR, t.format, t.rows, t.cols)
        if spec not in self.kernels:
            self.kernels.append(spec)
        more = {"weight": weight, "bias": bias, "kernel": self.kernels.index(spec)}
        if first == 0:
            return self.step(StepOp.LINEAR, (operand,), width, ints=(0,), **more)
        out = self.steps[-1].out
        self.steps.append(Step(StepOp.LINEAR, (operand,), out, layer=self.layer, ints=(first,), **more))
        return out

    def project(self, name: str, rows: int, operand: int, bias: bool = False) -> int:
        """A matrix of the layer and its product with ``operand``, in blocks if so asked."""
        cols = self.buffers[operand].width
        out = NONE
        for first in range(0, rows, TILE_ROWS if self.shape.blocks else rows):
            part = min(TILE_ROWS, rows - first) if self.shape.blocks else rows
            tag = f"[{first}:{first + part}]" if part < rows else ""
            weight = self.matrix(f"{name}.weight{tag}", part, cols)
            vector = self.vector(f"{name}.bias{tag}", part) if bias else NONE
            out = self.block(rows, weight, operand, vector, first)
            if self.shape.blocks:
                self.end_segment()
        return out


def experts(b: _Builder, layer: int, x: int) -> int:
    """A router, a group of steps for each expert, and a shared one behind a gate of one number."""
    s = b.shape
    normed = b.operand(x)
    logits = b.project(f"layers.{layer}.router", s.experts, normed)
    gates = b.step(StepOp.ROUTE, (logits,), s.experts, ints=(s.top_k, layer % 2))
    total = b.step(StepOp.ZERO, (), s.hidden)
    b.end_segment()
    kind = b.buffers[normed].kind
    for expert in range(s.experts):
        at = len(b.steps)
        chosen = b.step(StepOp.EXPERT, (normed, gates), s.hidden, kind)
        name = f"experts.{layer}.{expert}"
        gated = b.step(StepOp.SILU_MUL, [b.project(f"{name}.{part}", s.ffn, chosen) for part in ("gate", "up")], s.ffn)
        result = b.project(f"{name}.down", s.hidden, b.operand(gated))
        b.steps.append(Step(StepOp.COMBINE, (result, gates), total, layer=layer, ints=(expert,)))
        b.steps[at] = replace(b.steps[at], ints=(expert, len(b.steps) - at - 1))
        b.end_segment()
    gate = b.project(f"layers.{layer}.shared_gate", 1, normed)
    shared = b.project(f"layers.{layer}.shared", s.hidden, normed)
    return b.step(StepOp.ADD, (total, b.step(StepOp.GATE, (shared, gate), s.hidden)), s.hidden)


def tiny_program(shape: Shape) -> Program:
    s = shape
    b = _Builder(s)
    embedding = b.matrix("embed_tokens.weight", s.vocab, s.hidden)
    x = b.step(StepOp.EMBED, (), s.hidden, weight=embedding)
    if s.rows or s.slots:
        b.end_segment()
    if s.other_ops:
        learned = b.matrix("positions.weight", s.context, s.hidden)
        x = b.step(StepOp.ADD, (x, b.step(StepOp.EMBED, (), s.hidden, weight=learned, ints=(1,))), s.hidden)
    frequencies = b.vector("rope.inv_freq", s.head_dim // 2)
    table = b.step(StepOp.ROPE_TABLE, (), s.head_dim, weight=frequencies, floats=(1.0,))
    b.end_segment()
    for i in range(s.layers):
        b.layer = i
        normed = b.operand(b.norm(f"layers.{i}.input_norm.weight", x))
        heads = {}
        for name, count in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
            heads[name] = b.project(f"layers.{i}.{name}_proj", count * s.head_dim, normed, s.bias)
            if name != "v":
                ints = (count, s.head_dim, s.head_dim)
                heads[name] = b.step(StepOp.ROPE, (heads[name], table), count * s.head_dim, ints=ints)
        b.caches.append(Cache(s.kv_heads, s.head_dim, s.window))
        b.step(StepOp.KV_STORE, (heads["k"], heads["v"]), 0, ints=(i,))
        mixed = b.step(StepOp.ATTENTION, (heads["q"],), s.heads * s.head_dim, ints=(i, s.heads), floats=(0.25,))
        x = b.step(StepOp.ADD, (x, b.project(f"layers.{i}.o_proj", s.hidden, b.operand(mixed))), s.hidden)
        if s.experts:
            x = b.step(StepOp.ADD, (x, experts(b, i, b.norm(f"layers.{i}.post_norm.weight", x))), s.hidden)
            b.end_segment()
            continue
        normed = b.operand(b.norm(f"layers.{i}.post_norm.weight", x))
        gate = b.project(f"layers.{i}.gate_proj", s.ffn, normed)
        up = b.project(f"layers.{i}.up_proj", s.ffn, normed)
        if s.split_silu:
            gated = b.step(StepOp.MUL, (b.step(StepOp.SILU, (gate,), s.ffn), up), s.ffn)
        else:
            gated = b.step(StepOp.SILU_MUL, (gate, up), s.ffn)
        if s.other_ops:
            more = {"weight": b.vector(f"layers.{i}.ln.weight", s.ffn), "bias": b.vector(f"layers.{i}.ln.bias", s.ffn)}
            gated = b.step(StepOp.LAYER_NORM, (gated,), s.ffn, floats=(2.0**-17,), **more)
            gated = b.step(StepOp.UNARY, (gated,), s.ffn, ints=(UnaryFunction.GELU,), floats=(0.0,))
        x = b.step(StepOp.ADD, (x, b.project(f"layers.{i}.down_proj", s.hidden, b.operand(gated))), s.hidden)
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


def tiny_plan(program: Program, context: int, shape: Shape, tokenizer_bytes: int) -> Plan:
    """Everything side by side: no buffer shares a byte with another, but layers a ring if they are streamed."""
    end = 0
    batch, head_batch = shape.batch, shape.head_batch

    def place(size: int, align: int) -> int:
        nonlocal end
        start = round_up(end, align)
        end = start + size
        return start

    def of_layers(segment: Segment) -> bool:
        tensors = program.tensors[segment.first_tensor : segment.first_tensor + segment.tensor_count]
        return all(t.name.startswith("layers.") for t in tensors)

    def of_expert(segment: Segment) -> bool:
        return program.tensors[segment.first_tensor].name.startswith("experts.")

    streamed = [
        i
        for i, segment in enumerate(program.segments)
        if shape.slots and of_layers(segment) and not (shape.vram and i % 2)
    ]
    slot = max((program.segments[i].size for i in streamed), default=0)
    ring = place(shape.slots * slot, PAGE)
    cached = [i for i, s in enumerate(program.segments) if shape.places and of_expert(s)]
    places = place(shape.places * max((program.segments[i].size for i in cached), default=0), PAGE) if cached else 0
    segment_of = {
        t: i for i, s in enumerate(program.segments) for t in range(s.first_tensor, s.first_tensor + s.tensor_count)
    }
    taken, crossing = {}, {}
    for i in (i for steps in rounds_of(program) for i in steps if shape.card > 0 or shape.crossing):
        step = program.steps[i]
        if not {segment_of[t] for t in (step.weight, step.bias) if t != NONE} & set(streamed):
            tiles = -(-program.tensors[step.weight].rows // TILE_ROWS)
            taken[i] = min(shape.card, tiles)
            if i < program.head_first and min(shape.crossing, tiles - taken[i]):
                crossing[i] = min(shape.crossing, tiles - taken[i])
    taken = {i: tiles for i, tiles in taken.items() if tiles or i in crossing}
    others = {
        segment_of[t]
        for i, step in enumerate(program.steps)
        for t in (step.weight, step.bias)
        if t != NONE and taken.get(i) != -(-program.tensors[step.weight].rows // TILE_ROWS)
    }
    placements = []
    for i, segment in enumerate(program.segments):
        if shape.vram and i not in others:
            placements.append(Placement(Tier.VRAM, 0))
        elif i in streamed:
            placements.append(Placement(Tier.STREAM, ring + streamed.index(i) % shape.slots * slot))
        elif i == 0 and shape.rows:
            placements.append(Placement(Tier.ROWS, place(2 * PIECE, PAGE)))
        elif i in cached:
            placements.append(Placement(Tier.EXPERT, 0))
        else:
            placements.append(Placement(Tier.RAM, place(segment.size, PAGE)))
    tokenizer = place(tokenizer_bytes, 64)
    caches = tuple(place(cache.size(context, batch), 64) for cache in program.caches)
    buffers = tuple(
        place((batch if b.scope is Scope.BODY else head_batch) * b.token_bytes, 64) for b in program.buffers
    )
    loads = [Event(Action.LOAD, i) for i, p in enumerate(placements) if p.tier is Tier.RAM]
    reads = []
    for n, i in enumerate(streamed):
        lead = 1
        while lead < min(shape.slots, len(streamed)) and all(
            placements[streamed[n - back]].offset != placements[i].offset for back in range(1, lead + 1)
        ):
            lead += 1
        reads.append(Event(Action.READ, i, lead))
    runs: list[Event] = []
    waited: set[int] = set()
    start = 0
    for i, step in enumerate((*program.steps, None)):
        new = [] if step is None else sorted({segment_of[t] for t in (step.weight, step.bias) if t != NONE} - waited)
        new = [segment for segment in new if segment in streamed]
        if i > start and (new or i in (program.head_first, len(program.steps))):
            runs.append(Event(Action.RUN, start, i - start))
            start = i
        runs += [Event(Action.WAIT, segment) for segment in new]
        waited.update(new)
    arena = round_up(end, PAGE)
    cards = [Event(Action.CARD, i, tiles, crossing.get(i, 0)) for i, tiles in sorted(taken.items())]
    return Plan(
        arena_bytes=arena,
        vram_bytes=arena + 4 * batch if shape.card < 0 else vram_bytes(program, taken, batch, head_batch, crossing),
        context=context,
        batch=batch,
        head_batch=head_batch,
        placements=tuple(placements),
        buffer_offsets=buffers,
        cache_offsets=caches,
        tokenizer_offset=tokenizer,
        schedule=(*loads, *reads, *cards, *runs),
        disk_bytes_per_token=sum(program.segments[i].size for i in streamed),
        decode_tokens_per_s=10.5,
        prefill_tokens_per_s=100.25,
        first_token_s=0.5,
        disk_bytes_per_s=1e9,
        read_bytes=PIECE,
        reads_in_flight=2,
        experts_offset=places,
        expert_places=shape.places if cached else 0,
        card_batch=shape.card_batch if crossing else 0,
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
    if tensor.format.has_coded_scales:
        weights = rng.normal(0, 0.1, (tensor.rows, tensor.cols)).astype(np.float32)
        return encode(weights, tensor.format)
    scales = (rng.uniform(0.05, 0.1, (tiles, groups, TILE_ROWS)) / (1 << (tensor.format.bits - 1)) * real).astype(">f2")
    fields = rng.integers(0, 256, (tiles, groups, tensor.format.field_bytes), dtype=np.uint8)
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
        TokenizerTables(
            kind=Kind.BYTE_BPE,
            pieces=pieces,
            flags=[TokenFlag.SPECIAL | TokenFlag.EOS if i == 258 else TokenFlag(0) for i in range(tokens)],
            byte_ids=[b if b < tokens else NO_ID for b in range(256)],
            merges=merges,
            words=[257] if merges else [],
            added_raw=added,
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
        plans=tuple(tiny_plan(program, context, shape, len(tokenizer)) for context in (shape.context, *shape.contexts)),
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
    parser.add_argument("--slots", type=int, default=0, help="stream the layers through a ring of so many places")
    parser.add_argument("--rows", action="store_true", help="read the embedding by rows")
    parser.add_argument("--blocks", action="store_true", help="cut matrices into blocks of rows")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    out = given.pop("out")
    given["format"] = Format[given["format"].upper()]
    tiny(**given).write(out)


if __name__ == "__main__":
    main()
