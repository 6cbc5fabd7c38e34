"""Speed of the LINEAR kernels for one or more tokens, beside a plain read of the same bytes in the same run.

    python benchmarks/cpu/gemv.py [--mib 96] [--seconds 4] [--formats INT4,INT8] [--isa AVX2] [--tokens 1,4]
        [--little-endian]

For each format a matrix of about ``--mib`` MiB (larger than the caches, on huge pages where the system has them) is
multiplied by each number of tokens, and an AVX2 loop reads the very same bytes; all of them take turns, because the
machine may be busy, and neighbours in time are compared. ``floor`` is the time of the arithmetic alone: the same
kernel over weights that stay in the L2 cache. Columns: products (weights × tokens) a second, GB/s of weights, share of
the read's bandwidth, floor as a share of the kernel's time, time as a multiple of the first number of tokens;
with ``--little-endian`` also as a multiple of the time of the same kernel built for little-endian scales and halves.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from n730c.artifacts import Isa, StepOp  # noqa: E402
from n730c.codegen.image import ISA_FLAGS  # noqa: E402
from n730c.codegen.native import PROTOTYPE, Call, Kernel  # noqa: E402
from n730c.dtypes import GROUP, Format, matrix_bytes, round_up  # noqa: E402
from n730c.quant import encode  # noqa: E402

READ = """
#include <immintrin.h>
#include <stdint.h>
void read_all(const uint8_t *p, int64_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    __asm__ volatile("" : : "x"(a));
}
/* From here, since a call from Python takes as long as a few tiles. */
void repeat(void (*kernel)(const void *call, int64_t from, int64_t to), const void *call, int64_t tiles, int64_t n) {
    while (n-- > 0) kernel(call, 0, tiles);
}
"""


def little_endian_templates(folder: Path) -> Path:
    """A copy of the templates whose matrices have native scales and F16: what the swaps cost is seen beside it.

    BF16 is put into place by one shuffle in either order of bytes, and so compares with itself: it shows the noise.
    """
    copy = Path(shutil.copytree(ROOT / "templates/cpu", folder))
    text = (copy / "linear.h").read_text()
    (copy / "linear.h").write_text(text.replace("f8_load_f16_be(", "f8_load_f16("))
    return copy


def compile_library(folder: Path, isa: Isa, templates: Path = ROOT / "templates/cpu") -> ctypes.CDLL:
    """The built-in kernels and the read loop, as a shared library in ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "read.c").write_text(READ)
    name = f"n730_builtin_{isa.name.lower()}"  # AVX-512 too, which n730-exec knows in images only
    (folder / "k.c").write_text(f'#define N730_BUILTIN {name}\n#include "builtin_kernels.inc"\n')
    flags = ["-O3", "-ffp-contract=off", "-shared", "-fPIC", f"-I{templates}", f"-I{ROOT / 'runtime/src'}"]
    subprocess.run(["gcc", *flags, "-mavx2", "-c", folder / "read.c", "-o", folder / "read.o"], check=True)
    subprocess.run(
        ["gcc", *flags, *ISA_FLAGS[isa], folder / "k.c", folder / "read.o", "-o", folder / "k.so"], check=True
    )
    library = ctypes.CDLL(str(folder / "k.so"))
    library.read_all.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    library.repeat.argtypes = (PROTOTYPE, ctypes.POINTER(Call), ctypes.c_int64, ctypes.c_int64)
    return library


def linear_kernel(library: ctypes.CDLL, isa: Isa, fmt: Format) -> Kernel:
    lookup = getattr(library, f"n730_builtin_{isa.name.lower()}")
    lookup.restype, lookup.argtypes = ctypes.c_void_p, (ctypes.c_uint16, ctypes.c_uint8)
    return PROTOTYPE(lookup(StepOp.LINEAR, fmt))


class Bench:
    """One format's matrix in memory, its kernel, and the read of the same bytes."""

    def __init__(self, library: ctypes.CDLL, isa: Isa, fmt: Format, mib: int, most: int, cols: int = 2048) -> None:
        self.rows = max(32, (mib << 20) // (matrix_bytes(fmt, 16, cols)) // 2 * 32)
        self.cols, self.tiles = cols, self.rows // 16
        self.tile_bytes = matrix_bytes(fmt, 16, cols)
        self.memory = mmap.mmap(-1, self.tile_bytes * self.tiles + (2 << 20))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(self.memory, np.uint8)
        start = -raw.ctypes.data % (2 << 20)
        self.weights = raw[start : start + self.tile_bytes * self.tiles]
        normal = np.random.default_rng(0).standard_normal((16, cols)).astype(np.float32)
        tile = np.frombuffer(encode(normal, fmt), np.uint8)  # real numbers: subnormal ones would be slow
        for i in range(self.tiles):
            self.weights[i * self.tile_bytes : (i + 1) * self.tile_bytes] = tile
        used = cols + cols // GROUP * 8 if fmt.is_integer else cols * 4
        self.x = np.ones((most, round_up(used, 64)), np.uint8)
        scales = self.x[:, cols : cols + cols // GROUP * 4] if fmt.is_integer else self.x
        scales.reshape(most, -1).view(np.float32)[:] = 0.5
        self.out = np.zeros((most, self.rows), np.float32)
        self.kernel = linear_kernel(library, isa, fmt)
        self.read, self.repeat = library.read_all, library.repeat
        self.call = Call(rows=self.rows, cols=cols, tokens=1, weight=self.weights.ctypes.data)
        self.call.inputs[0], self.call.out = self.x.ctypes.data, self.out.ctypes.data
        self.call.in_stride[0], self.call.out_stride = self.x.strides[0], self.out.strides[0]

    def _threads(self, count: int, work: object) -> float:
        """Seconds that ``count`` threads take for their contiguous parts of the tiles."""
        cuts = [self.tiles * i // count for i in range(count + 1)]
        barrier = threading.Barrier(count + 1)

        def run(begin: int, end: int) -> None:
            barrier.wait()
            work(begin, end)  # type: ignore[operator]
            barrier.wait()

        threads = [threading.Thread(target=run, args=cut) for cut in pairwise(cuts)]
        for thread in threads:
            thread.start()
        barrier.wait()
        began = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - began
        for thread in threads:
            thread.join()
        return seconds

    def kernel_time(self, threads: int, tokens: int, kernel: Kernel | None = None) -> float:
        """Seconds of a call by ``kernel`` (default: the one under test)."""
        self.call.tokens = tokens
        kernel = kernel or self.kernel
        return self._threads(threads, lambda begin, end: kernel(ctypes.byref(self.call), begin, end))

    def read_time(self, threads: int) -> float:
        def work(begin: int, end: int) -> None:
            self.read(self.weights.ctypes.data + begin * self.tile_bytes, (end - begin) * self.tile_bytes)

        return self._threads(threads, work)

    def floor_time(self, tokens: int) -> float:
        """Seconds for as many tiles out of the L2 cache (a few tiles again and again), one thread."""
        self.call.tokens = tokens
        hot = max(1, (128 << 10) // self.tile_bytes)
        repeats = max(1, self.tiles // hot // 16)
        began = time.perf_counter()
        self.repeat(self.kernel, ctypes.byref(self.call), hot, repeats)
        return (time.perf_counter() - began) / (repeats * hot) * self.tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each format and number of threads")
    parser.add_argument("--formats", default=",".join(fmt.name for fmt in Format if fmt is not Format.F32))
    parser.add_argument("--isa", default="AVX2", choices=[isa.name for isa in Isa])
    parser.add_argument("--tokens", default="1", help="numbers of tokens, comma-separated")
    parser.add_argument("--little-endian", action="store_true", help="compare with kernels that swap nothing")
    options = parser.parse_args()
    isa = Isa[options.isa]
    counts = [int(count) for count in options.tokens.split(",")]
    print(
        f"{'format':6} {'threads':>7} {'tokens':>6} {'Gproducts/s':>11} {'GB/s':>6} {'read GB/s':>9} {'share':>6} "
        f"{'floor':>6} {'times':>6}{' swaps' if options.little_endian else ''}"
    )
    with tempfile.TemporaryDirectory() as folder:
        library = compile_library(Path(folder, "big"), isa)
        if options.little_endian:
            native = compile_library(Path(folder, "little"), isa, little_endian_templates(Path(folder, "templates")))
        for name in options.formats.split(","):
            bench = Bench(library, isa, Format[name], options.mib, max(counts))
            size = bench.tile_bytes * bench.tiles
            for threads in (1, 2):
                kernel: dict[int, list[float]] = {count: [] for count in counts}
                floor: dict[int, list[float]] = {count: [] for count in counts}
                swaps: dict[int, list[float]] = {count: [] for count in counts}
                read = []
                end = time.perf_counter() + options.seconds
                while time.perf_counter() < end or len(read) < 5:
                    read.append(bench.read_time(threads))
                    for count in counts:
                        kernel[count].append(bench.kernel_time(threads, count))
                        if options.little_endian:
                            plain = linear_kernel(native, isa, Format[name])
                            swaps[count].append(kernel[count][-1] / bench.kernel_time(threads, count, plain))
                        floor[count].append(bench.floor_time(count) / threads)
                for count in counts:
                    k, r = median(kernel[count]), median(read)
                    share = median(b / a for a, b in zip(kernel[count], read, strict=True))
                    least = median(b / a for a, b in zip(kernel[count], floor[count], strict=True))
                    times = median(a / b for a, b in zip(kernel[count], kernel[counts[0]], strict=True))
                    print(
                        f"{name:6} {threads:7} {count:6} {count * bench.rows * bench.cols / k / 1e9:11.2f} "
                        f"{size / k / 1e9:6.2f} {size / r / 1e9:9.2f} {share:6.0%} {least:6.0%} {times:6.2f}"
                        + (f" {median(swaps[count]):5.3f}" if options.little_endian else ""),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
