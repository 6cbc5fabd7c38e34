"""Checks of the schedules: segments loaded or read in order, waited for before use, their places in the ring free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from n730c.artifacts import NONE, Action, StepOp, Tier
from n730c.errors import PackageError
from n730c.package.layout import MAX_LEAD, EventRecord, PlacementRecord, SegmentRecord, StepRecord, TensorRecord

_Fail = Callable[[int, str, object], PackageError]


class SegmentUse(NamedTuple):
    """What the steps do with a segment."""

    first: int  # the first step that uses one of its tensors; NONE: no step does
    last: int  # the last one; -1: no step does
    streams: bool  # every tensor is used, by steps of the body other than EMBED and an expert's only
    only_embeds: bool  # EMBED steps use it, and no others
    expert: int | None  # the EXPERT step whose group uses every tensor of it, and no other step


def segment_uses(
    segments: Sequence[SegmentRecord], tensors: Sequence[TensorRecord], steps: Sequence[StepRecord], head_first: int
) -> list[SegmentUse]:
    first, last = [NONE] * len(segments), [-1] * len(segments)
    embeds, others, in_head, experts = set[int](), set[int](), set[int](), set[int]()
    used = set[int]()
    expert, expert_end = NONE, 0  # the steps of one expert
    users: list[set[int]] = [set() for _ in segments]  # experts; NONE for any other step
    for i, step in enumerate(steps):
        if step.op == StepOp.EXPERT:
            expert, expert_end = i, i + 1 + step.p1
        for tensor in (step.weight, step.bias):
            if tensor == NONE:
                continue
            used.add(tensor)
            segment = tensors[tensor].segment
            first[segment] = min(first[segment], i)
            last[segment] = i
            if step.op == StepOp.EMBED:
                embeds.add(segment)
            if step.op != StepOp.EMBED or step.p0:  # rows of positions are not rows of ids
                others.add(segment)
            if i >= head_first:
                in_head.add(segment)
            if i < expert_end:
                experts.add(segment)
            users[segment].add(expert if i < expert_end else NONE)
    idle = {t.segment for i, t in enumerate(tensors) if i not in used}
    return [
        SegmentUse(
            first[i],
            last[i],
            streams=i in others and i not in embeds | in_head | idle | experts,
            only_embeds=i in embeds and i not in others,
            expert=min(users[i]) if len(users[i]) == 1 and NONE not in users[i] and i not in idle else None,
        )
        for i in range(len(segments))
    ]


def check_schedule(
    plan: int,
    events: Sequence[EventRecord],
    places: Sequence[PlacementRecord],
    segments: Sequence[SegmentRecord],
    uses: Sequence[SegmentUse],
    step_count: int,
) -> None:
    """The events of one plan (FORMAT.md, SCHEDULE). ``places`` were checked, but for what they overlap."""

    def fail(j: int, what: str, found: object) -> PackageError:
        return PackageError("E_PLAN", f"plan {plan}: schedule entry {j}", expected=what, found=str(found))

    def entry(j: int, what: str) -> EventRecord:
        if j >= len(events):
            raise fail(j, what, "the end")
        return events[j]

    loads = [i for i, place in enumerate(places) if place.tier == Tier.RAM]
    reads = [i for i, place in enumerate(places) if place.tier == Tier.STREAM]
    for j, segment in enumerate(loads):
        if entry(j, f"LOAD {segment}") != (Action.LOAD, 0, segment, 0, 0):
            raise fail(j, f"LOAD {segment}", tuple(events[j]))
    at = len(loads)
    leads = []
    for segment in reads:
        event = entry(at, f"READ {segment}")
        most = min(MAX_LEAD, len(reads))
        lead = event.b
        if event != (Action.READ, 0, segment, lead, 0) or not 1 <= lead <= most:
            raise fail(at, f"READ {segment}, lead 1 … {most}", tuple(event))
        leads.append(lead)
        at += 1
    while at < len(events) and events[at].action == Action.CARD:  # check_card looks at them
        at += 1
    _check_runs(events, at, reads, uses, step_count, fail)
    _check_ring(plan, reads, leads, places, segments, uses)


def _check_runs(
    events: Sequence[EventRecord],
    at: int,
    reads: Sequence[int],
    uses: Sequence[SegmentUse],
    step_count: int,
    fail: _Fail,
) -> None:
    step = waited = 0
    for j in range(at, len(events)):
        event = events[j]
        due = waited < len(reads) and uses[reads[waited]].first == step
        if due:
            if event != (Action.WAIT, 0, reads[waited], 0, 0):
                raise fail(j, f"WAIT {reads[waited]}", tuple(event))
            waited += 1
            continue
        # A step that waits for a segment begins a RUN of its own.
        most = (uses[reads[waited]].first if waited < len(reads) else step_count) - step
        if (event.action, event.zero, event.a, event.c) != (Action.RUN, 0, step, 0) or not 1 <= event.b <= most:
            raise fail(j, f"RUN of 1 … {most} steps from {step} on", tuple(event))
        step += event.b
    if step != step_count or waited != len(reads):
        raise fail(len(events), f"all {step_count} steps and {len(reads)} WAITs", f"{step}, {waited}")


def _check_ring(
    plan: int,
    reads: Sequence[int],
    leads: Sequence[int],
    places: Sequence[PlacementRecord],
    segments: Sequence[SegmentRecord],
    uses: Sequence[SegmentUse],
) -> None:
    def fail(i: int, what: str) -> PackageError:
        return PackageError("E_PLAN", f"plan {plan}: READ of segment {reads[i]}: {what}")

    for i in range(1, len(reads)):
        before, now = uses[reads[i - 1]], uses[reads[i]]
        if now.first < before.first or now.last < before.last:
            raise fail(i, "it is used or released before the one before it")
    released = 0  # segments whose last step is before the step that waits for read i
    for i, lead in enumerate(leads):
        while released < len(reads) and uses[reads[released]].last < uses[reads[i]].first:
            released += 1
        if released < i - lead + 1:
            raise fail(i, f"it waits for itself (lead {lead}, {released} released)")
        begin, end = places[reads[i]].offset, places[reads[i]].offset + segments[reads[i]].size
        for back in range(1, lead):
            other = reads[i - back]  # a negative index goes on into the pass before
            if places[other].offset < end and begin < places[other].offset + segments[other].size:
                raise fail(i, f"its place is still that of segment {other}")
