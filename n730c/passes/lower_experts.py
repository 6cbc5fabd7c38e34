"""Lower a mixture of experts: for each expert a group of steps that runs only where a token chose it.

EXPERT gathers the tokens whose gate is not zero, the steps behind it compute those alone, and COMBINE adds what comes
out, times the gate, to a buffer that began as zeros. Each expert's matrices make a segment of their own, so that an
expert can be brought from the disk by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from n730c.artifacts import Buffer, BufferKind, Step, StepOp, Tensor
from n730c.dtypes import Format


class Lowering(Protocol):
    """What the lowering lends: its lists grow."""

    formats: Mapping[str, Format]
    shapes: dict[str, tuple[int, ...]]
    tensors: list[Tensor]
    buffers: list[Buffer]
    steps: list[Step]

    def buffer(self, kind: BufferKind, width: int) -> int: ...
    def q8(self, source: int, layer: int) -> int: ...
    def tensor(self, source: str, layer: int, rows: tuple[int, int] | None = None) -> int: ...
    def kernel(self, fmt: Format, rows: int, cols: int) -> int: ...


def lower_experts(state: Lowering, inputs: tuple[int, ...], params: Mapping[str, str], layer: int) -> int:
    """Emit the steps; returns the buffer of the result. ``inputs``: x and the gates."""
    x, gates = inputs
    hidden, experts = state.buffers[x].width, state.buffers[gates].width
    height = state.shapes[params["gate_up"]][0] // experts // 2  # rows of gate and of up, each
    out = state.buffer(BufferKind.F32, hidden)
    state.steps.append(Step(StepOp.ZERO, (), out, layer=layer))
    wide, narrow = (state.formats[params[role]] for role in ("gate_up", "down"))
    source = state.q8(x, layer) if wide.is_integer else x
    chosen = state.buffer(state.buffers[source].kind, hidden)
    gate, up, gated = (state.buffer(BufferKind.F32, height) for _ in range(3))
    operand = state.buffer(BufferKind.Q8, height) if narrow.is_integer else gated
    result = state.buffer(BufferKind.F32, hidden)
    first_tensor = -1 - len(state.tensors)  # one segment an expert: numbers that no layer has

    def linear(role: str, first: int, rows: int, source: int, out: int, expert: int) -> Step:
        weight = state.tensor(params[role], first_tensor - expert, (first, first + rows))
        stored = state.tensors[weight]
        kernel = state.kernel(stored.format, stored.rows, stored.cols)
        return Step(StepOp.LINEAR, (source,), out, weight=weight, layer=layer, ints=(0,), kernel=kernel)

    for expert in range(experts):
        steps = [
            linear("gate_up", 2 * height * expert, height, chosen, gate, expert),
            linear("gate_up", 2 * height * expert + height, height, chosen, up, expert),
            Step(StepOp.SILU_MUL, (gate, up), gated, layer=layer),
            *([Step(StepOp.QUANTIZE, (gated,), operand, layer=layer)] if narrow.is_integer else []),
            linear("down", hidden * expert, hidden, operand, result, expert),
            Step(StepOp.COMBINE, (result, gates), out, layer=layer, ints=(expert,)),
        ]
        state.steps.append(Step(StepOp.EXPERT, (source, gates), chosen, layer=layer, ints=(expert, len(steps))))
        state.steps += steps
    return out
