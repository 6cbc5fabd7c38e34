"""The second maker of kernels: matrix-vector products of the integer formats as TVMScript, compiled by TVM's LLVM.

The result is a bare object with a plain C function: no TVM runtime, no undefined symbols. Fused multiply-add is left
out of the target's features because TVM lets LLVM contract a·b + c, which would change the bits (FORMAT.md, section 4).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from n730c.artifacts import KernelSpec, StepOp
from n730c.codegen.render import render
from n730c.dtypes import GROUP, round_up
from n730c.errors import ToolchainError

_TARGET = {
    "kind": "llvm",
    "mtriple": "x86_64-unknown-linux-gnu",  # ELF and the System V convention, on every system
    "mcpu": "x86-64",
    "mattr": ["+avx2", "+f16c", "+bmi", "+bmi2", "-fma"],
}


def supports(spec: KernelSpec, unroll: int = 1) -> bool:
    """Whether this maker has such a kernel for the step: LINEAR of an integer format, whole turns of the loop."""
    whole = spec.format.has_coded_scales or round_up(spec.cols, GROUP) // GROUP % unroll == 0
    return spec.op is StepOp.LINEAR and spec.format.is_integer and whole


@cache
def load() -> Any:
    """TVM, and its passes for structured and for plain functions. Raises ToolchainError if it is not installed."""
    try:
        import tvm
        import tvm.script
        from tvm import s_tir
    except ImportError as error:
        raise ToolchainError("TVM cannot be loaded", found=str(error), hint="Run: pip install apache-tvm") from None
    return tvm, s_tir.transform, tvm.tirx.transform


def _passes(structured: Any, plain: Any) -> list[Any]:
    """Lowering without the steps that wrap functions in TVM's own calling convention."""
    return [
        structured.CanonicalizeLoop(),
        structured.LowerInitBlock(),
        structured.PlanAndUpdateBufferAllocationLocation(),
        structured.ConvertBlocksToOpaque(),
        structured.CompactBufferAllocation(),
        structured.LowerMatchBuffer(),
        structured.StmtSimplify(),
        structured.LowerOpaqueBlock(),
        plain.FlattenBuffer(),
        plain.NarrowDataType(64),
        structured.LoopPartition(),
        plain.VectorizeLoop(True),
        plain.StorageRewrite(),
        structured.HoistIfThenElse(),
        plain.UnrollLoop(),
        plain.StmtSimplify(),
        plain.RemoveNoOp(),
        plain.CommonSubexprElim(),
        plain.LowerIntrin(),
    ]


def source(spec: KernelSpec, symbol: str, ahead: int, unroll: int) -> str:
    """The TVMScript of one kernel: it changes with the kernel and with nothing else."""
    groups = round_up(spec.cols, GROUP) // GROUP
    return render(
        "linear_tvm.py.j2", symbol=symbol, format=spec.format.name, planes=spec.format.planes,
        coded=spec.format.has_coded_scales, groups=groups, ahead=ahead, unroll=unroll,
    )  # fmt: skip


def compile_kernel(spec: KernelSpec, symbol: str, output: Path, ahead: int, unroll: int) -> None:
    """Write an ELF object with function ``symbol``, a ``tvm_body`` of linear_tvm.c.j2. Raises ToolchainError."""
    tvm, structured, plain = load()
    try:
        module = tvm.script.from_source(source(spec, symbol, ahead, unroll))
        target = tvm.target.Target(_TARGET)
        module = plain.BindTarget(target.with_host(target))(module)
        module = tvm.ir.transform.Sequential(_passes(structured, plain))(module)
        tvm.get_global_func("target.build.llvm")(module, target).write_to_file(str(output), "o")
    except Exception as error:  # TVM raises many kinds, and all of them mean that it cannot build this kernel
        detail = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ToolchainError(
            f"TVM cannot compile {symbol}", found=detail[0], hint="Check that apache-tvm 0.27 is installed."
        ) from error
