"""What a plan puts into a graphics card's memory, as FORMAT.md (SCHEDULE) counts it. Pure. All sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping

from n730c.artifacts import NONE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes, round_up
from n730c.passes.cost import expert_shares

VRAM_ALIGN = 256  # bytes; what lies in VRAM is aligned to it, as cuMemAlloc does

Taken = Mapping[int, int]  # tiles of LINEAR steps that the card has, none of them 0


def rounds_of(program: Program) -> tuple[tuple[int, ...], ...]:
    """LINEAR steps that follow each other at once with the same input, outside experts (FORMAT.md, SCHEDULE)."""
    experts = expert_shares(program)
    found: list[list[int]] = []
    for i, step in enumerate(program.steps):
        if step.op is not StepOp.LINEAR or i in experts:
            continue
        last = found[-1][-1] if found else NONE
        if last == i - 1 != program.head_first - 1 and program.steps[last].inputs == step.inputs:
            found[-1].append(i)
        else:
            found.append([i])
    return tuple(map(tuple, found))


def rows_bytes(program: Program, taken: Taken) -> int:
    """What tiles and biases take in VRAM."""
    total = 0
    for i, tiles in taken.items():
        step = program.steps[i]
        weight = program.tensors[step.weight]
        total += round_up(tiles * matrix_bytes(weight.format, TILE_ROWS, weight.cols), VRAM_ALIGN)
        total += 0 if step.bias == NONE else round_up(program.tensors[step.bias].size, VRAM_ALIGN)
    return total


def vram_bytes(program: Program, taken: Taken, batch: int, head_batch: int, crossing: Taken | None = None) -> int:
    """All that a plan takes in VRAM (FORMAT.md, SCHEDULE). ``crossing``: further tiles, brought for batches."""
    crossing = crossing or {}
    held = rows_bytes(program, {**dict.fromkeys(crossing, 0), **taken})
    both = {i: taken.get(i, 0) + crossing.get(i, 0) for i in {*taken, *crossing}}
    return held + 2 * place_bytes(program, crossing) + staging_bytes(program, both, batch, head_batch)


def place_bytes(program: Program, crossing: Taken) -> int:
    """VRAM for the tiles of one step that come over the bus; there are two such places."""
    weights = {i: program.tensors[program.steps[i].weight] for i in crossing}
    sizes = (n * matrix_bytes(weights[i].format, TILE_ROWS, weights[i].cols) for i, n in crossing.items())
    return round_up(max(sizes, default=0), VRAM_ALIGN)


def staging_bytes(program: Program, taken: Taken, batch: int, head_batch: int) -> int:
    """VRAM for the activations that go up and the results that come back, of the largest round each."""
    up = down = 0
    for steps in rounds_of(program):
        tiles = sum(taken.get(i, 0) for i in steps)
        if tiles:
            tokens = batch if steps[0] < program.head_first else head_batch
            up = max(up, tokens * program.buffers[program.steps[steps[0]].inputs[0]].token_bytes)
            down = max(down, tokens * tiles * TILE_ROWS * 4)
    return round_up(up, VRAM_ALIGN) + round_up(down, VRAM_ALIGN)
