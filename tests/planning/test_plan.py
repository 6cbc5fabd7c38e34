"""Planner invariants on random models: nothing alive overlaps, budgets hold, the same input gives the same plan."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.artifacts import NONE, PAGE, Action, BufferKind, Program, Scope, StepOp, Tier
from n730c.dtypes import Format
from n730c.errors import BudgetExceeded
from n730c.ir.core import Graph
from n730c.passes.lower import SEGMENT_BYTES, lower
from n730c.passes.plan import lives, plan_resident, predict
from n730c.passes.precision import PRECISIONS, assign_uniform
from n730c.target import load_target
from tests.planning.graphs import llama_graph

GT730 = load_target("gt730")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    kv_heads = draw(st.integers(1, 4))
    return llama_graph(
        layers=draw(st.integers(1, 5)),
        hidden=draw(st.integers(1, 300)),
        heads=kv_heads * draw(st.integers(1, 4)),
        kv_heads=kv_heads,
        head_dim=8 * draw(st.integers(1, 8)),
        ffn=draw(st.integers(1, 500)),
        vocab=draw(st.integers(2, 1000)),
        tied=draw(st.booleans()),
        bias=draw(st.booleans()),
    )


def programs() -> st.SearchStrategy[Program]:
    return st.builds(lambda g, p: lower(g, assign_uniform(g, p)), graphs(), st.sampled_from(sorted(PRECISIONS)))


@settings(max_examples=40, deadline=None)
@given(programs(), st.integers(1, 300), st.integers(0, 100_000))
def test_nothing_alive_overlaps_and_all_lies_in_the_arena(program: Program, context: int, tokenizer: int) -> None:
    plan = plan_resident(program, GT730, tokenizer, context)
    spans = lives(program)
    fixed = [(p.offset, p.offset + s.size) for p, s in zip(plan.placements, program.segments, strict=True)]
    fixed.append((plan.tokenizer_offset, plan.tokenizer_offset + tokenizer))
    fixed += [(o, o + c.size(context)) for o, c in zip(plan.cache_offsets, program.caches, strict=True)]
    buffers = []
    for i, buffer in enumerate(program.buffers):
        tokens = plan.head_batch if buffer.scope is Scope.HEAD else plan.batch
        buffers.append((plan.buffer_offsets[i], plan.buffer_offsets[i] + tokens * buffer.token_bytes))
    everything = fixed + buffers
    assert all(0 <= low <= high <= plan.arena_bytes for low, high in everything)
    assert plan.arena_bytes % PAGE == 0 and plan.arena_bytes <= GT730.ram_bytes
    ordered = sorted(f for f in fixed if f[0] < f[1])
    assert all(a[1] <= b[0] for a, b in pairwise(ordered))
    floor = max(high for _, high in fixed)
    assert all(low >= floor for low, _ in buffers)
    for i in range(len(buffers)):
        for j in range(i):
            if spans[i].meets(spans[j]):
                assert buffers[i][1] <= buffers[j][0] or buffers[j][1] <= buffers[i][0], (i, j)


@settings(max_examples=25, deadline=None)
@given(programs())
def test_every_buffer_is_written_before_it_is_read(program: Program) -> None:
    written: set[int] = set()
    for i, step in enumerate(program.steps):
        assert set(step.inputs) <= written
        if step.out != NONE:
            written.add(step.out)
            expected = Scope.HEAD if i >= program.head_first else Scope.BODY
            assert program.buffers[step.out].scope is expected
        if step.op is StepOp.LINEAR:
            kind = BufferKind.Q8 if program.tensors[step.weight].format.is_integer else BufferKind.F32
            assert program.buffers[step.inputs[0]].kind is kind


@settings(max_examples=25, deadline=None)
@given(programs(), st.integers(1, 300))
def test_the_plan_is_pure_and_loads_each_segment_once(program: Program, context: int) -> None:
    plan = plan_resident(program, GT730, 1000, context)
    assert plan == plan_resident(program, GT730, 1000, context)
    loads = [e.a for e in plan.schedule if e.action is Action.LOAD]
    assert loads == list(range(len(program.segments)))
    assert sum(e.b for e in plan.schedule if e.action is Action.RUN) == len(program.steps)
    assert all(p.tier is Tier.RAM for p in plan.placements)
    assert sum(s.tensor_count for s in program.segments) == len(program.tensors)


def test_an_activation_is_quantized_once_for_all_its_readers() -> None:
    graph = llama_graph(layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=50, tied=False, bias=False)
    program = lower(graph, assign_uniform(graph, "int4"))
    sources = [s.inputs[0] for s in program.steps if s.op is StepOp.QUANTIZE]
    assert len(sources) == len(set(sources)) == 5  # norm, attention, norm, silu·mul, final norm


def test_embedding_and_head_keep_eight_bits() -> None:
    for tied in (True, False):
        graph = llama_graph(
            layers=1, hidden=64, heads=2, kv_heads=1, head_dim=32, ffn=96, vocab=50, tied=tied, bias=True
        )
        program = lower(graph, assign_uniform(graph, "int2"))
        formats = {t.name: t.format for t in program.tensors}
        assert formats["embed"] is Format.INT8
        assert tied or formats["logits.weight"] is Format.INT8
        assert formats["q0.weight"] is Format.INT2
        assert formats["q0.bias"] is formats["n0.weight"] is Format.F32


def test_segments_are_cut_at_layers_and_at_the_size_limit() -> None:
    graph = llama_graph(
        layers=2, hidden=2048, heads=16, kv_heads=4, head_dim=128, ffn=5632, vocab=32000, tied=False, bias=False
    )
    program = lower(graph, assign_uniform(graph, "int8"))
    for segment in program.segments:
        assert segment.size <= SEGMENT_BYTES or segment.tensor_count == 1
        names = [t.name for t in program.tensors[segment.first_tensor : segment.first_tensor + segment.tensor_count]]
        assert len({name.split(".")[0][-1] for name in names if name.split(".")[0][1:].isdigit()}) <= 1


def test_a_budget_too_small_names_what_is_needed() -> None:
    graph = llama_graph(
        layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=1000, tied=True, bias=False
    )
    program = lower(graph, assign_uniform(graph, "int8"))
    with pytest.raises(
        BudgetExceeded, match=r"does not fit .*expected at most 1 MiB, found \d+ MiB: .*weights.*KV cache"
    ):
        plan_resident(program, GT730, 0, 256, ram_bytes=1 << 20)


def test_prediction_follows_bytes_over_bandwidth() -> None:
    """A large model on gt730 is bound by RAM: its decode speed is within 5 % of bandwidth over bytes."""
    graph = llama_graph(
        layers=8, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=11008, vocab=32000, tied=False, bias=False
    )
    for precision in ("int4", "int8", "fp16"):
        program = lower(graph, assign_uniform(graph, precision))
        prediction = predict(program, GT730, context=16, batch=64)
        limit = GT730.ram_bytes_per_s / prediction.bytes_per_token
        assert 0.95 * limit < prediction.decode_tokens_per_s <= limit
