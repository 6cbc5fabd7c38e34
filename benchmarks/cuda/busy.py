"""How busy both sides are when rows are split between the CPU and the stand-in for a graphics card.

    python -m benchmarks.cuda.busy

The stand-in's kernels are fibers on a core of this machine, thousands of times slower than a card, so its share of the
rows is small; but it runs beside the CPU as a card does, and the planner is told its real numbers, which a first run
measures: what is shown is that the schedule keeps both sides at work, not how fast a card is. Needs two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from n730c.artifacts import Action, GpuArch, Plan, StepOp
from n730c.codegen import build_gpu_images, cuda
from n730c.codegen.gpu import kernels_of
from n730c.dtypes import TILE_ROWS, Format
from n730c.passes.plan import Planner
from n730c.runtime import find_runtime
from n730c.target import KernelRates, Target, load_target
from tests.cuda.standin import build_driver, build_twin
from tests.tiny_package import Shape, Tiny, tiny

SHAPE = Shape(
    Format.INT4, layers=2, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=11008, vocab=300, context=256, batch=8
)
TOKENS = 12


def same(rate: float) -> KernelRates:
    return KernelRates(**dict.fromkeys(KernelRates.model_fields, rate))


CALL = 1e-9  # seconds: what calls cost counts as part of the kernels' rate, or so slow a card would never pay


def measured(target: Target, cpu_rate: float, card_rate: float) -> Target:
    """One core whose rate counts all that decoding takes, and a card of which only its kernels' rate counts."""
    assert target.gpu is not None
    gpu = target.gpu.model_copy(
        update={"kernel_rates": same(card_rate), "batch_rates": same(card_rate), "launch_s": CALL, "copy_s": CALL}
    )
    fast = {"ram_bytes_per_s": 1e12, "vram_bytes_per_s": 1e12, "pcie_bytes_per_s": 1e12}
    return target.model_copy(update={"cores": 1, "kernel_rates": same(cpu_rate), "gpu": gpu, **fast})


def weights(toy: Tiny, plan: Plan | None) -> int:
    """Weights that the plan gives to the card; None: all that are multiplied."""
    tensors = toy.program.tensors
    if plan is None:
        linears = [s for s in toy.program.steps if s.op is StepOp.LINEAR]
        return sum(tensors[s.weight].rows * tensors[s.weight].cols for s in linears)
    cards = [(e.a, e.b) for e in plan.schedule if e.action is Action.CARD]
    return sum(tiles * TILE_ROWS * tensors[toy.program.steps[i].weight].cols for i, tiles in cards)


class Bench:
    """The toy with its kernels and their twins; packages of it are made for one plan at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.toy = tiny(SHAPE)
        images = tuple(made.image for made in build_gpu_images(self.toy.program, (GpuArch.SM_35,)))
        kernels = kernels_of(self.toy.program)
        build_driver(folder)
        build_twin(cuda.source(kernels), [kernel.symbol for kernel in kernels], [i.code for i in images], folder)
        self.toy = replace(self.toy, images=images)

    def planner(self, target: Target) -> Planner:
        steps = frozenset(range(len(self.toy.program.steps)))
        size = len(self.toy.tokenizer)
        return Planner(self.toy.program, target, size, SHAPE.context, SHAPE.batch, SHAPE.head_batch, steps)

    def run(self, plan: Plan) -> tuple[float, float, float]:
        """Seconds a token; of it those in which the CPU waits for the card, and those in which the card is at work."""
        package = replace(self.toy, plans=(plan,)).write(self.folder / "busy.n730")
        where = {"LD_LIBRARY_PATH": str(self.folder), "N730_CUDA_TWINS": str(self.folder), "N730_CUDA_REPORT": "1"}
        command = [str(find_runtime()), "bench", str(package), "--json", "--trust", "--threads", "1"]
        command += ["--prompt-tokens", "1"]
        busy = []
        for tokens in (1, 1 + TOKENS):  # the difference leaves loading and the prompt out
            done = subprocess.run(
                [*command, "--gen-tokens", str(tokens)], capture_output=True, text=True, check=True,
                env=os.environ | where,
            )  # fmt: skip
            found = re.search(r"busy for ([\d.]+) s", done.stderr)
            busy.append(float(found[1]) if found else 0.0)
        facts = json.loads(done.stdout)
        waited = facts["card_wait_seconds"] / facts["gen_tokens"]
        return 1 / facts["decode_tokens_per_s"], waited, (busy[1] - busy[0]) / TOKENS


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    target = load_target("gt730-gddr5")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        planner = bench.planner(target)
        alone, _, _ = bench.run(planner.plan(planner.resident))
        cpu_rate = weights(bench.toy, None) / alone
        card_rate = cpu_rate / 300
        for turn in range(4):
            planner = bench.planner(measured(target, cpu_rate, card_rate))
            choice = next((c for c in planner.card_choices if c.device == "split"), None)
            if choice is None or choice.card is None or planner.card is None:
                print(f"the stand-in is too slow: CPU {cpu_rate:.3g}, stand-in {card_rate:.3g} weights/s")
                return
            plan = planner.plan(choice)
            seconds, waited, busy = bench.run(plan)
            cpu, card = planner.card.busy(choice.card)
            print(
                f"run {turn + 1}: card {weights(bench.toy, plan)} of {weights(bench.toy, None)} weights, "
                f"{seconds * 1e3:.1f} ms a token (CPU alone {alone * 1e3:.1f}); "
                f"CPU busy {1 - waited / seconds:.0%} (planned {cpu:.0%}), "
                f"card {busy / seconds:.0%} (planned {card:.0%})",
                flush=True,
            )
            card_rate = weights(bench.toy, plan) / max(busy, 1e-9)


if __name__ == "__main__":
    main()
