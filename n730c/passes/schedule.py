"""A choice written down as a plan: a place for everything in the arena, and what happens when. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from n730c.artifacts import PAGE, PIECE, Action, Event, Placement, Plan, Tier
from n730c.dtypes import round_up
from n730c.passes.memory import buffer_offsets
from n730c.passes.ways import Choice, Ways

PROMPT = 128  # tokens of the prompt that "time to first token" stands for


def write_plan(ways: Ways, choice: Choice) -> Plan:
    """The plan of one choice, whose ring must work."""
    ring = ways.ring(choice)
    assert ring is not None
    turns, leads = ring
    segments = ways.program.segments
    at = 0
    placements: list[Placement | None] = [None] * len(segments)
    for i, segment in enumerate(segments):
        if choice.card is not None and i in choice.card.segments:
            placements[i] = Placement(Tier.VRAM, 0)
        elif choice.experts is not None and i in ways.weights.experts:
            placements[i] = Placement(Tier.EXPERT, 0)
        elif i not in choice.streamed and i != choice.rows:
            placements[i] = Placement(Tier.RAM, at)
            at += segment.size
    slot = max((segments[i].size for i in choice.streamed), default=0)
    for i, turn in zip(choice.streamed, turns, strict=True):
        placements[i] = Placement(Tier.STREAM, at + turn * slot)
    at += choice.slots * slot
    if choice.rows is not None:
        placements[choice.rows] = Placement(Tier.ROWS, at)
        at += 2 * PIECE
    experts_offset = at if choice.experts else 0
    at += (choice.experts or 0) * ways.weights.expert_bytes
    tokenizer_offset = at
    at = round_up(at + ways.tokenizer_bytes, 64)
    cache_offsets = []
    for cache in ways.program.caches:
        cache_offsets.append(at)
        at += cache.size(ways.context, ways.pass_tokens)
    buffers, at = buffer_offsets(ways.program, at, ways.pass_tokens, ways.head_tokens)
    decode = ways.timeline(choice)
    prefill = ways.timeline(choice, ways.pass_tokens)
    later = ways.away(choice) - set(choice.card.segments if choice.card else ())
    loading = sum(s.size for i, s in enumerate(segments) if i not in later)
    return Plan(
        arena_bytes=round_up(at, PAGE),
        vram_bytes=choice.card.vram_bytes if choice.card else 0,
        context=ways.context,
        batch=ways.pass_tokens,
        head_batch=ways.head_tokens,
        placements=tuple(p for p in placements if p is not None),
        buffer_offsets=buffers,
        cache_offsets=tuple(cache_offsets),
        tokenizer_offset=tokenizer_offset,
        schedule=_schedule(ways, choice, leads),
        disk_bytes_per_token=ways.disk_bytes(choice),
        decode_tokens_per_s=1 / decode.period,
        prefill_tokens_per_s=ways.pass_tokens / prefill.period,
        first_token_s=loading / ways.target.disk_bytes_per_s + PROMPT / ways.pass_tokens * prefill.period,
        disk_bytes_per_s=ways.target.disk_bytes_per_s,
        read_bytes=ways.target.disk_read_bytes,
        reads_in_flight=ways.target.disk_reads_in_flight,
        experts_offset=experts_offset,
        expert_places=choice.experts or 0,
        card_batch=choice.card.card_batch if choice.card else 0,
    )


def _schedule(ways: Ways, choice: Choice, leads: Sequence[int]) -> tuple[Event, ...]:
    away = ways.away(choice)
    loads = [Event(Action.LOAD, i) for i in range(len(ways.program.segments)) if i not in away]
    reads = [Event(Action.READ, i, lead) for i, lead in zip(choice.streamed, leads, strict=True)]
    held, crossing = (dict(choice.card.tiles), dict(choice.card.crossing)) if choice.card else ({}, {})
    runs = [Event(Action.CARD, i, held.get(i, 0), crossing.get(i, 0)) for i in sorted({*held, *crossing})]
    at = 0
    for i in choice.streamed:
        first = ways.weights.uses[i][0]
        if first > at:
            runs.append(Event(Action.RUN, at, first - at))
            at = first
        runs.append(Event(Action.WAIT, i))
    runs.append(Event(Action.RUN, at, len(ways.program.steps) - at))
    return (*loads, *reads, *runs)
