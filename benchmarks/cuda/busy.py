"""How busy both sides are when rows are split between the CPU and a card, shown on the stand-in for its driver.

    python -m benchmarks.cuda.busy [--target gt730-gddr5] [--threads N]

The CPU is this machine's, at work for real; the card is the target's, and takes the time that the planner's model gives
each kernel and copy: on a clock, computing nothing, so that it costs this machine nothing. What is shown is that the
schedule keeps both at work, driver calls and waiting included; not what a card computes in that time. The planner is
told how fast this CPU is, which runs without and with the card measure first. Then a prompt on a card that holds
little: with rows brought to it for each batch, and without. Needs quiet cores, one more than ``--threads``.
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
from typing import Any

from n730c.artifacts import Action, Plan, StepOp
from n730c.codegen import cuda
from n730c.dtypes import TILE_ROWS, Format, matrix_bytes
from n730c.passes.plan import Planner
from n730c.passes.ways import Choice
from n730c.runtime import find_runtime
from n730c.target import KernelRates, Target, load_target
from tests.cuda.standin import build_driver, image_of_twin
from tests.tiny_package import Shape, Tiny, tiny

SHAPE = Shape(
    Format.INT4, layers=4, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=11008, vocab=300, context=256, batch=64
)
TOKENS = 64
TUNING = 2  # runs after which the CPU's speed is taken anew
RUNS = 9  # the fastest of which counts: what else this machine does only adds to it
PROMPT = 192  # tokens, three batches
LITTLE = 160 << 20  # bytes of VRAM


def with_cpu(target: Target, threads: int, rate: float) -> Target:
    """The target's card beside this machine's CPU; ``rate``: weights a second of all threads, all else included."""
    rates = KernelRates(**dict.fromkeys(KernelRates.model_fields, rate / threads))
    return target.model_copy(update={"cores": threads, "kernel_rates": rates, "ram_bytes_per_s": 1e12})


def multiplied(toy: Tiny) -> int:
    """Weights that one token is multiplied with."""
    tensors = [toy.program.tensors[s.weight] for s in toy.program.steps if s.op is StepOp.LINEAR]
    return sum(t.rows * t.cols for t in tensors)


def of_card(toy: Tiny, plan: Plan) -> int:
    """Those of them that the plan gives to the card."""
    cards = [(toy.program.steps[e.a].weight, e.b) for e in plan.schedule if e.action is Action.CARD]
    return sum(tiles * TILE_ROWS * toy.program.tensors[weight].cols for weight, tiles in cards)


def times(toy: Tiny, target: Target) -> str:
    """What the card takes for each kernel and copy, as the planner counts (passes/card.py), for the stand-in."""
    assert target.gpu is not None
    lines = [f"{copy} {target.gpu.copy_s} {1 / target.pcie_bytes_per_s} 0" for copy in ("copy_up", "copy_down")]
    lines.append(f"call {target.gpu.launch_s} 0 0")
    for t in {toy.program.tensors[s.weight] for s in toy.program.steps if s.op is StepOp.LINEAR}:
        reading = matrix_bytes(t.format, TILE_ROWS, t.cols) / target.vram_bytes_per_s
        for columns in cuda.COLUMNS:
            rates = target.gpu.kernel_rates if columns == 1 else target.gpu.batch_rates
            computing = TILE_ROWS * t.cols / getattr(rates, t.format.name.lower())
            symbol = cuda.linear(t.format, t.rows, t.cols, columns).symbol
            lines.append(f"{symbol} {target.gpu.launch_s} {reading} {computing}")
    return "".join(line + "\n" for line in dict.fromkeys(lines))


class Bench:
    """The toy with its kernels and their twins; packages of it are made for one plan at a time."""

    def __init__(self, folder: Path, target: Target, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.toy = tiny(SHAPE)
        self._loading = 0.0
        build_driver(folder)
        self.toy = replace(self.toy, images=(image_of_twin(self.toy.program, folder, "-O0"),))  # which never runs
        (folder / "times").write_text(times(self.toy, target))

    def planner(self, target: Target) -> Planner:
        steps = frozenset(range(len(self.toy.program.steps)))
        size = len(self.toy.tokenizer)
        return Planner(self.toy.program, target, size, SHAPE.context, SHAPE.batch, SHAPE.head_batch, steps)

    def load(self, plan: Plan) -> None:
        """From now on it is this plan that runs."""
        replace(self.toy, plans=(plan,)).write(self.folder / "busy.n730")
        self._loading = self._bench(1)[2]

    def run(self) -> tuple[float, float, float]:
        """Seconds a token; of it those in which the CPU waits for the card, and those in which the card is at work."""
        seconds, waited, busy = self._bench(1 + TOKENS)
        return seconds, waited, (busy - self._loading) / TOKENS

    def prompt(self) -> float:
        """Tokens a second."""
        speeds = (self._facts(PROMPT, 1)[0]["prefill_tokens_per_s"] for _ in range(RUNS))
        return float(max(speeds))

    def _bench(self, tokens: int) -> tuple[float, float, float]:
        """Of a token: seconds, and those of waiting; of the whole run: those in which the card was at work."""
        facts, busy = self._facts(1, tokens)
        return 1 / facts["decode_tokens_per_s"], facts["card_wait_seconds"] / facts["gen_tokens"], busy

    def _facts(self, prompt: int, tokens: int) -> tuple[dict[str, Any], float]:
        """What ``bench`` says, and the seconds in which the card was at work."""
        where = {"LD_LIBRARY_PATH": str(self.folder), "N730_CUDA_TWINS": str(self.folder), "N730_CUDA_REPORT": "1"}
        command = [str(find_runtime()), "bench", str(self.folder / "busy.n730"), "--json", "--trust"]
        command += ["--threads", str(self.threads), "--prompt-tokens", str(prompt)]
        command += ["--gen-tokens", str(tokens)]
        environment = os.environ | where | {"N730_CUDA_TIMES": str(self.folder / "times")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found = re.search(r"busy for ([\d.]+) s", done.stderr)
        return json.loads(done.stdout), float(found[1]) if found else 0.0


def split(planner: Planner) -> Choice:
    return next(choice for choice in planner.card_choices if choice.device == "split")


def without_crossing(plan: Plan, vram_bytes: int) -> Plan:
    """The plan with nothing brought to the card for batches."""
    events = [replace(e, c=0) if e.action is Action.CARD else e for e in plan.schedule]
    kept = tuple(e for e in events if e.action is not Action.CARD or e.b)
    return replace(plan, schedule=kept, card_batch=0, vram_bytes=vram_bytes)


def prompts(bench: Bench, target: Target, threads: int) -> None:
    """Prompts on a card with little memory."""
    bench.load(bench.planner(target).plan(bench.planner(target).resident))
    alone = bench.prompt()
    little = with_cpu(target, threads, alone * multiplied(bench.toy)).model_copy(update={"vram_bytes": LITTLE})
    planner = bench.planner(little)
    choice = split(planner)
    plan = planner.plan(choice)
    assert choice.card is not None
    bench.load(without_crossing(plan, choice.card.vram_bytes))
    resident = bench.prompt()
    bench.load(plan)
    brought = bench.prompt()
    planned = SHAPE.batch / planner.timeline(choice, SHAPE.batch).period
    print(
        f"{target.name} with {LITTLE >> 20} MiB, {threads} thread(s), a prompt of {PROMPT} tokens: CPU alone "
        f"{alone:.0f} tokens/s; with what the card holds {resident:.0f} (planned {planned:.0f}); with what it is "
        f"brought {brought:.0f} (planned {plan.prefill_tokens_per_s:.0f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="gt730-gddr5")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    target = load_target(given.target)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), target, given.threads)
        planner = bench.planner(target)
        bench.load(planner.plan(planner.resident))
        alone = min(bench.run()[0] for _ in range(RUNS))
        rate = multiplied(bench.toy) / alone
        for turn in range(1 + TUNING):
            planner = bench.planner(with_cpu(target, given.threads, rate))
            choice = split(planner)
            assert choice.card is not None and planner.card is not None
            plan = planner.plan(choice)
            bench.load(plan)
            seconds, waited, busy = min(bench.run() for _ in range(RUNS))
            cpu, card = planner.card.busy(choice.card)
            predicted = 1 / plan.decode_tokens_per_s
            share = of_card(bench.toy, plan) / multiplied(bench.toy)
            print(
                f"{target.name}, {given.threads} thread(s), turn {turn + 1}: the card has {share:.1%} of the weights; "
                f"{seconds * 1e3:.2f} ms a token (planned {predicted * 1e3:.2f}, CPU alone {alone * 1e3:.2f}); "
                f"CPU busy {1 - waited / seconds:.1%} (planned {cpu:.1%}), "
                f"card {busy / seconds:.1%} (planned {card:.1%})",
                flush=True,
            )
            rate *= predicted * cpu / (seconds - waited)  # what the CPU did took so much longer or shorter
        prompts(bench, target, given.threads)


if __name__ == "__main__":
    main()
