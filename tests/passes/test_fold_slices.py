"""Slices of linears become linears of fewer rows."""

from __future__ import annotations

import numpy as np
import pytest

from n730c.ir.core import Graph, Node, Op, Param
from n730c.ir.interpret import interpret
from n730c.ir.text import to_text
from n730c.ir.verify import verify
from n730c.ir.views import apply_view, stored_name
from n730c.passes.fold_slices import FoldSlices
from n730c.passes.lower import lower


def fused(keep_whole: bool) -> Graph:
    def cut(name: str, source: str, blocks: int, first: int, count: int) -> Node:
        attrs = (("blocks", blocks), ("first", first), ("count", count))
        return Node(name, Op.SLICE, (source,), (), attrs, blocks * count, 0)

    nodes = (
        Node("h", Op.EMBEDDING, ("ids",), (("weight", "embed"),), (), 4),
        Node("both", Op.LINEAR, ("h",), (("weight", "w"), ("bias", "b")), (), 12, 0),
        cut("q", "both", 2, 0, 4),
        cut("k", "q", 1, 2, 4),  # a slice of a slice
        cut("v", "both", 2, 4, 2),
        Node("s", Op.ADD, ("k", "v"), (), (), 4, 0),
        Node("t", Op.LINEAR, ("both" if keep_whole else "q",), (("weight", "c" if keep_whole else "d"),), (), 4, 0),
        Node("u", Op.ADD, ("s", "t"), (), (), 4, 0),
        Node("logits", Op.LINEAR, ("u",), (("weight", "embed"),), (), 5),
    )
    shapes = {"embed": (5, 4), "w": (12, 4), "b": (12,), ("c" if keep_whole else "d"): (4, 12 if keep_whole else 8)}
    return Graph("fused", 5, 8, tuple(Param(n, s) for n, s in shapes.items()), (), nodes, "logits")


@pytest.mark.parametrize("keep_whole", [False, True])
def test_slices_are_folded_and_mean_the_same(keep_whole: bool) -> None:
    graph = fused(keep_whole)
    verify(graph)
    folded = FoldSlices().run(graph)
    verify(folded)
    text = to_text(folded)
    assert "slice(" not in text and ("%both" in text) == keep_whole
    assert "weight=w|rows-2-0-4|rows-1-2-4" in text
    rng = np.random.default_rng(0)
    stored = {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in graph.params}
    before, after = (
        interpret(g, [1, 2, 3], lambda name: apply_view(name, stored[stored_name(name)])) for g in (graph, folded)
    )
    assert np.allclose(before, after, rtol=1e-5, atol=1e-6)
    assert FoldSlices().run(folded) == folded


def test_what_is_left_cannot_be_lowered() -> None:
    from n730c.errors import InvalidIR
    from n730c.passes.precision import assign_uniform

    with pytest.raises(InvalidIR, match="no lowering for op slice"):
        lower(fused(False), assign_uniform(fused(False), "fp16"))
