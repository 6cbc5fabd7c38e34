"""Greedy texts on the stand-in beside the CPU's: for tests/cuda/test_families.py and benchmarks/cuda/families.py."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from n730c import draft
from n730c.artifacts import Action
from n730c.cli import run
from n730c.families import Family
from n730c.package import read_package
from tests.cuda.standin import TwinsFor, build_driver
from tests.e2e.conftest import n730_exec
from tests.models import VOCAB, make_family

LENGTHS = (3, 12, 24, 40, 60)  # of prompts; families' windows are 24
SHORT = 96  # the longest context that every family takes whose RoPE depends on it


@contextmanager
def standin(folder: Path, level: str = "-O2") -> Iterator[None]:
    """Packages that are built have twins for kernels, and n730-exec finds the stand-in."""
    build_driver(folder)
    settings = {"LD_LIBRARY_PATH": str(folder), "N730_CUDA_TWINS": str(folder), "N730_CUDA_REPORT": "1"}
    before, real = dict(os.environ), draft.build_gpu_images
    os.environ.update(settings)
    draft.build_gpu_images = TwinsFor(folder, level)
    try:
        yield
    finally:
        draft.build_gpu_images = real
        os.environ.clear()
        os.environ.update(before)


def build(model: Path, target: str, precision: str, package: Path, *options: str) -> Path:
    choices = ("--target", target, "--precision", precision, "--no-tune", "--no-chat", "--gpu", "sm_35", *options)
    run(["build", str(model), *choices, "-o", str(package)])
    return package


def build_family(family: Family, precision: str, folder: Path) -> Path:
    """Without a plan for a card: the whole program runs there if ``--device cuda`` asks for it."""
    context = ["--context", str(SHORT)] if family.depends_on_context else []
    model = make_family(folder / "model", family)
    return build(model, "gt730", precision, folder / "p.n730", "--vram", "0", *context)


def prompts_of(count: int, most: int = max(LENGTHS)) -> list[list[int]]:
    """Random ids, of at most so many tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCAB, min(most, LENGTHS[i % len(LENGTHS)])).tolist() for i in range(count)]


def text(package: Path, ids: Sequence[int], tokens: int, *options: str) -> tuple[str, str]:
    """What is written greedily, as ids, and what was said."""
    prompt = package.with_suffix(".ids")
    prompt.write_text(" ".join(map(str, ids)))
    done = n730_exec(package, "--tokens", prompt, "-n", str(tokens), "--temperature", "0", "--ids", *options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


@dataclass(frozen=True)
class Compared:
    """Texts that are the CPU's, of how many, and the most VRAM that was taken."""

    equal: int
    given: int
    vram_bytes: int


def compare(package: Path, prompts: Sequence[Sequence[int]], tokens: int) -> Compared:
    """With the card as the first plan wants it, or for everything. More VRAM than planned is an AssertionError."""
    first = read_package(package).plans[0]
    planned = first.vram_bytes or first.arena_bytes + 4 * first.batch
    options = () if first.vram_bytes else ("--device", "cuda")
    split = any(event.action is Action.CARD for event in first.schedule)
    equal, most = 0, 0
    for prompt in prompts:
        alone, _ = text(package, prompt, tokens, "--device", "cpu")
        found, said = text(package, prompt, tokens, "--trust", *options)
        assert f"computing on {'the CPU and ' if split else ''}GeForce GT 730" in said, said
        assert alone.strip()
        equal += found == alone
        most = max(most, int(re.findall(r"at most (\d+) bytes of VRAM", said)[0]))
    assert most <= planned
    return Compared(equal, len(prompts), most)
