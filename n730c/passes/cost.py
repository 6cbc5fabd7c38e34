"""What a step costs on a target: bytes over bandwidth or weights over kernel rate, whichever is slower."""

from __future__ import annotations

from n730c.artifacts import PIECE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes
from n730c.target import Target


def step_seconds(program: Program, target: Target, context: int, tokens: int) -> tuple[float, ...]:
    """Seconds of each step when the body runs ``tokens`` tokens and the head one, weights in RAM.

    Attention is charged with reading half of ``context`` from the KV cache; its arithmetic, and that of all steps but
    LINEAR, is left out: small beside the weights, and part of ``target.step_seconds``.
    """
    seconds = []
    for i, step in enumerate(program.steps):
        cost = target.step_seconds
        if step.op is StepOp.LINEAR:
            tensor = program.tensors[step.weight]
            rate: float = getattr(target.kernel_rates, tensor.format.name.lower())
            count = 1 if i >= program.head_first else tokens
            reading = matrix_bytes(tensor.format, tensor.rows, tensor.cols) / target.ram_bytes_per_s
            cost += max(reading, count * tensor.rows * tensor.cols / (rate * target.cores))
        elif step.op is StepOp.ATTENTION:
            cost += program.caches[step.ints[0]].size(context) / 2 / target.ram_bytes_per_s
        seconds.append(cost)
    return tuple(seconds)


def read_seconds(size: int, contiguous: bool, target: Target) -> float:
    """One segment of ``size`` bytes from the disk; ``contiguous``: it lies right behind the one read before."""
    return size / target.disk_bytes_per_s + (0.0 if contiguous else target.disk_seek_s)


def row_read_bytes(program: Program, segment: int) -> float:
    """Bytes that are read for one row of an embedding of tier ROWS, on average: whole pieces around a tile."""
    tensor = program.tensors[program.segments[segment].first_tensor]
    tile = matrix_bytes(tensor.format, TILE_ROWS, tensor.cols)
    return min(PIECE * (1 + (tile - 1) / PIECE), float(program.segments[segment].size))
