"""Checks of the plans: everything inside the arena, nothing on top of anything that is alive, a complete schedule."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from itertools import pairwise

from n730c.artifacts import PIECE, Buffer, BufferKind, Cache, Scope, StepOp, Tier
from n730c.dtypes import TILE_ROWS, Format, matrix_bytes
from n730c.errors import PackageError
from n730c.package import layout as lay
from n730c.package.check_card import check_card
from n730c.package.check_schedule import SegmentUse, check_schedule, segment_uses
from n730c.package.check_steps import lives
from n730c.package.layout import (
    MAX_ARENA,
    MAX_DIM,
    MAX_LEAD,
    MAX_PLACES,
    MAX_READ,
    BufferRecord,
    CacheRecord,
    EventRecord,
    Kind,
    PlacementRecord,
    PlanRecord,
    ProgramRecord,
    SegmentRecord,
    StepRecord,
    TensorRecord,
)

Range = tuple[int, int, str]  # first byte, end, whose


def _fail(plan: int, what: str, expected: object = "", found: object = "") -> PackageError:
    return PackageError("E_PLAN", f"plan {plan}: {what}", expected=str(expected), found=str(found))


def check_plans(
    sections: Mapping[Kind, bytes],
    segments: Sequence[SegmentRecord],
    tensors: Sequence[TensorRecord],
    buffers: Sequence[BufferRecord],
    caches: Sequence[CacheRecord],
    steps: Sequence[StepRecord],
    program: ProgramRecord,
) -> None:
    """All of E_PLAN."""
    plans = list(map(PlanRecord._make, lay.PLAN.iter_unpack(sections[Kind.PLANS])))
    placements = list(map(PlacementRecord._make, lay.PLACEMENT.iter_unpack(sections[Kind.PLACEMENTS])))
    offsets = [offset for (offset,) in lay.OFFSET.iter_unpack(sections[Kind.OFFSETS])]
    events = list(map(EventRecord._make, lay.EVENT.iter_unpack(sections[Kind.SCHEDULE])))
    spans = lives(steps, buffers, program)
    uses = segment_uses(segments, tensors, steps, program.head_first)
    held = [Buffer(BufferKind(b.kind), Scope(b.scope), b.width) for b in buffers]
    positions = min((tensors[s.weight].rows for s in steps if s.op == StepOp.EMBED and s.p0), default=MAX_DIM)
    first_event = 0
    for i, plan in enumerate(plans):
        _check_numbers(i, plan)
        if plan.context > positions:
            raise _fail(i, "context", f"at most the {positions} positions that have a row", plan.context)
        before = (plans[i - 1].vram_bytes > 0, plans[i - 1].arena_bytes) if i else (True, MAX_ARENA)
        if (plan.vram_bytes > 0, plan.arena_bytes) > before:
            raise _fail(
                i, "order of plans", "VRAM only where the one before has it, and no more arena bytes then", before
            )
        if plan.first_event != first_event or plan.event_count > len(events) - first_event:
            found = f"{plan.event_count} from {plan.first_event} on"
            raise _fail(i, "its part of SCHEDULE", f"from {first_event} on, inside {len(events)}", found)
        first_event += plan.event_count
        mine = placements[i * len(segments) : (i + 1) * len(segments)]
        _check_tiers(i, mine, segments, tensors, uses)
        own = events[plan.first_event : first_event]
        check_schedule(i, own, mine, segments, uses, len(steps))
        check_card(i, plan, own, mine, tensors, held, steps, program.head_first)
        start = i * (len(buffers) + len(caches))
        middle, stop = start + len(buffers), start + len(buffers) + len(caches)
        fixed = [(plan.tokenizer_offset, plan.tokenizer_offset + len(sections[Kind.TOKENIZER]), "the tokenizer")]
        ring: list[Range] = []
        sizes = [segments[j].size for j, place in enumerate(mine) if place.tier == Tier.EXPERT]
        if (plan.expert_places > 0) != bool(sizes):
            raise _fail(i, "places for experts", "1 or more" if sizes else "0", plan.expert_places)
        cached = max(sizes, default=0) * plan.expert_places
        fixed.append((plan.experts_offset, plan.experts_offset + cached, "the experts"))
        for j, place in enumerate(mine):
            if place.tier in (Tier.EXPERT, Tier.VRAM):
                continue
            size = 2 * PIECE if place.tier == Tier.ROWS else segments[j].size
            extent = (place.offset, place.offset + size, f"segment {j}")
            (ring if place.tier == Tier.STREAM else fixed).append(extent)
        fixed += _union(ring)
        for j, (cache, offset) in enumerate(zip(caches, offsets[middle:stop], strict=True)):
            kept = Cache(cache.kv_heads, cache.head_dim, cache.window, Format(cache.format))
            size = kept.size(plan.context, plan.batch)
            fixed.append((offset, offset + size, f"cache {j}"))
        moving = []
        for j, (b, offset) in enumerate(zip(buffers, offsets[start:middle], strict=True)):
            tokens = plan.head_batch if b.scope == Scope.HEAD else plan.batch
            moving.append((offset, offset + tokens * held[j].token_bytes, f"buffer {j}"))
        _check_arena(i, plan, fixed, moving, spans)
    if first_event != len(events):
        raise PackageError("E_PLAN", "entries of SCHEDULE", expected=str(first_event), found=str(len(events)))


def _check_tiers(
    i: int,
    places: Sequence[PlacementRecord],
    segments: Sequence[SegmentRecord],
    tensors: Sequence[TensorRecord],
    uses: Sequence[SegmentUse],
) -> None:
    experts: set[int] = set()
    for j, (place, segment, use) in enumerate(zip(places, segments, uses, strict=True)):
        if place.tier not in tuple(Tier) or place.device or place.zero or place.zeros:
            raise _fail(i, f"placement of segment {j}", "tier 0 … 4 of device 0", tuple(place))
        if place.offset % 4096 or place.offset > MAX_ARENA:
            raise _fail(i, f"placement of segment {j}", "a multiple of 4096", place.offset)
        if place.tier == Tier.STREAM and not use.streams:
            raise _fail(i, f"segment {j} is streamed", "tensors that steps of the body use, EMBED and experts aside")
        if place.tier == Tier.VRAM and place.offset:
            raise _fail(i, f"offset of segment {j} in VRAM", 0, place.offset)
        if place.tier == Tier.EXPERT:
            if use.expert is None or use.expert in experts or place.offset:
                raise _fail(i, f"segment {j} is an expert's", "at offset 0, the only one of one expert", place.offset)
            experts.add(use.expert)
        if place.tier == Tier.ROWS:
            tensor = tensors[segment.first_tensor]
            whole = segment.tensor_count == 1 and use.only_embeds and tensor.layout == 1
            if not whole or matrix_bytes(Format(tensor.format), TILE_ROWS, tensor.cols) > PIECE:
                raise _fail(i, f"segment {j} is read by rows", f"one matrix for EMBED, tiles of at most {PIECE} bytes")


def _union(ranges: Sequence[Range]) -> list[Range]:
    """The ring: places of streamed segments may overlap, and count as one range where they do."""
    merged: list[Range] = []
    for first, end, whose in sorted(ranges):
        if merged and first < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        else:
            merged.append((first, end, whose))
    return merged


def _check_numbers(i: int, plan: PlanRecord) -> None:
    if plan.arena_bytes % 4096 or plan.arena_bytes > MAX_ARENA:
        raise _fail(i, "arena bytes", f"a multiple of 4096, at most {MAX_ARENA}", plan.arena_bytes)
    if not 1 <= plan.reads_in_flight <= MAX_LEAD:
        raise _fail(i, "reads in flight", f"1 … {MAX_LEAD}", plan.reads_in_flight)
    if not PIECE <= plan.read_bytes <= MAX_READ or plan.read_bytes % PIECE:
        raise _fail(i, "bytes of one read", f"a multiple of {PIECE}, at most {MAX_READ}", plan.read_bytes)
    if plan.expert_places > MAX_PLACES or plan.experts_offset % 4096 or plan.experts_offset > MAX_ARENA:
        raise _fail(i, "the cache of experts", f"at most {MAX_PLACES} places at a multiple of 4096", plan.expert_places)
    if plan.experts_offset and not plan.expert_places:
        raise _fail(i, "offset of no experts", 0, plan.experts_offset)
    if any(plan.zeros):
        raise _fail(i, "reserved bytes", "zeros")
    if not 1 <= plan.context <= MAX_DIM:
        raise _fail(i, "context", f"1 … {MAX_DIM}", plan.context)
    if not 1 <= plan.batch <= 4096:
        raise _fail(i, "batch", "1 … 4096", plan.batch)
    if not 1 <= plan.head_batch <= plan.batch:
        raise _fail(i, "head batch", f"1 … {plan.batch}", plan.head_batch)
    predictions = (plan.decode_tokens_per_s, plan.prefill_tokens_per_s, plan.first_token_s)
    for value in (*predictions, plan.disk_bytes_per_s):
        if not (math.isfinite(value) and value >= 0):
            raise _fail(i, "a prediction", "finite, ≥ 0", value)


def _check_arena(
    i: int,
    plan: PlanRecord,
    fixed: list[Range],
    moving: Sequence[Range],
    spans: Sequence[tuple[int, int] | None],
) -> None:
    for first, end, whose in (*fixed, *moving):
        if end > plan.arena_bytes or first % 64:
            raise _fail(i, whose, f"at a multiple of 64, inside {plan.arena_bytes} bytes", f"{first} … {end}")
    active = [r for r in fixed if r[1] > r[0]]
    active.sort()
    for before, after in pairwise(active):
        if before[1] > after[0]:
            raise _fail(i, f"{before[2]} and {after[2]} overlap")
    for buffer, span in zip(moving, spans, strict=True):
        if span is None:
            _check_free(i, active, buffer)
    starts: list[tuple[int, Range]] = []
    ends: list[tuple[int, Range]] = []
    for buffer, span in zip(moving, spans, strict=True):
        if span is not None:
            starts.append((span[0], buffer))
            ends.append((span[1], buffer))
    ends.sort()
    gone = 0
    for now, buffer in sorted(starts):
        while ends[gone][0] < now:
            del active[bisect_left(active, ends[gone][1])]
            gone += 1
        _check_free(i, active, buffer)
        insort(active, buffer)


def _check_free(i: int, active: Sequence[Range], new: Range) -> None:
    """``active``: sorted, disjoint. Only the last range that starts before the new one's end can touch it."""
    at = bisect_left(active, (new[1],))
    if at and active[at - 1][1] > new[0]:
        raise _fail(i, f"{active[at - 1][2]} and {new[2]} overlap while both are alive")
