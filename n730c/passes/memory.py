"""Where activations go: buffers share bytes wherever their lives are disjoint.

First fit by size, as in Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", greedy by
size.
"""

from __future__ import annotations

from dataclasses import dataclass

from n730c.artifacts import NONE, Program, Scope


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


def buffer_offsets(program: Program, start: int, batch: int, head_batch: int) -> tuple[tuple[int, ...], int]:
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
