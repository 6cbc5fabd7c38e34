"""The second maker of kernels for cards: element-wise ops as TVMScript, of which TVM makes CUDA source.

ADD, MUL and the functions that are simple arithmetic: each element is rounded once or twice, in any order of elements,
so TVM cannot change a bit. The others stay with the templates. SILU, GELU and SOFTCAP call FORMAT.md's own exp and
tanh, whose text TVM would only hand through. Sums (norms, attention) are eight chains of additions in a given order
(FORMAT.md, section 4): what TVM makes by itself, partial sums by thread and a tree of shuffles, rounds otherwise, and
the chains written out thread by thread would be the template again, with nothing left for TVM to arrange.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from functools import cache
from math import gcd

from n730c.artifacts import Maker
from n730c.codegen.cuda import CudaKernel
from n730c.codegen.render import render_cuda
from n730c.codegen.tvm import load
from n730c.errors import ToolchainError

OPS = ("add", "mul", "relu", "relu_squared", "scale")  # symbols of the templates' kernels, before the width
_VECTOR = 4  # elements of 16 bytes
_ENTRY = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) \w+\((?P<parameters>[^)]*)\) \{')
_ARGUMENTS = {
    "A_ptr": "(float *)input(call, 0, blockIdx.x)",
    "B_ptr": "(float *)input(call, 1, blockIdx.x)",
    "O_ptr": "output(call, blockIdx.x)",
    "f0": "call.f0",
}


@cache
def rival(kernel: CudaKernel) -> CudaKernel | None:
    """TVM's kernel in the place of a template's: the same symbol, call and grid. None: it makes no such kernel here.

    Raises ToolchainError where TVM is installed and fails.
    """
    op, _, width = kernel.symbol.rpartition("_")
    if op not in OPS or importlib.util.find_spec("tvm") is None:
        return None
    vector = gcd(int(width), _VECTOR)
    function = f"{kernel.symbol}_row"
    text = _cuda(function, width=int(width), blocks=kernel.grid(1)[1], threads=kernel.threads, vector=vector, op=op)
    entry = _ENTRY.search(text)
    if entry is None:
        raise ToolchainError(f"TVM's source of {kernel.symbol} has no entry", hint="apache-tvm 0.27 is known to work.")
    names = [parameter.split()[-1] for parameter in entry["parameters"].split(",")]
    return replace(
        kernel,
        maker=Maker.TVM,
        header="device.h",
        functions=f"N730_DEVICE void {function}({entry['parameters']}) {{{text[entry.end() :].rstrip()}\n",
        body=f"{function}({', '.join(_ARGUMENTS[name] for name in names)})",
        items_per_thread=vector,
    )


def _cuda(symbol: str, **parameters: object) -> str:
    """TVM's CUDA source. Raises ToolchainError."""
    tvm, *_ = load()
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_35"}, host={"kind": "c"})
    try:
        module = tvm.script.from_source(render_cuda("elementwise_tvm.py.j2", symbol=symbol, **parameters))
        # What it puts aside for common subexpressions stands unused beside the vectors.
        with tvm.transform.PassContext(config={"tirx.disable_cse_tir": True}):
            text = str(tvm.compile(module, target=target).mod.imports[0].inspect_source())
    except Exception as error:  # TVM raises many kinds, and all of them mean that it cannot build this kernel
        detail = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ToolchainError(
            f"TVM cannot compile {symbol}", found=detail[0], hint="Check that apache-tvm 0.27 is installed."
        ) from error
    return text.replace(" __restrict__", "")  # the output may be the input
