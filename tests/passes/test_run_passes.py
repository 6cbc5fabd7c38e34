"""The runner verifies centrally, names the pass at fault, and dumps what it is asked to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from n730c.errors import InvalidIR
from n730c.ir.core import Graph
from n730c.ir.text import parse
from n730c.passes import run_passes
from n730c.passes.fuse_silu_mul import FuseSiluMul
from tests.ir.graphs import every_op


@dataclass(frozen=True)
class LoseTheOutput:
    name: str = "lose_the_output"

    def run(self, graph: Graph) -> Graph:
        return replace(graph, output="nix")


def test_dumps_read_back(tmp_path: Path) -> None:
    graph = run_passes(every_op(), [FuseSiluMul(), FuseSiluMul()], tmp_path / "new" / "dump")
    files = sorted((tmp_path / "new" / "dump").iterdir())
    assert [file.name for file in files] == ["00_traced.ir", "01_fuse_silu_mul.ir", "02_fuse_silu_mul.ir"]
    texts = [parse(file.read_text(encoding="utf-8")) for file in files]
    assert texts[0] == every_op()
    assert texts[1] == texts[2] == graph


def test_a_broken_graph_is_found_before_any_pass() -> None:
    with pytest.raises(InvalidIR, match=r"^context"):
        run_passes(replace(every_op(), context=0), [FuseSiluMul()])


def test_the_pass_that_breaks_the_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidIR, match=r"after pass lose_the_output: output .*found %nix"):
        run_passes(every_op(), [FuseSiluMul(), LoseTheOutput(), FuseSiluMul()], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
