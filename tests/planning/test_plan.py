"""Planner invariants on random models: nothing alive overlaps, budgets hold, the same input gives the same plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.artifacts import (
    NONE,
    OVERHEAD,
    PAGE,
    Action,
    BufferKind,
    Plan,
    Program,
    Scope,
    StepOp,
    Tier,
    split_block_name,
)
from n730c.dtypes import Format, round_up
from n730c.errors import BudgetExceeded, UnsupportedModel
from n730c.ir.core import Graph
from n730c.package import write_package
from n730c.passes.cost import READING_SHARE
from n730c.passes.lower import SEGMENT_BYTES, lower
from n730c.passes.plan import Planner
from n730c.passes.precision import PRECISIONS, assign_uniform
from n730c.target import Target, load_target
from tests.planning.graphs import llama_graph
from tests.tiny_package import tiny_tokenizer

GT730 = load_target("gt730")
SMALL = llama_graph(layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=1000, tied=True, bias=False)


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
        window=draw(st.sampled_from((1, 20, 100, 2048))),
        experts=draw(st.sampled_from((0, 0, 2, 5))),
    )


def programs() -> st.SearchStrategy[Program]:
    """Programs with anything from one segment a layer to many blocks of a matrix."""
    return st.builds(
        lambda g, p, size: lower(g, assign_uniform(g, p), segment_bytes=size),
        graphs(),
        st.sampled_from(sorted(PRECISIONS)),
        st.sampled_from((4 << 10, 16 << 10, 64 << 10, SEGMENT_BYTES)),
    )


def targets() -> st.SearchStrategy[Target]:
    """Disks from a slow one that seeks to one that is nearly as fast as RAM."""
    return st.builds(
        lambda speed, seek: GT730.model_copy(update={"disk_bytes_per_s": speed, "disk_seek_s": seek}),
        st.floats(1e6, 1e10),
        st.sampled_from((0.0, 1e-4, 1e-2)),
    )


def check(planner: Planner, plans: Sequence[Plan], folder: Path) -> None:
    """The plans keep all rules of FORMAT.md: the validator, which knows nothing of the planner, takes them."""
    program = planner.program
    write_package(
        folder / "p.n730", program, plans, (), lambda i: bytes(program.tensors[i].size), tiny_tokenizer(program.vocab),
        b"", {},
    )  # fmt: skip


def planner_of(program: Program, context: int, target: Target = GT730, batch: int = 64) -> Planner:
    return Planner(program, target, len(tiny_tokenizer(program.vocab)), context, batch)


@settings(max_examples=30, deadline=None)
@given(programs(), st.integers(1, 300), st.integers(1, 70))
def test_every_plan_of_a_ladder_keeps_the_rules_of_the_format(program: Program, context: int, batch: int) -> None:
    planner = planner_of(program, context, batch=batch)
    with TemporaryDirectory() as folder:
        check(planner, planner.plans(GT730.ram_bytes), Path(folder))


@settings(max_examples=30, deadline=None)
@given(programs(), st.lists(st.floats(0, 1.2), min_size=2, max_size=5), targets())
def test_more_memory_is_never_slower_and_no_budget_is_passed(
    program: Program, shares: list[float], target: Target
) -> None:
    planner = planner_of(program, 64, target)
    least, most = planner.least_arena, planner.arena_bytes(planner.resident)
    budgets = sorted(OVERHEAD + round_up(round(least + share * (most - least)), PAGE) for share in shares)
    before = 0.0
    for budget in budgets:
        plan = planner.plans(budget)[0]
        assert plan.ram_bytes <= budget
        assert plan.decode_tokens_per_s >= before * (1 - 1e-8)
        before = plan.decode_tokens_per_s
    assert planner_of(program, 64, target).plans(budgets[0]) == planner.plans(budgets[0])
    speeds = [p.decode_tokens_per_s for p in planner.plans(budgets[-1])]
    assert all(slower <= faster * (1 + 1e-8) for faster, slower in pairwise(speeds))


@settings(max_examples=30, deadline=None)
@given(programs(), st.floats(0, 1), st.randoms(use_true_random=False))
def test_whatever_the_timing_a_step_finds_its_weights(program: Program, share: float, random: Random) -> None:
    """Reader and processor take turns at random, within the rules of the schedule; three passes."""
    planner = planner_of(program, 16)
    least, most = planner.least_arena, planner.arena_bytes(planner.resident)
    choice = planner.best(round(least + share * (most - least)))
    assert choice is not None
    plan = planner.plan(choice)
    reads = [(e.a, e.b) for e in plan.schedule if e.action is Action.READ]
    runs = [e for e in plan.schedule if e.action in (Action.RUN, Action.WAIT)]
    owner: dict[int, tuple[int, int]] = {}  # page of the arena → pass and segment that it holds
    tensors = [i for i, s in enumerate(program.segments) for _ in range(s.tensor_count)]
    uses = planner.weights.uses
    read = released = 0  # counted through the passes
    for turn in range(3):
        for event in runs:
            for step in range(event.a, event.a + event.b) if event.action is Action.RUN else (None,):
                while read < 3 * len(reads) and read - reads[read % len(reads)][1] < released:
                    needed = step is None and owner.get(_page(plan, event.a)) != (turn, event.a)
                    if not needed and random.random() < 0.5:
                        break
                    segment = reads[read % len(reads)][0]
                    for page in range(program.segments[segment].size // PAGE):
                        owner[_page(plan, segment) + page] = (read // len(reads), segment)
                    read += 1
                if step is None:
                    assert owner[_page(plan, event.a)] == (turn, event.a), "the processor waits for ever"
                    continue
                for tensor in (program.steps[step].weight, program.steps[step].bias):
                    if tensor != NONE and tensors[tensor] in choice.streamed:
                        segment = tensors[tensor]
                        pages = range(program.segments[segment].size // PAGE)
                        assert all(owner[_page(plan, segment) + page] == (turn, segment) for page in pages)
                released = turn * len(reads) + sum(uses[segment][1] <= step for segment, _ in reads)
    assert planner.resident == choice or released == 3 * len(reads)


def _page(plan: Plan, segment: int) -> int:
    return plan.placements[segment].offset // PAGE


def test_a_model_that_fits_is_resident() -> None:
    program = lower(SMALL, assign_uniform(SMALL, "int8"))
    plan = planner_of(program, 256).plans(1 << 30)[0]
    assert {p.tier for p in plan.placements} == {Tier.RAM}
    assert [e.a for e in plan.schedule if e.action is Action.LOAD] == list(range(len(program.segments)))
    assert plan.disk_bytes_per_token == 0


def test_streamed_segments_are_spread() -> None:
    """Half of the memory: no more than two neighbours are streamed in a row, and no more than two stay."""
    program = lower(SMALL, assign_uniform(SMALL, "int8"), segment_bytes=64 << 10)
    planner = planner_of(program, 16, GT730.model_copy(update={"disk_seek_s": 0.0}), batch=1)
    middle = (planner.least_arena + planner.arena_bytes(planner.resident)) // 2
    plan = planner.plans(middle + OVERHEAD)[0]
    tiers = "".join("S" if plan.placements[i].tier is Tier.STREAM else "-" for i in planner.weights.streamable)
    assert "SSS" not in tiers and "----" not in tiers and tiers.count("S") > 5


def test_a_disk_that_seeks_slowly_gets_longer_runs() -> None:
    program = lower(SMALL, assign_uniform(SMALL, "int8"), segment_bytes=64 << 10)
    slow = GT730.model_copy(update={"disk_seek_s": 0.011, "disk_bytes_per_s": 1e8})
    planner = planner_of(program, 16, slow, batch=1)
    middle = (planner.least_arena + planner.arena_bytes(planner.resident)) // 2 + OVERHEAD
    quick = planner_of(program, 16, slow.model_copy(update={"disk_seek_s": 0.0}), batch=1)

    def seeks(p: Planner) -> int:
        choice = p.best(middle - OVERHEAD)
        assert choice is not None
        return sum(i - 1 not in choice.streamed for i in choice.streamed)

    assert seeks(planner) < seeks(quick)


def test_an_embedding_of_its_own_is_read_by_rows_when_memory_is_short() -> None:
    graph = llama_graph(
        layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=8000, tied=False, bias=False
    )
    program = lower(graph, assign_uniform(graph, "int8"))
    planner = planner_of(program, 64)
    plans = planner.plans(planner.arena_bytes(planner.resident) + OVERHEAD)
    assert plans[0].placements[0].tier is Tier.RAM
    assert plans[1].placements[0].tier is Tier.ROWS
    tied = lower(SMALL, assign_uniform(SMALL, "int8"))
    assert planner_of(tied, 64).weights.row_segment is None  # the head needs all of it


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


def test_a_large_matrix_is_cut_into_blocks_of_rows() -> None:
    program = lower(SMALL, assign_uniform(SMALL, "int8"), segment_bytes=64 << 10)
    blocks = [t for t in program.tensors if t.name.startswith("g0.weight")]
    assert [t.name for t in blocks] == ["g0.weight[0:176]", "g0.weight[176:352]", "g0.weight[352:512]"]
    assert [split_block_name(t.name) for t in blocks][1] == ("g0.weight", slice(176, 352))
    steps = [s for s in program.steps if s.weight != NONE and program.tensors[s.weight] in blocks]
    assert [s.ints for s in steps] == [(0,), (176,), (352,)]
    assert len({s.out for s in steps}) == 1
    assert split_block_name("embed") == ("embed", slice(None))


def test_experts_go_before_what_every_token_needs() -> None:
    graph = llama_graph(
        layers=4, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=500, tied=True, bias=False, experts=8
    )
    program = lower(graph, assign_uniform(graph, "int8"))
    planner = planner_of(program, 64)
    assert len(planner.weights.experts) == 4 * 8 and set(planner.weights.experts.values()) == {2 / 8}
    assert not {*planner.weights.experts} & {*planner.weights.streamable}
    most, least = planner.arena_bytes(planner.resident), planner.least_arena
    experts = sum(program.segments[i].size for i in planner.weights.experts)
    places = []
    for share in (1.0, 0.8, 0.5, 0.2):
        choice = planner.best(round(most - (1 - share) * experts))
        assert choice is not None and not choice.streamed
        places.append(choice.experts)
        kept = 1 if choice.experts is None else choice.experts / 32
        assert planner.disk_bytes(choice) == pytest.approx((1 - kept) * experts * 2 / 8)
    assert places[0] is None and places[1:] == sorted(places[1:], reverse=True) and places[1] > places[3] > 0
    tight = planner.best(least)
    assert tight is not None and tight.streamed and tight.experts == 1


def test_a_budget_too_small_names_what_is_needed() -> None:
    program = lower(SMALL, assign_uniform(SMALL, "int8"))
    with pytest.raises(
        BudgetExceeded, match=r"even streamed .*expected at least \d+\.\d MiB: .*weights.*KV cache.*found 1\.0 MiB"
    ):
        planner_of(program, 256).plans(1 << 20)


def test_prediction_follows_bytes_over_bandwidth() -> None:
    """A large model on gt730 is bound by RAM: its decode speed is within 5 % of bandwidth over bytes."""
    graph = llama_graph(
        layers=8, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=11008, vocab=32000, tied=False, bias=False
    )
    for precision in ("int4", "int8", "fp16"):
        program = lower(graph, assign_uniform(graph, precision))
        planner = planner_of(program, 16)
        linear = {s.weight for s in program.steps if s.op is StepOp.LINEAR}
        limit = READING_SHARE * GT730.ram_bytes_per_s / sum(program.tensors[i].size for i in linear)
        predicted = planner.plan(planner.resident).decode_tokens_per_s
        assert 0.95 * limit < predicted <= limit


def test_what_a_prompt_token_attends_to_is_counted() -> None:
    """With eight times the context every token of a batch meets as many more keys and values, in every layer."""
    program = lower(SMALL, assign_uniform(SMALL, "int4"))
    planners = [planner_of(program, context) for context in (512, 4096)]
    near, far = (planner.plan(planner.resident) for planner in planners)
    more = 4 * 2 * (4096 - 512) / 2 * (4 * 64) / (GT730.kernel_rates.bf16 * GT730.cores)
    assert 1 / far.prefill_tokens_per_s - 1 / near.prefill_tokens_per_s == pytest.approx(more, rel=0.01)


def test_heads_that_no_kernel_takes_are_refused_before_anything_is_made() -> None:
    graph = llama_graph(layers=1, hidden=60, heads=3, kv_heads=3, head_dim=20, ffn=64, vocab=100, tied=True, bias=False)
    with pytest.raises(UnsupportedModel, match=r"heads \(expected a multiple of 8, at most 1024, found 20\)"):
        lower(graph, assign_uniform(graph, "int8"))
