"""What a step costs on a target: bytes over bandwidth or weights over kernel rate, whichever is slower."""

from __future__ import annotations

from dataclasses import dataclass

from n730c.artifacts import PIECE, BufferKind, Program, Step, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes
from n730c.target import Target

# What kernels reach of the bandwidth of a loop that only reads: decoding with everything in RAM, 1.1B shape, 4 bits,
# gave 0.84 to 0.91 of it (benchmarks/streaming, "Everything in RAM").
READING_SHARE = 0.9


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step. Reading and computing go on side by side; ``fixed`` comes on top."""

    fixed: float  # hand-out and barrier
    reading: float = 0.0  # bytes from RAM
    computing: float = 0.0

    @property
    def seconds(self) -> float:
        return self.fixed + max(self.reading, self.computing)


def step_costs(program: Program, target: Target, context: int, tokens: int) -> tuple[StepCost, ...]:
    """The cost of each step when the body runs ``tokens`` tokens and the head one, weights in RAM.

    A token attends to half of ``context``: to read that from the KV cache, and to multiply and add as a matrix in BF16
    does. The arithmetic of all other steps is left out: small beside the weights, and part of ``target.step_seconds``.
    """
    costs = []
    shares = expert_shares(program)
    for i, step in enumerate(program.steps):
        cost = StepCost(target.step_seconds)
        if step.op is StepOp.LINEAR:
            tensor = program.tensors[step.weight]
            rate: float = getattr(target.kernel_rates, tensor.format.name.lower())
            count = 1 if i >= program.head_first else tokens
            if program.buffers[step.inputs[0]].kind is BufferKind.Q16:
                count *= 2
            cost = StepCost(
                target.step_seconds,
                reading=matrix_bytes(tensor.format, tensor.rows, tensor.cols)
                / (READING_SHARE * target.ram_bytes_per_s),
                computing=count * tensor.rows * tensor.cols / (rate * target.cores),
            )
        elif step.op is StepOp.ATTENTION:
            reading, products = attention(program, step, context)
            cost = StepCost(
                target.step_seconds,
                reading=reading / target.ram_bytes_per_s,
                computing=tokens * products / (target.kernel_rates.bf16 * target.cores),
            )
        if i in shares:  # of an expert
            runs = 1 - (1 - shares[i]) ** tokens
            cost = StepCost(cost.fixed * runs, cost.reading * runs, cost.computing * shares[i])
        costs.append(cost)
    return tuple(costs)


def attention(program: Program, step: Step, context: int) -> tuple[float, float]:
    """Bytes of the KV cache that one token reads in an ATTENTION step, and its products: with queries, with weights."""
    cache = program.caches[step.ints[0]]
    seen = min(context / 2, cache.window or context)
    return seen * cache.position_bytes, 2 * seen * program.buffers[step.inputs[0]].width


def expert_shares(program: Program) -> dict[int, float]:
    """The share of tokens that choose the expert of a step, by step: as if each expert were as likely as any other."""
    shares: dict[int, float] = {}
    routed: dict[int, float] = {}  # by the buffer of the gates
    for i, step in enumerate(program.steps):
        if step.op is StepOp.ROUTE:
            routed[step.out] = step.ints[0] / program.buffers[step.out].width
        elif step.op is StepOp.EXPERT:
            shares |= dict.fromkeys(range(i, i + 1 + step.ints[1]), routed.get(step.inputs[1], 1.0))
    return shares


def read_seconds(size: int, contiguous: bool, target: Target) -> float:
    """One segment of ``size`` bytes from the disk; ``contiguous``: it lies right behind the one read before."""
    return size / target.disk_bytes_per_s + (0.0 if contiguous else target.disk_seek_s)


def arriving_seconds(size: int, target: Target) -> float:
    """What the processor loses by ``size`` bytes from the disk: RAM is written, and read for the checksum."""
    return 2 * size / target.ram_bytes_per_s


def row_read_bytes(program: Program, segment: int) -> float:
    """Bytes that are read for one row of an embedding of tier ROWS, on average: whole pieces around a tile."""
    tensor = program.tensors[program.segments[segment].first_tensor]
    tile = matrix_bytes(tensor.format, TILE_ROWS, tensor.cols)
    return min(PIECE * (1 + (tile - 1) / PIECE), float(program.segments[segment].size))
