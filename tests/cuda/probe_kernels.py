"""PTX of the kernels that ``n730-exec probe`` measures cards with; ``python -m tests.cuda.probe_kernels`` writes it."""

from __future__ import annotations

from pathlib import Path

from n730c.codegen import cuda
from n730c.codegen.gpu import compact
from n730c.codegen.nvrtc import Nvrtc
from n730c.dtypes import Format

FILE = Path(__file__).parents[2] / "runtime" / "src" / "probe_kernels.inc"
# As many rows as the runtime may ask for: how many it launches depends on the card.
KERNELS = [cuda.read_memory(), *(cuda.linear(Format.INT4, 1 << 20, 512, columns) for columns in (1, 8))]


def made(nvrtc: Nvrtc) -> bytes:
    return compact(nvrtc.compile(cuda.source(KERNELS), cuda.cuda_headers(), "compute_35").ptx)


def as_literal(ptx: bytes) -> str:
    """The file's text: C++ string literals, a line each."""
    lines = ptx.decode().replace("\\", "\\\\").replace('"', '\\"').splitlines()
    return "".join(f'"{line}\\n"\n' for line in lines)


if __name__ == "__main__":
    FILE.write_text(as_literal(made(Nvrtc())), encoding="utf-8")
