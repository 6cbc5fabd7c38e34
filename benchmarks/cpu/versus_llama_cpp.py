"""Speed beside llama.cpp's and beside the memory's: same shapes, in turn in one run, medians.

    python benchmarks/cpu/versus_llama_cpp.py --peer-python /path/to/venv/bin/python [--shapes tinyllama-1.1b]
        [--precisions int4 int8] [--threads 2 1] [--prompts 128 512] [--rounds 5] [--parts peers columns long kernels]
        [--prepare] [--out benchmarks/cpu/results.md]

The peer is llama-cpp-python built from its PyPI sdist for AVX2 only, in a virtual environment of its own, with `gguf`:

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF" \\
        pip install --no-binary llama-cpp-python llama-cpp-python gguf

``--prepare`` only makes the models, which needs no quiet machine. Every round measures, one after the other, the read
bandwidth of a plain AVX2 loop, our package and each of the peer's files. ``bytes`` and ``operations`` are the speeds
that the weights' bytes over that bandwidth and the kernel's arithmetic alone (weights in the L2 cache) would allow.
Parts: ``peers`` is that table; ``columns`` the time of a pass over four tokens beside that of one; ``long`` decoding
behind a long context; ``kernels`` several tokens at once, and the price of big-endian fields (gemv.py). What was
measured is kept in a .json beside the models, so that parts can run one by one; the report holds all that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from gemv import Bench, compile_library  # noqa: E402
from subjects import RIVALS, SHAPES, Workshop  # noqa: E402

from n730c.artifacts import Isa, StepOp  # noqa: E402
from n730c.dtypes import Format  # noqa: E402
from n730c.package import read_package  # noqa: E402
from n730c.passes.precision import PRECISIONS  # noqa: E402
from n730c.runtime import find_runtime  # noqa: E402

SHORT, LONG = 128, 4096  # tokens of context
GENERATED = 32
COLUMNS = 4
COLUMN_ROUNDS = 9
PARTS = ("peers", "columns", "long", "kernels")
LOOKS = 5  # at a limit, a round; the best counts, since a limit is what nothing disturbs


def cpu_name() -> str:
    """The CPU's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run(command: list[str]) -> dict[str, Any]:
    """The JSON object that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return result


def ours(package: Path, threads: int, prompt: int, generated: int, columns: int = 1) -> dict[str, Any]:
    """One run of ``n730-exec bench``."""
    counts = ["--prompt-tokens", str(prompt), "--gen-tokens", str(generated), "--threads", str(threads)]
    return run([str(find_runtime()), "bench", str(package), "--trust", "--json", *counts, "--columns", str(columns)])


class Memory:
    """The read loop, and the arithmetic of one format's kernel with its weights in the cache."""

    def __init__(self, library: Any, fmt: Format) -> None:
        self.bench = Bench(library, Isa.AVX2, fmt, 192, 1)
        self.bytes = self.bench.tile_bytes * self.bench.tiles

    def bandwidth(self, threads: int) -> float:
        return self.bytes / min(self.bench.read_time(threads) for _ in range(LOOKS))

    def products(self, threads: int) -> float:
        return threads * self.bench.rows * self.bench.cols / min(self.bench.floor_time(1) for _ in range(LOOKS))


def token_cost(package: Path) -> tuple[int, int]:
    """Bytes and number of the weights that one decoded token reads."""
    program = read_package(package).program
    used = [program.tensors[i] for i in sorted({s.weight for s in program.steps if s.op is StepOp.LINEAR})]
    return sum(t.size for t in used), sum(t.rows * t.cols for t in used)


class Results:
    """What was measured so far, by part and subject: kept in ``file``, rendered to ``report``."""

    def __init__(self, file: Path, report: Path | None) -> None:
        self.file, self.report = file, report
        self.kept: dict[str, dict[str, list[str]]] = json.loads(file.read_text()) if file.exists() else {}

    def put(self, part: str, subject: str, lines: list[str]) -> None:
        """Lines of the report; earlier ones of this part and subject are replaced."""
        self.kept.setdefault(part, {})[subject] = lines
        self.file.write_text(json.dumps(self.kept, indent=1))
        print("\n".join(lines), flush=True)
        if self.report:
            self.report.write_text("\n".join(self.lines()) + "\n")

    def lines(self) -> list[str]:
        """The whole report."""
        table = [line for lines in self.kept.get("peers", {}).values() for line in lines]
        sentences = [lines for part in ("columns", "long") for lines in self.kept.get(part, {}).values()]
        return [
            f"{cpu_name()}: random weights, medians of rounds in turn, tokens a second; the last column is the date of "
            "the row, and the load average before it.",
            "",
            "| shape | bits | what | n730-exec | llama.cpp (ours ÷ its) | limit: bytes | operations "
            "| share of bandwidth | |",
            "|---|---|---|---|---|---|---|---|---|",
            *table,
            *(line for lines in sentences for line in ("", *lines)),
            *(line for lines in self.kept.get("kernels", {}).values() for line in ("", "```", *lines, "```")),
        ]


def now() -> str:
    return f"{date.today()}, load {os.getloadavg()[0]:.1f}"


def compare(
    workshop: Workshop, precision: str, threads: int, prompts: list[int], rounds: int, memory: Memory, peer: list[str]
) -> list[str]:
    """Rows of the table for one shape, precision and number of threads."""
    package, files = workshop.package(precision), {kind: workshop.gguf(kind) for kind in RIVALS[precision]}
    seen: dict[str, list[float]] = defaultdict(list)
    when = now()
    for _ in range(rounds):
        seen["bandwidth"].append(memory.bandwidth(threads))
        seen["products"].append(memory.products(threads))
        for prompt in prompts:
            result = ours(package, threads, prompt, GENERATED if prompt == prompts[0] else 0)
            seen[f"prefill_{prompt}"].append(result["prefill_tokens_per_s"])
            if prompt == prompts[0]:
                seen["decode"].append(result["decode_tokens_per_s"])
        for kind, file in files.items():
            counts = ",".join(map(str, prompts))
            for key, value in run([*peer, "bench", str(file), str(threads), counts, str(GENERATED)]).items():
                seen[f"{kind} {key}"].append(value)
    mid = {key: median(values) for key, values in seen.items()}
    size, weights = token_cost(package)
    share = median(d * size / b for d, b in zip(seen["decode"], seen["bandwidth"], strict=True))
    rows = []
    for key in ("decode", *(f"prefill_{prompt}" for prompt in prompts)):
        rivals = ", ".join(
            f"{kind} {mid[f'{kind} {key}']:.2f} (**{mid[key] / mid[f'{kind} {key}']:.2f}×**)" for kind in files
        )
        limits = f"{mid['bandwidth'] / size:.1f} | {mid['products'] / weights:.1f} | {share:.0%}"
        cells = [f"{workshop.shape}, {threads} threads", precision, key.replace("_", " "), f"{mid[key]:.2f}", rivals]
        rows.append("| " + " | ".join([*cells, limits if key == "decode" else "| |", when]) + " |")
    return rows


def columns(package: Path, threads: int) -> list[str]:
    """A pass over several tokens at once (logits of each, as when a draft is checked) beside a pass over one."""
    ratios = []
    for _ in range(COLUMN_ROUNDS):
        one, several = (
            ours(package, threads, SHORT, GENERATED * n, n)["decode_tokens_per_s"] / n for n in (1, COLUMNS)
        )
        ratios.append(one / several)
    name, low, high = package.stem, min(ratios), max(ratios)
    ratio = f"{median(ratios):.2f} times as long as one over 1 ({low:.2f} to {high:.2f} of {COLUMN_ROUNDS})"
    return [f"{name}, {threads} threads: a pass over {COLUMNS} tokens, logits of each, takes {ratio}."]


def long_context(package: Path, threads: int, rounds: int) -> list[str]:
    """Decoding behind 128 tokens and behind 4096."""
    rates: dict[int, list[float]] = {SHORT: [], LONG: []}
    for _ in range(rounds):
        for prompt, values in rates.items():
            values.append(ours(package, threads, prompt, GENERATED)["decode_tokens_per_s"])
    share = median(far / short for short, far in zip(*rates.values(), strict=True))
    short, far = (median(values) for values in rates.values())
    rate = f"{far:.2f} tokens/s, {share:.0%} of the {short:.2f} behind {SHORT}"
    return [f"{package.stem}, {threads} threads: decoding behind {LONG} tokens {rate}."]


def kernels() -> list[str]:
    """What gemv.py says of one and four tokens, and of little-endian weights."""
    command = [sys.executable, str(HERE / "gemv.py"), "--tokens", "1,4", "--little-endian"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python of the environment that has llama-cpp-python")
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["tinyllama-1.1b", "qwen2-1.5b"])
    parser.add_argument("--precisions", nargs="+", choices=sorted(RIVALS), default=["int4", "int8", "int2", "fp16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument(
        "--prompts", nargs="+", type=int, default=[SHORT, 512], help="decoding goes on behind the first"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--long-rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prepare", action="store_true", help="only make the models")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--out", type=Path, help="write the report to this file too")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    peer = [args.peer_python, str(HERE / "peer_llama_cpp.py")]
    workshops = [Workshop(shape, args.work, tuple(peer)) for shape in args.shapes]
    for workshop in workshops:
        for precision in args.precisions:
            workshop.package(precision)
            for kind in RIVALS[precision]:
                workshop.gguf(kind)
    if args.prepare:
        return
    results = Results(args.work / "versus_llama_cpp.json", args.out)
    if "peers" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            library = compile_library(Path(folder), Isa.AVX2)
            for workshop in workshops:
                for precision in args.precisions:
                    memory = Memory(library, PRECISIONS[precision])
                    for threads in args.threads:
                        rows = compare(workshop, precision, threads, args.prompts, args.rounds, memory, peer)
                        results.put("peers", f"{workshop.shape} {precision} {threads}", rows)
    for precision in ("int4", "nl4"):
        if precision not in args.precisions:
            continue
        package = workshops[0].package(precision)
        for threads in args.threads:
            subject = f"{package.stem} {threads}"
            if "columns" in args.parts:
                results.put("columns", subject, columns(package, threads))
            if "long" in args.parts:
                results.put("long", subject, long_context(package, threads, args.long_rounds))
    if "kernels" in args.parts:
        results.put("kernels", "", kernels())


if __name__ == "__main__":
    main()
