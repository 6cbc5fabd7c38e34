"""One way to launch kernels on whatever can run them: g++ with fibers, PTX in numpy, or a real GPU.

Arrays are what the kernels see as device memory; they are changed in place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from n730c.codegen.cuda import CudaKernel

POINTERS = ("in0", "in1", "out", "weight", "bias", "k_cache", "v_cache", "ids")


class Call(ctypes.Structure):
    """``n730_cuda_call`` of templates/cuda/call.h."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in POINTERS),
        ("in_stride0", ctypes.c_int64),
        ("in_stride1", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("tokens", ctypes.c_int32),
        ("position", ctypes.c_int32),
        ("context", ctypes.c_int32),
        ("begin", ctypes.c_int32),
        ("end", ctypes.c_int32),
        ("expert", ctypes.c_int32),
        ("f0", ctypes.c_float),
        ("f1", ctypes.c_float),
    )


class Executor(Protocol):
    def launch(
        self, kernel: CudaKernel, grid: tuple[int, int], call: Callable[[Callable[[np.ndarray], int]], bytes]
    ) -> None: ...


def go(
    executor: Executor,
    kernel: CudaKernel,
    tokens: int = 1,
    items: range | None = None,
    **fields: np.ndarray | int | float,
) -> None:
    """Launch ``kernel``. Arrays [tokens, …] of in0, in1, out also give their stride. ``items``: all where None."""
    work = range(kernel.items) if items is None else items

    def call(place: Callable[[np.ndarray], int]) -> bytes:
        record = Call(tokens=tokens, begin=work.start, end=work.stop, context=1)
        for name, value in fields.items():
            if not isinstance(value, np.ndarray):
                setattr(record, name, value)
                continue
            base = value.base if isinstance(value.base, np.ndarray) else value
            assert base.ctypes.data == value.ctypes.data
            setattr(record, name, place(base))
            stride = {"in0": "in_stride0", "in1": "in_stride1", "out": "out_stride"}.get(name)
            if stride:
                setattr(record, stride, value.strides[0])
        return bytes(record)

    executor.launch(kernel, kernel.grid(tokens, len(work)), call)


def rows(count: int, width: int, dtype: type = np.float32, fill: float = 0.0) -> np.ndarray:
    """``[count, width]`` with a stride of a multiple of 64 bytes, as buffers have; ``.base`` is all of it."""
    size = np.dtype(dtype).itemsize
    base = np.full((count, -(-width * size // 64) * 64 // size), fill, dtype)
    return base[:, :width]


def beyond(array: np.ndarray) -> np.ndarray:
    """What lies behind the last element of each row of ``rows``."""
    base = array.base
    assert base is not None
    return base[:, array.shape[1] :]


def unique(kernels: Sequence[CudaKernel]) -> list[CudaKernel]:
    """Each symbol once, in order."""
    return list({kernel.symbol: kernel for kernel in kernels}.values())
