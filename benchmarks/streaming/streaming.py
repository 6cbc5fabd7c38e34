"""Models larger than memory: n730-exec against the disk's own limit, its plan's prediction, and llama.cpp.

    sudo python benchmarks/streaming/streaming.py --peer-python /path/to/venv/bin/python [--cases tinyllama:fp16 …]

Memory is really capped by a control group (page cache counts), the files are out of the page cache before each run,
and the disk's limit is measured with O_DIRECT in turn with ours, with the same read size and number in flight. The
target is this PC, probed at the start; --disk-limit makes its disk as slow as an old PC's, for everybody. The peer is
llama-cpp-python built for AVX2 only (see benchmarks/cpu/versus_llama_cpp.py), with mmap and without repacking: its
other modes are killed under these caps. Weights are random; files are made once, in --work (7B: 21 GB).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from disk import drop_cache, raw_bandwidth, slowed  # noqa: E402
from memory_cap import Capped, run_capped  # noqa: E402
from models import CONTEXT, gguf, package  # noqa: E402

from n730c.runtime import find_runtime  # noqa: E402
from n730c.target import Target, load_target  # noqa: E402

MIB = 1 << 20
RAW_SECONDS = 1.5
QUARTERS = (0.25, 0.5, 0.75, 1.0)
PROMPT = 4
BUSY = 0.2  # cores that others keep busy before the run, from which on the figures are theirs too


@dataclass(frozen=True)
class Case:
    """One comparison. ``ratio``: tokens/s over the peer's that was asked for; tokens: decoded by us, by the peer."""

    shape: str
    precision: str
    cap: int
    ratio: float
    tokens: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.shape}:{self.precision}"


CASES = (
    Case("tinyllama", "fp16", 1024 * MIB, 2.2, (32, 6)),
    Case("tinyllama", "int8", 600 * MIB, 2.0, (48, 8)),
    Case("tinyllama", "int4", 400 * MIB, 2.5, (64, 12)),
    Case("llama2-7b", "int4", 2048 * MIB, 4.0, (24, 3)),
    Case("llama2-7b", "nl4", 2048 * MIB, 4.0, (24, 3)),  # 4 bits too, with smaller scales: less to read
)


@dataclass(frozen=True)
class Ours:
    """One capped run of n730-exec, and the disk's limit measured before and after it (bytes/s)."""

    figures: dict[str, Any]  # of bench --json
    capped: Capped
    raw: float

    @property
    def share(self) -> float:
        """Of the disk's limit, while decoding."""
        return float(self.figures["disk_bytes_per_s"]) / self.raw


def last_json(text: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(text[text.index("{") :])
    return result


def bench_ours(path: Path, cap: int, args: argparse.Namespace, tokens: int, target: Target) -> Ours:
    """Raw, ours, raw: the two raw figures frame what the disk gave meanwhile; the better one is the limit."""

    def limit() -> float:
        raw = raw_bandwidth(path.parent, path, target.disk_read_bytes, target.disk_reads_in_flight, RAW_SECONDS)
        return min(raw, args.disk_limit or raw)  # a slowed disk lets a first burst pass, which so short a look counts

    command = [str(find_runtime()), "bench", str(path), "--trust", "--json", "--threads", str(args.threads)]
    command += ["--prompt-tokens", str(PROMPT), "--gen-tokens", str(tokens), "--ram", str(cap)]
    before = limit()
    drop_cache(path)
    capped = run_capped(command, cap)
    if capped.done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{capped.done.stderr[-2000:]}")
    return Ours(last_json(capped.done.stdout), capped, max(before, limit()))


def bench_peer(path: Path, python: str, cap: int, threads: int, tokens: int) -> dict[str, Any] | None:
    """The peer's figures, or None where it was killed for memory."""
    drop_cache(path)
    command = [python, str(HERE / "peer_llama_cpp.py"), "bench", str(path), str(threads), str(CONTEXT), str(tokens)]
    capped = run_capped(command, cap)
    if capped.done.returncode in (-9, 137):
        return None
    if capped.done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{capped.done.stderr[-2000:]}")
    return last_json(capped.done.stdout)


def median_of(runs: Sequence[dict[str, Any]], key: str) -> float:
    return float(statistics.median(float(run[key]) for run in runs))


def middle(runs: Sequence[Ours]) -> Ours:
    """The run whose speed is the median."""
    return sorted(runs, key=lambda run: float(run.figures["decode_tokens_per_s"]))[len(runs) // 2]


def mib(size: float) -> str:
    return f"{size / MIB:.0f}"


def versus(case: Case, ours: Path, peer: Path, args: argparse.Namespace, target: Target) -> str:
    """A row: ours and the peer's in turn under the same cap."""
    runs, theirs = [], []
    for _ in range(args.rounds):
        runs.append(bench_ours(ours, case.cap, args, case.tokens[0], target))
        theirs.append(bench_peer(peer, args.peer_python, case.cap, args.threads, case.tokens[1]))
        print(f"  {case.name}: {runs[-1].figures['decode_tokens_per_s']:.2f}, peer {theirs[-1]}", file=sys.stderr)
    here = middle(runs)
    speed = float(here.figures["decode_tokens_per_s"])
    alive = [run for run in theirs if run is not None]
    there = median_of(alive, "decode_tokens_per_s") if alive else 0.0
    there_read = median_of(alive, "disk_bytes_per_token") / MIB if alive else 0.0
    ratio = f"{speed / there:.1f} (≥ {case.ratio})" if there else "killed"
    return (
        f"| {case.shape} {case.precision} | {mib(ours.stat().st_size)} | {mib(case.cap)} | {speed:.2f} | {there:.2f} "
        f"| {ratio} | {here.figures['disk_bytes_per_s'] / 1e6:.0f} | {here.raw / 1e6:.0f} "
        f"| {100 * statistics.median(run.share for run in runs):.0f} | {here.figures.get('limit', '?')} "
        f"| {mib(here.figures['disk_bytes_per_token'])} | {there_read:.0f} |"
    )


def bench_resident(path: Path, threads: int, tokens: int) -> dict[str, Any]:
    """All weights in RAM, no cap."""
    command = [str(find_runtime()), "bench", str(path), "--trust", "--json", "--threads", str(threads)]
    command += ["--prompt-tokens", str(PROMPT), "--gen-tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return last_json(done.stdout)


def alone(case: Case, ours: Path, args: argparse.Namespace) -> str:
    """A row: predicted and measured speed with everything in RAM."""
    runs = [bench_resident(ours, args.threads, case.tokens[0]) for _ in range(args.rounds)]
    predicted, speed = median_of(runs, "predicted_decode_tokens_per_s"), median_of(runs, "decode_tokens_per_s")
    return f"| {case.shape} {case.precision} | {predicted:.2f} | {speed:.2f} | {100 * (speed / predicted - 1):+.0f} % |"


def by_budget(case: Case, ours: Path, args: argparse.Namespace, target: Target) -> list[str]:
    """Rows: a quarter, half, three quarters and all of the model's size, in turn with everything in RAM."""
    caps = [int(ours.stat().st_size * part) // 4096 * 4096 for part in QUARTERS]
    resident: list[dict[str, Any]] = []
    runs: list[list[Ours]] = [[] for _ in caps]
    for _ in range(args.rounds):
        resident.append(bench_resident(ours, args.threads, case.tokens[0]))
        for cap, done in zip(caps, runs, strict=True):
            done.append(bench_ours(ours, cap, args, case.tokens[0], target))
            print(f"  {case.name} in {mib(cap)} MiB: {done[-1].figures['decode_tokens_per_s']:.2f}", file=sys.stderr)
    full = median_of(resident, "decode_tokens_per_s")
    rows = []
    for part, cap, done in zip(QUARTERS, caps, runs, strict=True):
        figures = [run.figures for run in done]
        speed, predicted = (median_of(figures, k) for k in ("decode_tokens_per_s", "predicted_decode_tokens_per_s"))
        rows.append(
            f"| {case.shape} {case.precision} | {part:.0%} | {mib(cap)} | {predicted:.2f} | {speed:.2f} "
            f"| {100 * (speed / predicted - 1):+.0f} % | {100 * speed / full:.0f} % "
            f"| {100 * statistics.median(run.share for run in done):.0f} % "
            f"| {mib(max(f['peak_rss_bytes'] for f in figures))} | {mib(max(run.capped.peak_bytes for run in done))} "
            f"| {max(run.capped.met for run in done)} |"
        )
    return rows


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def busy_cores(seconds: float = 5.0) -> float:
    """How many cores are at work now, on average over ``seconds``."""

    def idle() -> float:
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")  # idle, waiting for a disk

    before, start = idle(), time.monotonic()
    time.sleep(seconds)
    return max(0.0, (os.cpu_count() or 1) - (idle() - before) / (time.monotonic() - start))


def probe(work: Path, threads: int) -> Path:
    """This PC's target file, measured now, on the disk where the packages lie."""
    file = work / "host.toml"
    subprocess.run([str(find_runtime()), "probe", "-o", str(file), "--disk", str(work)], check=True)
    if load_target(str(file)).cores != threads:
        raise SystemExit(f"run with --threads {load_target(str(file)).cores}: the plan counts on all cores")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of the environment that has llama-cpp-python; without: no peer")
    parser.add_argument("--cases", nargs="+", choices=[c.name for c in CASES], default=[c.name for c in CASES])
    parser.add_argument("--budgets", nargs="*", choices=[c.name for c in CASES], default=["tinyllama:int4"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--keep", action="store_true", help="use the packages and host.toml that are there")
    parser.add_argument("--disk-limit", type=int, metavar="BYTES_PER_S", help="read no faster, as a slower disk would")
    parser.add_argument("--out", type=Path, default=HERE / "results.md")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with slowed(args.work, args.disk_limit) if args.disk_limit else contextlib.nullcontext():
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Everything that was asked for, printed and written to ``--out``."""
    others = busy_cores()
    file = args.work / "host.toml"
    if not (args.keep and file.exists()):
        file = probe(args.work, args.threads)
    target = load_target(str(file))
    compared, budgets, in_ram = [], [], []
    for case in (c for c in CASES if c.name in {*args.cases, *args.budgets}):
        ours = args.work / f"{case.shape}-{case.precision}.n730"
        if not (args.keep and ours.exists()):
            ours = package(args.work, case.shape, case.precision, str(file))
        if not args.disk_limit:
            in_ram.append(alone(case, ours, args))
        if args.peer_python and case.name in args.cases:
            peer = gguf(args.work, case.shape, case.precision, args.peer_python)
            compared.append(versus(case, ours, peer, args, target))
        if case.name in args.budgets:
            budgets += by_budget(case, ours, args, target)
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu_name()}, {args.threads} threads, median of {args.rounds} runs "
        f"in turn; cores busy with other work before: {others:.1f}. Written by benchmarks/streaming/streaming.py. "
        "Sizes in MiB.",
        *(["", "**The machine was busy with other work: these figures say little.**"] if others > BUSY else []),
        "",
        f"Probed: disk {target.disk_bytes_per_s / 1e6:.0f} MB/s with {target.disk_read_bytes >> 10} KiB reads, "
        f"{target.disk_reads_in_flight} in flight; RAM {target.ram_bytes_per_s / 1e9:.1f} GB/s."
        + (f" The disk was slowed to {args.disk_limit / 1e6:.0f} MB/s for all." if args.disk_limit else ""),
    ]
    if in_ram:
        lines += [
            "",
            "Everything in RAM, no cap:",
            "",
            "| model | predicted tokens/s | tokens/s | off by |",
            "|---|---|---|---|",
            *in_ram,
        ]
    if compared:
        lines += [
            "",
            "Beside llama.cpp (mmap, not repacked) under the same cap, and the disk's own limit (O_DIRECT):",
            "",
            "| model | file | cap | tokens/s | llama.cpp | ratio (wanted) | MB/s read | disk's limit | % of it | limit "
            "| read a token | by llama.cpp |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *compared,
        ]
    if budgets:
        lines += [
            "",
            "By budget, as a part of the file's size (cap of the control group and --ram):",
            "",
            "| model | part | budget | predicted tokens/s | tokens/s | off by | of resident | of the disk | peak RSS "
            "| peak of the group | limit met |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *budgets,
        ]
    print("\n".join(lines))
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
