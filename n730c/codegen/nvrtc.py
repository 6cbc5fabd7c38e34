"""CUDA C++ to cubins and PTX with NVRTC 11.8, on any machine: no GPU, no driver, no toolkit (extra ``n730c[cuda]``).

11.8 is the last that knows Kepler. The PTX is stamped as that of CUDA 9.0: the last driver for Kepler (R470) refuses
what is above 7.4, and nothing in these kernels needs more than 6.0.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from n730c.errors import ToolchainError

ARCHITECTURES = ("sm_35", "sm_50", "sm_52", "sm_61")  # Kepler GK208, Maxwell, Pascal
PTX_VERSION = "6.0"
_HINT = "Install the extra: pip install 'n730c[cuda]'."
_OPTIONS = ("--fmad=false", "--std=c++17", "--device-as-default-execution-space")


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of one source. ``cubin`` is empty where only PTX was asked for (``compute_35``)."""

    ptx: str
    cubin: bytes


def missing() -> str:
    """Why no kernels for graphics cards can be made here, and what helps; empty: they can."""
    try:
        library()
    except ToolchainError as error:
        return str(error)
    return ""


def library() -> ctypes.CDLL:
    """NVRTC 11.8 from its wheel. Raises ToolchainError, naming the extra, where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for base in list(spec.submodule_search_locations or ()) if spec else []:
        for path in sorted(Path(base, "cuda_nvrtc", "lib").glob("libnvrtc.so.11.2")):
            try:
                return ctypes.CDLL(str(path))
            except OSError as error:
                raise ToolchainError(f"NVRTC cannot be loaded: {error}", hint=_HINT) from None
    raise ToolchainError("NVRTC is not installed", expected="nvidia-cuda-nvrtc-cu11 11.8", hint=_HINT)


def restamp(ptx: str) -> str:
    """PTX for drivers of the time of CUDA 9.0 and later."""
    return re.sub(r"(?m)^\.version \S+$", f".version {PTX_VERSION}", ptx, count=1)


class Nvrtc:
    """The compiler, loaded once. Raises ToolchainError where it is missing or not 11.8."""

    def __init__(self) -> None:
        self._lib = library()
        self._lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if (major.value, minor.value) != (11, 8):
            raise ToolchainError(
                "this NVRTC cannot serve Kepler", expected="11.8", found=f"{major.value}.{minor.value}", hint=_HINT
            )

    def compile(self, source: str, headers: Mapping[str, str], architecture: str, *options: str) -> Compiled:
        """``architecture``: ``sm_35`` for cubin and PTX, ``compute_35`` for PTX alone.

        Raises ToolchainError with the compiler's first complaint.
        """
        with self._program(source, headers) as program:
            arguments = [f"--gpu-architecture={architecture}", *_OPTIONS, *options]
            array = (ctypes.c_char_p * len(arguments))(*(argument.encode() for argument in arguments))
            if self._lib.nvrtcCompileProgram(program, len(arguments), array) != 0:
                log = self._result(program, "ProgramLog").decode(errors="replace")
                first = next((line for line in log.splitlines() if "error" in line), log.strip() or "no message")
                raise ToolchainError(f"NVRTC cannot compile the kernels for {architecture}: {first}")
            ptx = self._result(program, "PTX").rstrip(b"\0").decode()
            cubin = self._result(program, "CUBIN") if architecture.startswith("sm_") else b""
        return Compiled(restamp(ptx), cubin)

    @contextmanager
    def _program(self, source: str, headers: Mapping[str, str]) -> Iterator[ctypes.c_void_p]:
        program = ctypes.c_void_p()
        self._check(
            self._lib.nvrtcCreateProgram(
                ctypes.byref(program),
                source.encode(),
                b"kernels.cu",
                len(headers),
                _strings(list(headers.values())),
                _strings(list(headers)),
            )
        )
        try:
            yield program
        finally:
            self._lib.nvrtcDestroyProgram(ctypes.byref(program))

    def _result(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._lib, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, code: int) -> None:
        if code != 0:
            raise ToolchainError(f"NVRTC failed: {self._lib.nvrtcGetErrorString(code).decode()}")


def _strings(values: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))
