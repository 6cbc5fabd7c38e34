"""Time every candidate that the tuner knows, for each format and level that this CPU runs: the recorded table.

    python benchmarks/cpu/candidates.py [--formats INT4,INT8] [--isas AVX2,AVX] [--shape 2048x2048] [--rounds 3]

One line a format and level: the time of each candidate relative to the template's, median of ``--rounds`` tunings,
and what is faster by more than the tuner's margin in all of them: that belongs into ``candidates.py``'s ``_RECORDED``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from n730c.artifacts import Isa, KernelSpec, StepOp
from n730c.codegen.build import Workshop, symbol
from n730c.codegen.candidates import TEMPLATE, candidates
from n730c.codegen.native import LoadedImage, host_isa
from n730c.codegen.select import MARGIN, cpu_name
from n730c.codegen.tune import measure
from n730c.dtypes import Format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(fmt.name for fmt in Format if fmt is not Format.F32))
    parser.add_argument("--isas", default=",".join(isa.name for isa in Isa if isa <= host_isa()))
    parser.add_argument("--shape", default="2048x2048", help="rows x columns")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows, cols = map(int, options.shape.split("x"))
    print(f"{cpu_name()}, {rows} × {cols}, time relative to {TEMPLATE}")
    for isa in (Isa[name] for name in options.isas.split(",")):
        for fmt in (Format[name] for name in options.formats.split(",")):
            spec = KernelSpec(StepOp.LINEAR, fmt, rows, cols)
            able = candidates(spec, isa)
            with tempfile.TemporaryDirectory() as folder:
                code, offsets = Workshop(isa, Path(folder)).link((spec, candidate) for candidate in able)
            with LoadedImage(code) as image:
                kernels = {c: image.kernel(offsets[symbol(spec, c)]) for c in able}
                rounds = [measure(spec, kernels) for _ in range(options.rounds)]
            relative = {c: [seconds[c] / seconds[TEMPLATE] for seconds in rounds] for c in able}
            fast = [c for c in able if max(relative[c]) < 1 - MARGIN]
            best = min(fast, key=lambda c: median(relative[c]), default=TEMPLATE)
            speed = rows * cols / median(seconds[TEMPLATE] for seconds in rounds) / 1e9
            times = "  ".join(f"{c} {median(relative[c]):.2f}" for c in able if c != TEMPLATE)
            print(f"{isa.name:6} {fmt.name:4} {speed:5.1f} G weights/s; {times}; take {best}", flush=True)


if __name__ == "__main__":
    main()
