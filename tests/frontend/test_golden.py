"""The IR's text after tracing and after each pass, as it should look: read these files to see what the IR is.

``N730C_WRITE_GOLDEN=1 pytest tests/frontend/test_golden.py`` writes them anew; read the difference before keeping it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from n730c.frontend.layers import assemble
from n730c.frontend.trace import trace
from n730c.ir.text import parse
from n730c.passes import run_passes
from n730c.passes.fuse_silu_mul import FuseSiluMul
from tests.frontend.conftest import CONFIGS

GOLDEN = Path(__file__).parents[1] / "golden"


def without_tables(text: str) -> list[str]:
    """The lines but for tables of numbers: the last bit of torch's pow is not the same on every CPU."""
    return [line for line in text.splitlines() if not line.startswith("const ")]


@pytest.mark.parametrize("kind", ["llama31", "qwen2"])
def test_text(kind: str, tmp_path: Path) -> None:
    graph = assemble(kind, trace(CONFIGS[kind]().to_dict()), lambda name: name)
    run_passes(graph, [FuseSiluMul()], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    for file in sorted(tmp_path.iterdir()):
        golden = GOLDEN / f"{kind}.{file.name}"
        found = file.read_text(encoding="utf-8")
        if os.environ.get("N730C_WRITE_GOLDEN"):
            golden.write_text(found, encoding="utf-8")
        expected = golden.read_text(encoding="utf-8")
        assert without_tables(found) == without_tables(expected), f"{golden} differs"
        for mine, theirs in zip(parse(found).consts, parse(expected).consts, strict=True):
            assert mine.name == theirs.name
            assert np.allclose(mine.values, theirs.values, rtol=1e-6, atol=0)
