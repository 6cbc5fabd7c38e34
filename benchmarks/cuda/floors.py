"""How fast a GT 730 could run the decoding kernels at best: bytes and instructions a weight, counted on the PTX itself.

    python -m benchmarks.cuda.floors

For each format the GEMV kernel of one block of tiles runs in the PTX interpreter (tests/cuda/ptx), which counts what
its threads execute and what they read. Three floors follow for a card of 384 lanes at 902 MHz (GK208) with 40 GB/s: the
time to read a weight, the time to compute with it if every instruction took one clock of one lane, and the time that
the busiest kind of unit takes, since a multiprocessor has fewer of some than lanes. Modelled: no card was at hand.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from n730c.codegen import cuda
from n730c.codegen.cuda import CudaKernel, cuda_headers, source
from n730c.codegen.nvrtc import Nvrtc
from n730c.dtypes import Format, matrix_bytes
from tests.cuda import ptx
from tests.cuda.launch import go, rows

LANES, CLOCK_HZ, BYTES_PER_S = 384, 902e6, 40e9
ROWS, COLS = 128, 8960
# Results a clock and multiprocessor of 192 lanes (CUDA C++ Programming Guide 11.8, arithmetic throughput, 3.5 and 3.7).
# It does not name prmt: taken for as slow as the other instructions that move bits (bfe, bfi).
_RATES = {"float": 192, "logic": 160, "shift": 64, "slow": 32, "memory": 32}
SMX_LANES = 192


def unit(kind: str) -> str:
    """Which row of the throughput table an instruction of the interpreter's counts belongs to."""
    name, _, rest = kind.partition(".")
    if name in ("ld", "st", "shfl"):
        return "memory" if rest != "param" else "float"
    if name in ("fma", "mul", "add", "sub") and rest.startswith("f"):
        return "float"
    if name in ("shl", "shr"):
        return "shift"
    if name in ("bfe", "bfi", "prmt"):
        return "slow"
    if name in ("mul", "mad", "cvt") and "16.u32" not in rest and "u16" not in rest:
        return "slow"
    if name in ("bra", "bar", "mov", "ret", "cvta"):
        return "free" if name in ("mov", "cvta") else "logic"
    return "logic"


class Machine:
    """An executor (tests/cuda/launch.py) that counts."""

    def __init__(self, text: str) -> None:
        self.kernels, self.counts = ptx.parse(text), ptx.Counts()

    def launch(self, kernel: CudaKernel, grid: tuple[int, int], call: object) -> None:
        ptx.run(self.kernels[kernel.symbol], grid, kernel.threads, call, self.counts)  # type: ignore[arg-type]


def count(nvrtc: Nvrtc, fmt: Format, columns: int) -> tuple[Counter[str], int, int]:
    """Instructions by kind, bytes of the matrix and other bytes that all threads of one block of tiles read."""
    kernel = cuda.linear(fmt, ROWS, COLS, columns)
    machine = Machine(nvrtc.compile(source([kernel]), cuda_headers(), "compute_35").ptx)
    weight = np.ones(matrix_bytes(fmt, ROWS, COLS), np.uint8)
    entering = rows(columns, COLS * 5 // 4, np.uint8) if fmt.is_integer else rows(columns, COLS)
    go(machine, kernel, columns, in0=entering, weight=weight, out=rows(columns, ROWS))  # type: ignore[arg-type]
    loaded = machine.counts.loaded  # buffers in order of the arguments
    return machine.counts.executed, loaded[2], sum(loaded.values()) - loaded[2]


def floors(executed: Counter[str], weights: int) -> tuple[float, float, str]:
    """Instructions a weight; clocks of a lane that the busiest kind of unit takes for a weight, and which that is."""
    by_unit: Counter[str] = Counter()
    for kind, number in executed.items():
        by_unit[unit(kind)] += number
    by_unit.pop("free", None)  # copies between registers are not instructions of the card
    busy = {name: by_unit[name] / weights * SMX_LANES / rate for name, rate in _RATES.items()}
    busiest = max(busy, key=lambda name: busy[name])
    return sum(by_unit.values()) / weights, busy[busiest], busiest


def main() -> None:
    nvrtc = Nvrtc()
    weights = ROWS * COLS
    print(
        f"GEMV {ROWS}x{COLS}, modelled for {LANES} lanes at {CLOCK_HZ / 1e6:.0f} MHz and {BYTES_PER_S / 1e9:.0f} GB/s"
    )
    print(
        "format  tokens  bytes/weight  of format  activations  instr/weight  read ps/weight  compute ps/weight  "
        "bound by      busiest unit's ps/weight"
    )
    for fmt in cuda.MATRIX_FORMATS:
        for columns in cuda.COLUMNS:
            executed, matrix, other = count(nvrtc, fmt, columns)
            instructions, clocks, busiest = floors(executed, weights)
            read = matrix / weights / BYTES_PER_S * 1e12
            compute, busy = (n / (LANES * CLOCK_HZ) * 1e12 for n in (instructions, clocks))
            print(
                f"{fmt.name:6}  {columns:6}  {matrix / weights:12.4f}  {matrix / matrix_bytes(fmt, ROWS, COLS):9.3f}"
                f"  {other / matrix:11.3f}  {instructions:12.2f}  {read:14.2f}  {compute:17.2f}"
                f"  {'memory' if read > compute else 'instructions':12}  {busy:9.2f} ({busiest})"
            )


if __name__ == "__main__":
    main()
