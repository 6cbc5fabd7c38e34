"""Timing kernels on the build machine: over weights that do not fit the cache, candidates in turn.

What counts is an answer behind a prompt of the same length: a call for one token, and a quarter of one for four.
"""

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
_COLUMNS = 4  # tokens that a kernel multiplies at once, at most


class Workload:
    """LINEAR calls over ``_STREAM`` bytes: the first tiles of a large matrix, or copies of a small one."""

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
        x = np.ones(padded + 8 * groups if spec.format.is_integer else 4 * spec.cols, np.uint8)
        if spec.format.is_integer:
            x[padded : padded + 4 * groups].view(np.float32)[:] = 0.01
            x[padded + 4 * groups :].view(np.int32)[:] = GROUP
        else:
            x.view(np.float32)[:] = 0.01
        self.x = np.tile(x, (_COLUMNS, 1))
        self.out = np.zeros((_COLUMNS, self.tiles * TILE_ROWS), np.float32)
        self.call = Call(rows=spec.rows, cols=spec.cols)
        self.call.inputs[0], self.call.in_stride[0] = self.x.ctypes.data, self.x.strides[0]
        self.call.out, self.call.out_stride = self.out.ctypes.data, self.out.strides[0]
        self.start = weights.ctypes.data

    def round(self, kernel: Kernel, tokens: int) -> float:
        """Seconds a call for so many tokens, averaged over all copies."""
        self.call.tokens = tokens
        began = time.perf_counter()
        for copy in range(self.copies):
            self.call.weight = self.start + copy * self.size
            kernel(ctypes.byref(self.call), 0, self.tiles)
        return (time.perf_counter() - began) / self.copies


def measure(spec: KernelSpec, kernels: Mapping[Candidate, Kernel]) -> dict[Candidate, float]:
    """Seconds of a token of an answer and of one of a prompt by each candidate, in turn so that a busy machine is fair
    to all.

    The least of the rounds: whatever else runs here only ever adds time.
    """
    work = Workload(spec)
    times: dict[tuple[Candidate, int], list[float]] = {(c, tokens): [] for c in kernels for tokens in (1, _COLUMNS)}
    began = time.perf_counter()
    while len(next(iter(times.values()))) < 5 or time.perf_counter() - began < _BUDGET:
        for candidate, tokens in times:
            times[candidate, tokens].append(work.round(kernels[candidate], tokens))
    return {c: sum(min(times[c, tokens]) / tokens for tokens in (1, _COLUMNS)) for c in kernels}
