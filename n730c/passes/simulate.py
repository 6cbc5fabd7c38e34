"""Replay a plan against a target's numbers: one disk that reads in order, one processor that walks through the steps.
Both use the RAM: a disk that is fast beside it reads more slowly while the processor computes.

The rules are those of FORMAT.md, SCHEDULE: a read begins when the disk is free and its place in the ring is released,
a step begins when the segments it needs are there, reading runs on over the border between two passes. Decoding
speed is the period that the passes settle into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

PASSES = 6  # simulated; the first ones fill the ring
SETTLED = 3  # passes after which the period is taken


@dataclass(frozen=True)
class Read:
    """One READ of a schedule. ``first``, ``last``: steps between which the segment is used, both included."""

    seconds: float
    lead: int
    first: int
    last: int


@dataclass(frozen=True)
class Span:
    """Something that takes a while: ``index`` is a read or the first of ``count`` steps. Times in seconds."""

    index: int
    count: int
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The last simulated pass. ``period``: seconds a pass once the ring has filled."""

    period: float
    begin: float  # of the last pass
    reads: tuple[Span, ...]
    runs: tuple[Span, ...]  # steps between two waits
    waited: float  # seconds of the period in which the processor waits for the disk


class _Disk:
    """Reads one after the other, at ``beside`` of its speed while the processor computes."""

    def __init__(self, beside: float) -> None:
        self.beside = beside
        self.free = 0.0
        self.computing: deque[tuple[float, float]] = deque()  # when the processor computes, where not read past yet

    def read(self, start: float, seconds: float) -> float:
        """The end of a read that begins at ``start``, not before the last one's end, and takes ``seconds`` alone."""
        while self.computing and self.beside < 1.0:
            begin, end = self.computing[0]
            if seconds <= begin - start:
                break
            if end > start:
                seconds -= max(0.0, begin - start)
                start = max(start, begin)
                if seconds <= (end - start) * self.beside:
                    return start + seconds / self.beside
                seconds -= (end - start) * self.beside
                start = end
            self.computing.popleft()
        return start + seconds


def simulate(
    steps: Sequence[float], reads: Sequence[Read], beside: float = 1.0, passes: int = PASSES, settled: int = SETTLED
) -> Timeline:
    """``steps``: seconds of each step. ``reads``: in order, ``first`` and ``last`` not decreasing.

    ``beside``: the disk's speed while the processor computes, as a part of its speed alone.
    """
    until = (0.0, *accumulate(steps))  # seconds of the steps before each
    count = len(reads)
    clock = 0.0
    disk = _Disk(beside)
    released: list[float] = []  # when each read's place became free, counted through the passes
    ends: list[float] = []  # of passes
    read_spans: list[Span] = []
    runs: list[Span] = []
    waited = 0.0
    for turn in range(passes):
        read_spans, runs, waited = [], [], 0.0
        begin = clock
        at = 0  # the next step
        used = 0  # reads of this pass whose segment is released
        for i, read in enumerate(reads):
            start = clock
            # Up to the step that waits; on the way, what is used up is released.
            while used < i and reads[used].last < read.first:
                released.append(clock + until[reads[used].last + 1] - until[at])
                used += 1
            clock += until[read.first] - until[at]
            if read.first > at:
                runs.append(Span(at, read.first - at, start, clock))
                disk.computing.append((start, clock))
            at = read.first
            before = turn * count + i - read.lead
            start = max(disk.free, released[before]) if before >= 0 else disk.free
            disk.free = disk.read(start, read.seconds)
            read_spans.append(Span(i, 1, start, disk.free))
            if disk.free > clock:
                waited += disk.free - clock
                clock = disk.free
        for read in reads[used:]:
            released.append(clock + until[read.last + 1] - until[at])
        start = clock
        clock += until[-1] - until[at]
        runs.append(Span(at, len(steps) - at, start, clock))
        disk.computing.append((start, clock))
        ends.append(clock)
    period = (ends[-1] - ends[settled - 1]) / (passes - settled)
    return Timeline(period, begin, tuple(read_spans), tuple(runs), waited)
