"""The built-in kernels of each instruction set as shared libraries, called through ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import Isa, StepOp
from n730c.codegen.image import ISA_FLAGS
from n730c.codegen.native import PROTOTYPE, Call, Kernel, host_isa
from n730c.dtypes import Format

ROOT = Path(__file__).resolve().parents[2]
BUILTIN_ISAS = tuple(isa for isa in Isa if isa is not Isa.AVX512)  # AVX-512 comes in images only

Lookup = Callable[[Isa, StepOp, Format], Kernel]


def compile_builtin(isa: Isa, output: Path) -> Path:
    """A shared library; stack frames of 4 KiB or more are errors."""
    source = ROOT / f"runtime/src/builtin_kernels_{isa.name.lower()}.c"
    flags = ["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wframe-larger-than=4000", *ISA_FLAGS[isa]]
    flags += ["-shared", "-fPIC", "-nostartfiles"]
    subprocess.run(["gcc", *flags, f"-I{ROOT / 'templates/cpu'}", str(source), "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[Isa, Path]:
    """By level. Compiled once for all workers of a run, whose folders lie side by side: it takes six seconds each."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "builtin"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = {isa: folder / f"{isa.name}.so" for isa in BUILTIN_ISAS}
        return {isa: path if path.exists() else compile_builtin(isa, path) for isa, path in made.items()}


@pytest.fixture(scope="session")
def builtin(libraries: dict[Isa, Path]) -> Lookup:
    lookups = {}
    for isa, path in libraries.items():
        library = ctypes.CDLL(str(path))
        lookup = getattr(library, f"n730_builtin_{isa.name.lower()}")
        lookup.restype, lookup.argtypes = ctypes.c_void_p, (ctypes.c_uint16, ctypes.c_uint8)
        lookups[isa] = lookup

    def find(isa: Isa, op: StepOp, fmt: Format = Format.F32) -> Kernel:
        if isa > host_isa():
            pytest.skip(f"this CPU has no {isa.name}")
        address = lookups[isa](op, fmt)
        assert address, f"no built-in kernel for {op.name} {fmt.name}"
        return PROTOTYPE(address)

    return find


class Run:
    """Builds one call from numpy arrays; ``go`` runs it in the given ranges of work items."""

    def __init__(self, out: np.ndarray, *inputs: np.ndarray, **numbers: object) -> None:
        self.call = Call()
        self.keep = [out, *inputs]
        for i, array in enumerate(inputs):
            self.call.inputs[i] = array.ctypes.data
            self.call.in_stride[i] = array.strides[0]
        self.call.out, self.call.out_stride = out.ctypes.data, out.strides[0]
        self.call.tokens = len(out)
        for name, value in numbers.items():
            if isinstance(value, np.ndarray):
                self.keep.append(value)
                value = value.ctypes.data
            if name == "f0":
                self.call.f[0] = value
            else:
                setattr(self.call, name, value)

    def go(self, kernel: Kernel, *cuts: int) -> None:
        for begin, end in pairwise(cuts):
            kernel(ctypes.byref(self.call), begin, end)


def aligned(data: bytes, room: int = 0) -> np.ndarray:
    """A copy of the bytes that starts at a multiple of 64, with nothing readable assumed behind it."""
    raw = np.zeros(len(data) + 64 + room, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + len(data)]
    view[:] = np.frombuffer(data, np.uint8)
    return view


def strided(tokens: int, width: int, fill: float = 0.0) -> np.ndarray:
    """f32[tokens, width] with each token at a multiple of 64 bytes, as the runtime's buffers."""
    padded = -(-width // 16) * 16
    return np.full((tokens, padded), fill, np.float32)[:, :width]
