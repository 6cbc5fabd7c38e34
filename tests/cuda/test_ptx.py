"""The PTX that NVRTC makes of every CUDA kernel, run by numpy, against the bits of FORMAT.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from n730c.codegen import cubin
from n730c.codegen.cuda import CudaKernel, cuda_headers, source
from n730c.codegen.gpu import compact
from n730c.codegen.nvrtc import Nvrtc
from tests.cuda import cases, ptx


class PtxMachine:
    """An executor (tests/cuda/launch.py) for one module of PTX."""

    def __init__(self, text: str) -> None:
        self.kernels = ptx.parse(text)
        self.counts: ptx.Counts | None = None

    def launch(
        self, kernel: CudaKernel, grid: tuple[int, int], call: Callable[[Callable[[np.ndarray], int]], bytes]
    ) -> None:
        ptx.run(self.kernels[kernel.symbol], grid, kernel.threads, call, self.counts)


@pytest.fixture(scope="module")
def text(nvrtc: Nvrtc) -> str:
    return compact(nvrtc.compile(source(cases.all_kernels()), cuda_headers(), "compute_35").ptx).decode()


@pytest.fixture(scope="module")
def machine(text: str) -> PtxMachine:
    return PtxMachine(text)


@pytest.mark.parametrize("family", cases.FAMILIES, ids=lambda family: family.__name__)
def test_kernels(machine: PtxMachine, family: Callable[[], Iterator[cases.Case]]) -> None:
    for case in family():
        case.check(machine)


def test_nothing_that_an_old_card_lacks_or_that_rounds_otherwise(text: str) -> None:
    assert cubin.ptx_complaints(text) == []
    assert ".version 6.0" in text and ".target sm_35" in text
