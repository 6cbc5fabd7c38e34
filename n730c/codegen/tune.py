"""Timing kernels on the build machine: one-token calls over weights that do not fit the cache, candidates in turn."""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Mapping

import numpy as np

from n730c.artifacts import KernelSpec
from n730c.codegen.candidates import Candidate
from n730c.codegen.native import Call, Kernel
from n730c.dtypes import GROUP, TILE_ROWS, matrix_bytes, round_up

_STREAM = 48 << 20  # bytes of weights that one round walks through
_BUDGET = 1.0  # seconds a kernel


class Workload:
    """A one-token LINEAR call over ``_STREAM`` bytes: the first tiles of a large matrix, or copies of a small one."""

    def __init__(self, spec: KernelSpec) -> None:
        tile = matrix_bytes(spec.format, TILE_ROWS, spec.cols)
        self.tiles = min(round_up(spec.rows, TILE_ROWS) // TILE_ROWS, max(1, _STREAM // tile))
        self.size = tile * self.tiles
        self.copies = max(1, -(-_STREAM // self.size))
        self.memory = mmap.mmap(-1, self.size * self.copies)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        one = np.random.default_rng(0).integers(0, 60, self.size, dtype=np.uint8)  # small scales: no infinities
        weights = np.frombuffer(self.memory, np.uint8)
        for copy in range(self.copies):
            weights[copy * self.size : (copy + 1) * self.size] = one
        padded = round_up(spec.cols, GROUP)
        groups = padded // GROUP
        self.x = np.ones(padded + 8 * groups if spec.format.is_integer else 4 * spec.cols, np.uint8)
        if spec.format.is_integer:
            self.x[padded : padded + 4 * groups].view(np.float32)[:] = 0.01
            self.x[padded + 4 * groups :].view(np.int32)[:] = GROUP
        else:
            self.x.view(np.float32)[:] = 0.01
        self.out = np.zeros(self.tiles * TILE_ROWS, np.float32)
        self.call = Call(rows=spec.rows, cols=spec.cols, tokens=1)
        self.call.inputs[0] = self.x.ctypes.data
        self.call.out = self.out.ctypes.data
        self.start = weights.ctypes.data

    def round(self, kernel: Kernel) -> float:
        """Seconds a call, averaged over all copies."""
        began = time.perf_counter()
        for copy in range(self.copies):
            self.call.weight = self.start + copy * self.size
            kernel(ctypes.byref(self.call), 0, self.tiles)
        return (time.perf_counter() - began) / self.copies


def measure(spec: KernelSpec, kernels: Mapping[Candidate, Kernel]) -> dict[Candidate, float]:
    """Seconds of a call over the workload by each candidate, in turn so that a busy machine is fair to all.

    The least of the rounds: whatever else runs here only ever adds time.
    """
    work = Workload(spec)
    times: dict[Candidate, list[float]] = {candidate: [] for candidate in kernels}
    began = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or time.perf_counter() - began < _BUDGET:
        for candidate, kernel in kernels.items():
            times[candidate].append(work.round(kernel))
    return {candidate: min(values) for candidate, values in times.items()}
