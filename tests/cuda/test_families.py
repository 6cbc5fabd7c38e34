"""Families of models on the stand-in driver: greedy texts are the CPU's. All of them: benchmarks/cuda/families.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from n730c.families import FAMILIES
from tests.cuda.standin.runs import build_family, compare, prompts_of, standin

# Softcaps, windows, GELU, norms of all kinds; RoPE of a part of each head by pairs; experts beside a shared one.
FEW = {"Gemma 2": "fp16", "GLM-4 9B": "nl4", "Qwen2-MoE": "int8"}


@pytest.fixture(scope="module", autouse=True)
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with standin(tmp_path_factory.mktemp("driver"), "-O0"):
        yield


@pytest.mark.parametrize("name", FEW)
def test_greedy_texts(name: str, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    found = compare(build_family(family, FEW[name], tmp_path), prompts_of(3)[1:], 6)
    assert found.equal == found.given == 2
