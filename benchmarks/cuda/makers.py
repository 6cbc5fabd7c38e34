"""Element-wise kernels by the templates and by TVM: the figures that decide, and what their threads execute.

    python -m benchmarks.cuda.makers

The figures are those of ``gpu.static_costs``, for sm_35. ``executed``: by all threads of the grid for one token, in the
PTX interpreter, an element of the row; there the blocks that find nothing to do count, too.
"""

from __future__ import annotations

import numpy as np

from benchmarks.cuda.floors import Machine, unit
from n730c.artifacts import Maker, StepOp, UnaryFunction
from n730c.codegen import cuda, gpu, tvm_cuda
from n730c.codegen.cuda import CudaKernel, cuda_headers, source
from n730c.codegen.nvrtc import Nvrtc
from tests.cuda.launch import go, rows

WIDTHS = (97, 256, 1536, 8960)


def executed(nvrtc: Nvrtc, kernel: CudaKernel) -> float:
    """Instructions an element, copies between registers left out."""
    machine = Machine(nvrtc.compile(source([kernel]), cuda_headers(), "compute_35").ptx)
    x, y, out = (rows(1, kernel.items, np.float32) for _ in range(3))
    go(machine, kernel, in0=x, in1=y, out=out)  # type: ignore[arg-type]
    return sum(n for kind, n in machine.counts.executed.items() if unit(kind) != "free") / kernel.items


def main() -> None:
    nvrtc = Nvrtc()
    print("                      instructions an element   registers        executed an element")
    print("kernel                template   TVM            template   TVM   template   TVM        taken")
    for width in WIDTHS:
        unary = (cuda.unary(f, width) for f in (UnaryFunction.RELU, UnaryFunction.RELU_SQUARED, UnaryFunction.SCALE))
        ours = (cuda.elementwise(StepOp.ADD, width), cuda.elementwise(StepOp.MUL, width), *unary)
        theirs = tuple(rival for kernel in ours if (rival := tvm_cuda.rival(kernel)))
        costs = gpu.static_costs(nvrtc, ours), gpu.static_costs(nvrtc, theirs)
        for kernel, rival, taken in zip(ours, theirs, gpu.chosen(ours), strict=True):
            a, b = (cost[kernel.symbol] for cost in costs)
            print(
                f"{kernel.symbol:20}  {a.instructions:8.2f}   {b.instructions:5.2f}"
                f"          {a.registers:8}   {b.registers:3}"
                f"   {executed(nvrtc, kernel):8.2f}   {executed(nvrtc, rival):5.2f}"
                f"      {'TVM' if taken.maker is Maker.TVM else 'template'}"
            )


if __name__ == "__main__":
    main()
