"""Whole builds, made once a session and shared by the tests that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from n730c.cli import run
from n730c.dtypes import Format
from tests.models import DEMO, make_model
from tests.tiny_package import Shape, tiny, tiny_plan

Built = Callable[..., Path]  # (model kind, precision, further options of `n730c build`)


def n730c(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the compiler as a user does, from the command line."""
    root = Path(__file__).parent.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "n730c", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def n730_exec(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    from n730c.runtime import find_runtime

    return subprocess.run([str(find_runtime()), *map(str, arguments)], capture_output=True, check=False)


def generate(package: Path, ids: Sequence[int], count: int, folder: Path, *options: str) -> list[int]:
    """Greedy continuation of ``ids`` by the runtime, as token ids."""
    file = folder / "prompt.ids"
    file.write_text(" ".join(map(str, ids)))
    done = n730_exec(package, "--tokens", file, "-n", str(count), "--temperature", "0", "--ids", *options)
    assert done.returncode == 0, done.stderr.decode()
    return [int(token) for token in done.stdout.split()]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model folders by kind: ``demo`` or a key of tests.models.CONFIGS."""
    made: dict[str, Path] = {"demo": DEMO}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_model(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return get


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, models: Callable[[str], Path]) -> Built:
    """Packages by model kind, precision and further options."""
    packages: dict[tuple[str, ...], Path] = {}
    folder = tmp_path_factory.mktemp("packages")

    def get(kind: str, precision: str, *options: str) -> Path:
        key = (kind, precision, *options)
        if key not in packages:
            path = folder / f"{'-'.join(key)}.n730"
            choices = ("--target", "gt730", "--precision", precision, *options)
            # In this process: torch takes seconds to load, and most tests have it loaded already.
            run(list(map(str, ("build", models(kind), *choices, "-o", path, "--no-tune"))))
            packages[key] = path
        return packages[key]

    return get


@pytest.fixture(scope="session")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy with several plans over one copy of the weights: all in RAM, and ring after smaller ring."""
    shape = Shape(Format.INT4, layers=5, hidden=192, head_dim=32, ffn=700, vocab=6000, slots=1, rows=True)
    toy = tiny(shape)
    shapes = [replace(shape, slots=0, rows=False), *(replace(shape, slots=n, rows=n < 4) for n in (4, 2, 1))]
    plans = tuple(tiny_plan(toy.program, shape.context, each, len(toy.tokenizer)) for each in shapes)
    return replace(toy, plans=plans).write(tmp_path_factory.mktemp("streamed") / "streamed.n730")


@pytest.fixture(scope="session")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids for it, more than one window of its context."""
    file = tmp_path_factory.mktemp("ids") / "ids.txt"
    file.write_text(" ".join(str(i * i * 37 % 6000) for i in range(90)))
    return file


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """faults.c as a library to preload."""
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
