"""CUDA kernels compiled by g++ and run by fibers, with AddressSanitizer around every buffer."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from n730c.codegen.cuda import CudaKernel, source
from n730c.codegen.render import cuda_template_folder

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-Wno-unknown-pragmas")


class Fault(Exception):
    """What the emulator or AddressSanitizer found."""


def twin_source(text: str, symbols: Sequence[str]) -> str:
    """A .cu text with the table of its kernels, for g++."""
    lines = ['#include "registry.h"', text]
    for symbol in symbols:
        lines.append(f"static void thread_{symbol}(const void *call) {{ {symbol}(*(const n730_cuda_call *)call); }}")
        lines.append(f"static void run_{symbol}(const void *call, unsigned x, unsigned y, unsigned threads) {{")
        lines.append(f"    emulator::launch(thread_{symbol}, call, x, y, threads);\n}}")
    table = ", ".join(f'{{"{symbol}", run_{symbol}}}' for symbol in symbols)
    lines.append(f"const emulator::Entry n730_registry[] = {{{table}, {{nullptr, nullptr}}}};")
    return "\n".join(lines) + "\n"


def build(text: str, symbols: Sequence[str], folder: Path) -> Path:
    """The runner with these kernels inside."""
    twin = folder / "twin.cpp"
    twin.write_text(twin_source(text, symbols), encoding="utf-8")
    runner = folder / "runner"
    command = ["g++", *FLAGS, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{HERE}"]
    command += [f"-I{cuda_template_folder()}", str(twin), str(HERE / "runner.cpp"), "-o", str(runner)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Fault(f"g++ failed:\n{done.stderr[:4000]}")
    return runner


class Emulator:
    """A runner process; a context manager."""

    def __init__(self, kernels: Sequence[CudaKernel], folder: Path, text: str = "") -> None:
        runner = build(text or source(kernels), [kernel.symbol for kernel in kernels], folder)
        self._log = (folder / "runner.log").open("w+")
        self._process = subprocess.Popen([runner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()

    def launch(
        self, kernel: CudaKernel, grid: tuple[int, int], call: Callable[[Callable[[np.ndarray], int]], bytes]
    ) -> None:
        """Run one kernel. Raises Fault, with the sanitizer's first lines where it ended the process."""
        buffers: list[np.ndarray] = []

        def place(array: np.ndarray) -> int:
            buffers.append(array.reshape(-1).view(np.uint8))
            return len(buffers) << 40

        record = call(place)
        name = kernel.symbol.encode()
        parts = [struct.pack("<I", len(name)), name, struct.pack("<4I", *grid, kernel.threads, len(buffers))]
        for buffer in buffers:
            parts += [struct.pack("<Q", buffer.size), buffer.tobytes()]
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(b"".join(parts) + record)
            process.stdin.flush()
        except BrokenPipeError:
            raise self._end() from None
        ok = process.stdout.read(1)
        if not ok:
            raise self._end()
        if ok == b"\0":
            (length,) = struct.unpack("<I", process.stdout.read(4))
            raise Fault(process.stdout.read(length).decode())
        for buffer in buffers:
            data = process.stdout.read(buffer.size)
            if buffer.flags.writeable:
                buffer[:] = np.frombuffer(data, np.uint8)

    def _end(self) -> Fault:
        self._process.wait()
        self._log.seek(0)
        return Fault(self._log.read(2000))
