"""Families of models on a stand-in for a graphics card: greedy texts beside the CPU's. Writes families.md.

    python -m benchmarks.cuda.families [--prompts 50] [--tokens 64] [--only NAME …]

The stand-in for the driver (tests/cuda/standin) computes with g++-built twins of the CUDA kernels: the runtime's own
code for cards, every launch and copy of it. First the demo model, with each matrix divided between CPU and card and
with all of it on the card; then, on the card, a small random-weight model of each family and a tenth of the texts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from n730c.families import FAMILIES
from tests.cuda.standin.runs import SHORT, Compared, build, build_family, compare, prompts_of, standin
from tests.cuda.test_build import QUICK_CARD
from tests.models import DEMO

RESULTS = Path(__file__).with_suffix(".md")
DEMO_NAME = "demo model"
PRECISIONS = ("int4", "fp16", "nl4", "int8", "int3")  # in turn
TITLE = """# Families of models on the stand-in for a card

Written by `python -m benchmarks.cuda.families`: greedy texts of {tokens} tokens, computed by g++-built twins of the
CUDA kernels through the runtime's own code for cards, against those of the CPU alone. VRAM: the most that was taken,
which is never above what the plan says.

| model | precision | computed by | texts equal | VRAM |
|---|---|---|---|---|
"""


def row(name: str, precision: str, by: str, found: Compared) -> str:
    return f"| {name} | {precision} | {by} | {found.equal} of {found.given} | {found.vram_bytes / 2**20:.1f} MiB |"


def demo_rows(prompts: int, tokens: int, folder: Path) -> Iterator[str]:
    target, package = folder / "quick.toml", folder / "demo.n730"
    target.write_text(QUICK_CARD)
    some = prompts_of(prompts)
    build(DEMO, str(target), "int8", package, "--vram", "4M", "--context", "128")
    yield row(DEMO_NAME, "int8", "CPU and card", compare(package, some, tokens))
    build(DEMO, "gt730", "int4", package, "--vram", "0", "--context", "128")
    yield row(DEMO_NAME, "int4", "card", compare(package, some, tokens))


def family_row(number: int, prompts: int, tokens: int, folder: Path) -> str:
    family, precision = FAMILIES[number], PRECISIONS[number % len(PRECISIONS)]
    package = build_family(family, precision, folder)
    some = prompts_of(prompts, SHORT - tokens) if family.depends_on_context else prompts_of(prompts)
    return row(family.name, precision, "card", compare(package, some, tokens))


def record(line: str, tokens: int) -> None:
    """Put a row into families.md, where the others stay."""
    old = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {tuple(known.split(" | ")[:3]): known for known in old if known.startswith("| ")} | {
        tuple(line.split(" | ")[:3]): line
    }
    order = [DEMO_NAME, *(family.name for family in FAMILIES)]
    kept = [known for name in order for known in rows.values() if known.startswith(f"| {name} |")]
    RESULTS.write_text(TITLE.format(tokens=tokens) + "\n".join(kept) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=50, help="greedy texts of the demo model")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each")
    parser.add_argument("--only", nargs="*", help="names of families; the rows of others stay")
    chosen = parser.parse_args()
    torch.set_num_threads(1)

    def add(line: str) -> None:
        print(line, flush=True)
        record(line, chosen.tokens)

    with tempfile.TemporaryDirectory() as twins, standin(Path(twins)):
        if not chosen.only or DEMO_NAME in chosen.only:
            for line in demo_rows(chosen.prompts, chosen.tokens, Path(twins)):
                add(line)
        for number, family in enumerate(FAMILIES):
            if not chosen.only or family.name in chosen.only:
                with tempfile.TemporaryDirectory() as folder:
                    add(family_row(number, max(1, chosen.prompts // 10), chosen.tokens, Path(folder)))


if __name__ == "__main__":
    main()
