"""What a mixed-precision build of a real model's shape costs: minutes, processor seconds and peak memory.

    python benchmarks/quality/cost.py [--work build/benchmarks] [--only tinyllama …] [--out benchmarks/quality/cost.md]

Random weights: neither time nor memory depends on their values. ``tinyllama`` is built whole; of ``llama2-7b`` and of
``tinyllama-4`` the first four layers, with embedding and head: the peak must be that of the whole, and the time of a
layer is what the whole is extrapolated from. The models are made by benchmarks/streaming/models.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.streaming.models import SHAPES, checkpoint  # noqa: E402

FEW = 4  # layers
SUBJECTS = {"tinyllama": ("tinyllama", None), "tinyllama-4": ("tinyllama", FEW), "llama2-7b-4": ("llama2-7b", FEW)}
LIMITS = {"tinyllama": (3.0, 15.0), "llama2-7b-4": (6.0, None)}  # GiB, minutes


@dataclass(frozen=True)
class Cost:
    """One build. ``stages``: seconds by name."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    file_bytes: int
    stages: dict[str, float]


def first_layers(whole: Path, folder: Path, count: int) -> Path:
    """A folder with the first ``count`` layers of a model; the shards are linked, not copied."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((whole / "config.json").read_text()) | {"num_hidden_layers": count}
    (folder / "config.json").write_text(json.dumps(config))
    index = json.loads((whole / "model.safetensors.index.json").read_text())
    weights = {}
    for name, shard in index["weight_map"].items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None or int(layer[1]) < count:
            weights[name] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    for shard in {*weights.values(), "tokenizer.json", "tokenizer_config.json"}:
        link = folder / shard
        link.unlink(missing_ok=True)
        link.symlink_to((whole / shard).resolve())
    return folder


def build(model: Path, tokens: int, scratch: Path) -> Cost:
    """Build with an empty cache, and measure the process with what it starts."""
    output = scratch / "model.n730"
    command = [sys.executable, "-m", "n730c", "build", str(model), "--target", "gt730", "--no-tune"]
    command += ["--context", "256", "--calibration-tokens", str(tokens), "-o", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "N730C_CACHE": str(scratch / "cache")}
    log = scratch / "log"
    began = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    if status:
        raise SystemExit(f"{' '.join(command)}:\n{log.read_text()[-2000:]}")
    found = re.findall(r"^n730c: ([a-z ]+): (?:.*, )?([0-9.]+) s$", log.read_text(), re.MULTILINE)
    stages = {name: float(seconds) for name, seconds in found}
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output.stat().st_size, stages)


def describe(name: str, cost: Cost) -> list[str]:
    """Rows of the table, and the extrapolation of what was built in part."""
    shape, layers = SUBJECTS[name]
    most, minutes = LIMITS.get(name, (None, None))
    row = (
        f"| {shape}, {layers or SHAPES[shape].layers} layers | {cost.wall_s / 60:.1f} | {cost.cpu_s:.0f} "
        f"| {cost.peak_bytes / 2**30:.2f} | {minutes or '–'} | {most or '–'} "
        f"| {', '.join(f'{stage} {seconds:.0f}' for stage, seconds in cost.stages.items())} |"
    )
    return [row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--models", type=Path, help="folder with the models, if not the one to work in")
    parser.add_argument("--only", nargs="+", choices=tuple(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [
        f"Mixed precision at its default budget, {args.tokens} calibration tokens, {os.cpu_count()} cores "
        f"(load {os.getloadavg()[1]:.1f} before). Written by `cost.py`.",
        "",
        "| shape | minutes | processor s | peak GiB | at most minutes | at most GiB | seconds by stage |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in args.only:
        shape, layers = SUBJECTS[name]
        model = checkpoint(args.models or args.work, shape)
        scratch = Path(tempfile.mkdtemp(prefix="cost-", dir=args.work))
        try:
            if layers is not None:
                model = first_layers(model, scratch / "model", layers)
            lines += describe(name, build(model, args.tokens, scratch))
        finally:
            shutil.rmtree(scratch)
        print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
