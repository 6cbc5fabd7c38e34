"""Checks of what a plan gives to the graphics card (FORMAT.md, SCHEDULE): its CARD entries and its VRAM bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from n730c.artifacts import NONE, Action, Buffer, BufferKind, StepOp, Tier
from n730c.dtypes import TILE_ROWS, Format, matrix_bytes, round_up
from n730c.errors import PackageError
from n730c.package.layout import EventRecord, PlacementRecord, PlanRecord, StepRecord, TensorRecord

_ALIGN = 256


def check_card(
    i: int,
    plan: PlanRecord,
    events: Sequence[EventRecord],
    places: Sequence[PlacementRecord],
    tensors: Sequence[TensorRecord],
    buffers: Sequence[Buffer],
    steps: Sequence[StepRecord],
    head_first: int,
) -> None:
    """Plan ``i``, whose schedule was checked but for its CARD entries."""

    def fail(what: str, expected: object, found: object) -> PackageError:
        return PackageError("E_PLAN", f"plan {i}: {what}", expected=str(expected), found=str(found))

    cards = [event for event in events if event.action == Action.CARD]
    crossing = any(event.c for event in cards)
    if crossing != (plan.card_batch > 0) or plan.card_batch > plan.batch:
        expected = f"1 … {plan.batch}" if crossing else 0
        raise fail("tokens from which on weights are brought to the card", expected, plan.card_batch)
    whole = set()  # steps of which the card has all
    if not cards:
        if any(place.tier == Tier.VRAM for place in places):
            raise fail("tiers", "no segment in VRAM without CARD", "one")
        if plan.vram_bytes:
            everything = plan.arena_bytes + 4 * plan.batch
            if plan.vram_bytes != everything or any(place.tier != Tier.RAM for place in places):
                raise fail("VRAM bytes", f"0, or {everything} and all segments in RAM", plan.vram_bytes)
            if any(buffer.kind is BufferKind.Q16 for buffer in buffers):
                raise fail("VRAM bytes", "0, with Q16 buffers", plan.vram_bytes)
        return
    rounds = _rounds(steps, head_first)
    wanted, before = 0, -1
    place = 0  # for what is brought
    held: dict[int, int] = defaultdict(int)  # tiles by round
    for event in cards:
        if event.zero or not before < event.a < len(steps):
            raise fail("CARD", f"a step from {before + 1} to {len(steps) - 1}", tuple(event))
        before = event.a
        step = steps[event.a]
        if event.a not in rounds:
            raise fail(f"CARD of step {event.a}", "a LINEAR step outside experts", f"op {step.op}")
        if buffers[step.in0].kind is BufferKind.Q16:
            raise fail(f"CARD of step {event.a}", "one that reads no Q16 buffer", "one that does")
        weight = tensors[step.weight]
        tiles = -(-weight.rows // TILE_ROWS)
        if not 1 <= event.b + event.c <= tiles:
            raise fail(f"CARD of step {event.a}", f"1 … {tiles} tiles", f"{event.b} + {event.c}")
        tiers = {places[tensors[t].segment].tier for t in (step.weight, step.bias) if t != NONE}
        if tiers - {Tier.RAM, Tier.VRAM}:
            raise fail(f"CARD of step {event.a}", "weight and bias in RAM or VRAM", "another tier")
        if event.c and (event.a >= head_first or Tier.VRAM in tiers):
            raise fail(f"CARD of step {event.a}", "c = 0 in the head and of what is in VRAM", event.c)
        if event.b == tiles:
            whole.add(event.a)
        tile = matrix_bytes(Format(weight.format), TILE_ROWS, weight.cols)
        wanted += round_up(event.b * tile, _ALIGN)
        place = max(place, round_up(event.c * tile, _ALIGN))
        wanted += 0 if step.bias == NONE else round_up(4 * weight.rows, _ALIGN)
        held[rounds[event.a]] += event.b + event.c
    for j, step in enumerate(steps):
        for t in (step.weight, step.bias):
            if t != NONE and places[tensors[t].segment].tier == Tier.VRAM and j not in whole:
                raise fail(f"step {j}, which uses VRAM", "all its tiles on the card", "others")
    tokens = {first: plan.batch if first < head_first else plan.head_batch for first in held}
    wanted += 2 * place + round_up(
        max(n * buffers[steps[first].in0].token_bytes for first, n in tokens.items()), _ALIGN
    )
    wanted += round_up(max(n * 4 * TILE_ROWS * held[first] for first, n in tokens.items()), _ALIGN)
    if plan.vram_bytes != wanted:
        raise fail("VRAM bytes", wanted, plan.vram_bytes)


def _rounds(steps: Sequence[StepRecord], head_first: int) -> dict[int, int]:
    """The first step of the round of each LINEAR step that belongs to no expert."""
    rounds: dict[int, int] = {}
    expert_end = 0
    for j, step in enumerate(steps):
        if step.op == StepOp.EXPERT:
            expert_end = j + 1 + step.p1
        if step.op != StepOp.LINEAR or j < expert_end:
            continue
        goes_on = j - 1 in rounds and j != head_first and steps[j - 1].in0 == step.in0
        rounds[j] = rounds[j - 1] if goes_on else j
    return rounds
