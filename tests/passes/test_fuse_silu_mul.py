"""silu · mul becomes silu_mul: where it may, with the same bits, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from n730c.ir.core import Graph, Node, Op, Param
from n730c.ir.interpret import interpret
from n730c.ir.verify import verify
from n730c.passes import run_passes
from n730c.passes.fuse_silu_mul import FuseSiluMul

WIDTH = 5


def graph(*nodes: Node, output: str) -> Graph:
    gate = Node("gate", Op.EMBEDDING, ("ids",), (("weight", "gate.weight"),), (), WIDTH)
    up = Node("up", Op.EMBEDDING, ("ids",), (("weight", "up.weight"),), (), WIDTH)
    params = (Param("gate.weight", (WIDTH, WIDTH)), Param("up.weight", (WIDTH, WIDTH)))
    whole = Graph("mlp", WIDTH, 8, params, (), (gate, up, *nodes), output)
    verify(whole)
    return whole


def node(name: str, op: Op, *inputs: str) -> Node:
    return Node(name, op, inputs, (), (), WIDTH, 3, "layers.3.mlp")


def weights(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(len(name)).standard_normal((WIDTH, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("operands", [("act", "up"), ("up", "act")])
def test_either_operand_may_be_the_silu(operands: tuple[str, str]) -> None:
    before = graph(node("act", Op.SILU, "gate"), node("out", Op.MUL, *operands), output="out")
    after = run_passes(before, [FuseSiluMul()])
    fused = replace(node("out", Op.SILU_MUL, "gate", "up"))
    assert after.nodes == (*before.nodes[:2], fused)
    ids = np.arange(WIDTH)
    assert np.array_equal(interpret(after, ids, weights), interpret(before, ids, weights))


@pytest.mark.parametrize(
    "before",
    [
        graph(node("act", Op.SILU, "gate"), node("m", Op.MUL, "act", "up"), node("o", Op.ADD, "m", "act"), output="o"),
        graph(node("act", Op.SILU, "gate"), node("m", Op.MUL, "act", "act"), output="m"),
        graph(node("act", Op.SILU, "gate"), node("m", Op.ADD, "act", "up"), output="m"),
        graph(node("act", Op.SILU, "gate"), node("m", Op.MUL, "gate", "up"), output="act"),
    ],
    ids=["two users", "squared", "added", "the output"],
)
def test_what_must_stay(before: Graph) -> None:
    assert FuseSiluMul().run(before) == before


def test_a_product_of_two_silus_fuses_one() -> None:
    nodes = (node("a", Op.SILU, "gate"), node("b", Op.SILU, "up"), node("out", Op.MUL, "a", "b"))
    before = graph(*nodes, output="out")
    after = run_passes(before, [FuseSiluMul()])
    assert [n.op for n in after.nodes[2:]] == [Op.SILU, Op.SILU_MUL]
    assert np.array_equal(interpret(after, [0, 4], weights), interpret(before, [0, 4], weights))
