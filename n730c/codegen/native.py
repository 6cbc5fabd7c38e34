"""Calling kernels on the build machine: the structure of templates/cpu/n730_call.h and flat images in memory.

Only kernels that this process compiled itself are ever loaded here; a package's images are not.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from n730c.artifacts import Isa

Kernel = Callable[["ctypes._CArgObject", int, int], None]  # (byref(Call), begin, end)


class Call(ctypes.Structure):
    """``n730_call``, field by field. Pointers are addresses; the caller keeps the memory alive."""

    _fields_ = (
        ("inputs", ctypes.c_void_p * 3),
        ("out", ctypes.c_void_p),
        ("in_stride", ctypes.c_int64 * 3),
        ("out_stride", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("k_cache", ctypes.c_void_p),
        ("v_cache", ctypes.c_void_p),
        ("context", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("rotary_dim", ctypes.c_int64),
        ("expert", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("normalized", ctypes.c_int64),
        ("wide", ctypes.c_int64),
        ("f", ctypes.c_float * 4),
    )


PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.POINTER(Call), ctypes.c_int64, ctypes.c_int64)


# What each level adds to the one before, as Linux names it: a flag is there only if the system saves the registers too.
_CPU_FLAGS = {
    Isa.SSSE3: {"ssse3"},
    Isa.AVX: {"avx"},
    Isa.AVX2: {"avx2", "fma", "f16c"},
    Isa.AVX512: {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
}


def host_isa() -> Isa:
    """The strongest level that this machine runs; the weakest if it cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return Isa.SSE2
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    host = Isa.SSE2
    for isa, needed in _CPU_FLAGS.items():
        if not needed <= set(flags):
            break
        host = isa
    return host


class LoadedImage:
    """A flat image in executable memory of this process; a context manager, its kernels are valid inside."""

    def __init__(self, code: bytes) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._memory = mmap.mmap(-1, max(len(code), 1), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._memory.write(code)
        self._anchor = ctypes.c_char.from_buffer(self._memory)
        self._address = ctypes.addressof(self._anchor)
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(self._address), ctypes.c_size_t(len(self._memory)), protection) != 0:
            raise OSError(ctypes.get_errno(), "this system does not let memory become executable")

    def kernel(self, offset: int) -> Kernel:
        """The kernel that starts ``offset`` bytes into the image."""
        return PROTOTYPE(self._address + offset)

    def __enter__(self) -> LoadedImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._anchor  # the map may only be closed when nothing points into it
        self._memory.close()
