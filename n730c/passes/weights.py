"""What the steps of a program make of its segments: which may be streamed, which are experts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from n730c.artifacts import NONE, PIECE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes
from n730c.passes.cost import expert_shares


@dataclass(frozen=True)
class Weights:
    """The segments of one program, by their indices. Sizes in bytes."""

    program: Program

    @cached_property
    def uses(self) -> tuple[tuple[int, int], ...]:
        """First and last step that uses each segment; (NONE, -1): none does."""
        uses = [(NONE, -1)] * len(self.program.segments)
        for i, step in enumerate(self.program.steps):
            for tensor in (step.weight, step.bias):
                if tensor != NONE:
                    segment = self.segment_of[tensor]
                    uses[segment] = (min(uses[segment][0], i), i)
        return tuple(uses)

    @cached_property
    def segment_of(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.program.segments) for _ in range(s.tensor_count))

    @cached_property
    def streamable(self) -> tuple[int, ...]:
        """Segments whose tensors are used exactly once, by steps of the body other than EMBED and an expert's."""
        count = [0] * len(self.program.tensors)
        barred: set[int] = set()
        for i, step in enumerate(self.program.steps):
            for tensor in (step.weight, step.bias):
                if tensor != NONE:
                    count[tensor] += 1
                    if i >= self.program.head_first or step.op is StepOp.EMBED or i in self._grouped:
                        barred.add(self.segment_of[tensor])
        barred |= {self.segment_of[t] for t, n in enumerate(count) if n != 1}
        return tuple(i for i in range(len(self.program.segments)) if i not in barred)

    @cached_property
    def _grouped(self) -> frozenset[int]:
        """Steps of experts."""
        starts = [i for i, step in enumerate(self.program.steps) if step.op is StepOp.EXPERT]
        return frozenset(j for i in starts for j in range(i, i + 1 + self.program.steps[i].ints[1]))

    @cached_property
    def experts(self) -> dict[int, float]:
        """Segments that hold one expert each, with the share of tokens that choose it."""
        shares = expert_shares(self.program)
        return {i: shares[first] for i, (first, _) in enumerate(self.uses) if first in self._grouped}

    @cached_property
    def expert_bytes(self) -> int:
        """Of one place."""
        return max((self.program.segments[i].size for i in self.experts), default=0)

    @cached_property
    def row_segment(self) -> int | None:
        """The segment that holds an embedding and nothing else, used by EMBED alone; None: there is none."""
        by_id = [s.op is StepOp.EMBED and s.ints != (1,) for s in self.program.steps]
        embeds = {s.weight for s, is_row in zip(self.program.steps, by_id, strict=True) if is_row}
        others = {
            t for s, is_row in zip(self.program.steps, by_id, strict=True) if not is_row for t in (s.weight, s.bias)
        }
        for i, segment in enumerate(self.program.segments):
            tensor = self.program.tensors[segment.first_tensor]
            alone = segment.tensor_count == 1 and segment.first_tensor in embeds - others
            if alone and matrix_bytes(tensor.format, TILE_ROWS, tensor.cols) <= PIECE and segment.size > 2 * PIECE:
                return i
        return None

    @cached_property
    def chosen_bytes(self) -> float:
        """Of the experts that a token chooses, on average."""
        return sum(share * self.program.segments[i].size for i, share in self.experts.items())
