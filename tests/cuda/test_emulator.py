"""Every CUDA kernel under g++, a fiber a thread, against the bits of FORMAT.md; and faults that must be noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import StepOp
from n730c.codegen.cuda import CudaKernel
from tests.cuda import cases
from tests.cuda.emulator import Emulator, Fault
from tests.cuda.launch import go


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(cases.all_kernels(), tmp_path_factory.mktemp("twins")) as running:
        yield running


@pytest.mark.parametrize("family", cases.FAMILIES, ids=lambda family: family.__name__)
def test_kernels(emulator: Emulator, family: Callable[[], Iterator[cases.Case]]) -> None:
    for case in family():
        case.check(emulator)


BAD = """
#include "device.h"
extern "C" __global__ void half_barrier(const n730_cuda_call call) {
    if (threadIdx.x < 32) __syncthreads();
    (void)call;
}
extern "C" __global__ void half_shuffle(const n730_cuda_call call) {
    if (threadIdx.x & 1) ((int *)call.out)[threadIdx.x] = __shfl_xor_sync(N730_WARP, (int)threadIdx.x, 2);
}
extern "C" __global__ void one_too_many(const n730_cuda_call call) { ((int *)call.out)[threadIdx.x] = 1; }
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("half_barrier", "a barrier that 32 of the block's threads do not reach"),
        ("half_shuffle", "names a thread that is not at it"),
        ("one_too_many", "heap-buffer-overflow"),
    ],
)
def test_the_emulator_notices(tmp_path: Path, name: str, says: str) -> None:
    kernels = [CudaKernel(n, StepOp.ADD, "", "", 64) for n in ("half_barrier", "half_shuffle", "one_too_many")]
    chosen = next(kernel for kernel in kernels if kernel.symbol == name)
    with Emulator(kernels, tmp_path, BAD) as running, pytest.raises(Fault, match=says):
        go(running, chosen, out=np.zeros(63, np.int32))
