"""Plan the memory and predict the speed of a program on a target. Pure: same input, same plan.

Everything lives in one arena: segments (in stream order), tokenizer tables, KV caches, then activations, which share
bytes wherever their lives are disjoint (first-fit by size, as in Pisarchyk & Lee 2020, "Efficient Memory
Management for Deep Neural Net Inference", greedy by size).
"""

from __future__ import annotations

from dataclasses import dataclass

from n730c.artifacts import (
    NONE,
    PAGE,
    Action,
    Event,
    Placement,
    Plan,
    Program,
    Scope,
    Step,
    StepOp,
    Tier,
)
from n730c.dtypes import matrix_bytes, round_up
from n730c.errors import BudgetExceeded
from n730c.target import Target

BATCH = 64  # prompt tokens of one prefill pass: weights are read once a pass
HEAD_BATCH = 8
PROMPT = 128  # tokens of the prompt that "time to first token" stands for


@dataclass(frozen=True)
class Life:
    """A buffer lives from step ``first`` to step ``last``, both included."""

    first: int
    last: int

    def meets(self, other: Life) -> bool:
        return self.first <= other.last and other.first <= self.last


def lives(program: Program) -> tuple[Life, ...]:
    """The life of every buffer, by the rule of FORMAT.md (OFFSETS)."""
    first = [NONE] * len(program.buffers)
    last = [0] * len(program.buffers)
    end = len(program.steps) - 1
    for i, step in enumerate(program.steps):
        if step.out != NONE:
            first[step.out] = min(first[step.out], i)
            last[step.out] = max(last[step.out], i)
        for source in step.inputs:
            crosses = i >= program.head_first and program.buffers[source].scope is Scope.BODY
            last[source] = end if crosses else max(last[source], i)
    last[program.steps[-1].out] = end  # the logits are read after the last step
    return tuple(Life(a, b) for a, b in zip(first, last, strict=True))


def _buffer_offsets(program: Program, start: int, batch: int, head_batch: int) -> tuple[tuple[int, ...], int]:
    """Offsets of all buffers from ``start`` on, and the end of the last one (bytes)."""
    spans = lives(program)
    sizes = [b.token_bytes * (head_batch if b.scope is Scope.HEAD else batch) for b in program.buffers]
    offsets: dict[int, int] = {}
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        busy = sorted((offsets[j], offsets[j] + sizes[j]) for j in offsets if spans[i].meets(spans[j]))
        at = start
        for low, high in busy:
            if at + sizes[i] <= low:
                break
            at = max(at, high)
        offsets[i] = at
    end = max((offsets[i] + sizes[i] for i in offsets), default=start)
    return tuple(offsets[i] for i in range(len(sizes))), end


@dataclass(frozen=True)
class Prediction:
    """Speeds that the cost model expects, tokens a second and seconds."""

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    bytes_per_token: int  # weights read from RAM for one token


def _linear_seconds(program: Program, step: Step, target: Target, tokens: int) -> float:
    tensor = program.tensors[step.weight]
    rate: float = getattr(target.kernel_rates, tensor.format.name.lower())
    streaming = matrix_bytes(tensor.format, tensor.rows, tensor.cols) / target.ram_bytes_per_s
    computing = tokens * tensor.rows * tensor.cols / (rate * target.cores)
    return max(streaming, computing)


def predict(program: Program, target: Target, context: int, batch: int) -> Prediction:
    """Speed from bytes over bandwidth and weights over kernel rate, whichever is slower, step by step.

    Decoding is predicted at half of ``context``; prefill leaves out attention's own share, small at PROMPT tokens.
    """
    cache_bytes = sum(c.size(context) for c in program.caches) / 2
    decode = cache_bytes / target.ram_bytes_per_s
    prefill = 0.0
    for i, step in enumerate(program.steps):
        decode += target.step_seconds
        head = i >= program.head_first
        tokens = 1 if head else batch
        prefill += target.step_seconds
        if step.op is StepOp.LINEAR:
            decode += _linear_seconds(program, step, target, 1)
            prefill += _linear_seconds(program, step, target, tokens)
    used = {step.weight for step in program.steps if step.op is StepOp.LINEAR}
    load = sum(s.size for s in program.segments) / target.disk_bytes_per_s
    return Prediction(
        decode_tokens_per_s=1 / decode,
        prefill_tokens_per_s=batch / prefill,
        first_token_s=load + PROMPT / batch * prefill,
        bytes_per_token=sum(program.tensors[i].size for i in used),
    )


def plan_resident(
    program: Program,
    target: Target,
    tokenizer_bytes: int,
    context: int,
    ram_bytes: int | None = None,
    batch: int = BATCH,
    head_batch: int = HEAD_BATCH,
) -> Plan:
    """The plan that keeps every segment in RAM.

    ``ram_bytes`` (default: what the target leaves us) bounds the arena; BudgetExceeded says what would be needed.
    """
    budget = target.ram_bytes if ram_bytes is None else ram_bytes
    batch = min(batch, context)
    head_batch = min(head_batch, batch)
    at = 0
    placements = []
    for segment in program.segments:
        placements.append(Placement(Tier.RAM, at))
        at += segment.size
    tokenizer_offset = at
    at = round_up(at + tokenizer_bytes, 64)
    cache_offsets = []
    for cache in program.caches:
        cache_offsets.append(at)
        at += cache.size(context)
    weights_end = at
    buffer_offsets, at = _buffer_offsets(program, at, batch, head_batch)
    arena = round_up(at, PAGE)
    if arena > budget:
        weights = sum(s.size for s in program.segments)
        caches = sum(c.size(context) for c in program.caches)
        raise BudgetExceeded(
            "the model does not fit in the target's memory",
            expected=f"at most {budget / 2**20:.0f} MiB",
            found=f"{arena / 2**20:.0f} MiB: {weights / 2**20:.0f} weights, {caches / 2**20:.0f} KV cache of "
            f"{context} tokens, {(arena - weights_end) / 2**20:.0f} activations",
            hint="Take fewer bits (--precision), a smaller --context, or more --ram.",
        )
    count = len(program.steps)
    prediction = predict(program, target, context, batch)
    return Plan(
        arena_bytes=arena,
        vram_bytes=0,
        context=context,
        batch=batch,
        head_batch=head_batch,
        placements=tuple(placements),
        buffer_offsets=buffer_offsets,
        cache_offsets=tuple(cache_offsets),
        tokenizer_offset=tokenizer_offset,
        schedule=(*(Event(Action.LOAD, i) for i in range(len(program.segments))), Event(Action.RUN, 0, count)),
        disk_bytes_per_token=0,
        decode_tokens_per_s=prediction.decode_tokens_per_s,
        prefill_tokens_per_s=prediction.prefill_tokens_per_s,
        first_token_s=prediction.first_token_s,
    )
