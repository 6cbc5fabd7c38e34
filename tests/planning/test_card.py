"""The graphics card in the planner: its memory is never passed, more of it is never slower, both sides end together."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.artifacts import OVERHEAD, PAGE, Program, StepOp, Tier
from n730c.dtypes import round_up
from n730c.passes.card import CardModel
from n730c.passes.card_costs import LEAST_GAIN, CardUse
from n730c.passes.explain import explain_card
from n730c.passes.lower import lower
from n730c.passes.plan import Planner
from n730c.passes.precision import assign_uniform
from n730c.target import Target, load_target
from tests.planning.graphs import llama_graph
from tests.planning.test_plan import check, programs
from tests.tiny_package import Shape, tiny, tiny_tokenizer


def without_driver(name: str) -> Target:
    """A target whose card's driver takes no RAM: most programs here are smaller than a real one."""
    target = load_target(name)
    assert target.gpu is not None
    return target.model_copy(update={"gpu": target.gpu.model_copy(update={"driver_ram_bytes": 0})})


GDDR5, DDR3 = without_driver("gt730-gddr5"), without_driver("gt730-ddr3-64")
LARGE = llama_graph(
    layers=3, hidden=1536, heads=12, kv_heads=2, head_dim=128, ffn=8960, vocab=30000, tied=True, bias=True
)


def planner_of(program: Program, target: Target, tokenizer_bytes: int = 1 << 20) -> Planner:
    return Planner(program, target, tokenizer_bytes, 64, card_steps=frozenset(range(len(program.steps))))


def cards() -> st.SearchStrategy[Target]:
    """From cards that make sense to those whose calls cost nothing, so that tiny programs use them too."""
    gpu = GDDR5.gpu
    assert gpu is not None
    return st.builds(
        lambda speed, bus, call, driver: GDDR5.model_copy(
            update={
                "vram_bytes_per_s": speed,
                "pcie_bytes_per_s": bus,
                "gpu": gpu.model_copy(update={"launch_s": call, "copy_s": call, "driver_ram_bytes": driver}),
            }
        ),
        st.floats(1e9, 1e11),
        st.floats(1e8, 1e10),
        st.sampled_from((1e-9, 1e-7, 5e-6)),
        st.sampled_from((0, 20_000, 1 << 20)),
    )


@settings(max_examples=20, deadline=None)
@given(
    programs(), cards(), st.lists(st.integers(1, 400), min_size=2, max_size=4), st.sampled_from((0.0, 0.3, 0.7, 1.0))
)
def test_more_vram_is_never_slower_and_no_budget_is_passed(
    program: Program, target: Target, kilobytes: list[int], share: float
) -> None:
    """``share`` of the RAM between the least and that for everything: where it is short, the disk is read, too."""
    before = 0.0
    for size in sorted(kilobytes):
        planner = planner_of(program, target.model_copy(update={"vram_bytes": size << 10}))
        least = planner.least_arena
        arena = round(least + share * (planner.arena_bytes(planner.resident) - least))
        choice = planner.best(arena)
        assert choice is not None and planner.ram_taken(choice) <= arena
        plan = planner.plan(choice)
        assert plan.vram_bytes <= size << 10
        assert plan.decode_tokens_per_s >= before * (1 - 1e-8)
        before = plan.decode_tokens_per_s
        assert planner_of(program, planner.target).best(arena) == choice
        for i, tiles in choice.card.tiles if choice.card else ():
            assert program.steps[i].op is StepOp.LINEAR
            assert 1 <= tiles <= -(-program.tensors[program.steps[i].weight].rows // 16)


@settings(max_examples=10, deadline=None)
@given(programs(), cards())
def test_no_round_is_faster_than_its_memories_together(program: Program, target: Target) -> None:
    """However rows are cut: bytes over both bandwidths is the floor, and what both sides do fits in the time."""
    planner = planner_of(program, target)
    for choice in planner.card_choices:
        assert choice.card is not None and planner.card is not None
        cpu, card = planner.card.busy(choice.card)
        assert 0 <= cpu <= 1 + 1e-9 and 0 <= card <= 1 + 1e-9
        read = sum(program.tensors[s.weight].size for s in program.steps if s.op is StepOp.LINEAR)
        if planner.weights.experts:
            continue  # of which a token reads a part
        bandwidth = target.vram_bytes_per_s + (0 if choice.card.whole else target.ram_bytes_per_s)
        assert planner.timeline(choice).period >= read / bandwidth * (1 - 1e-9)


@pytest.mark.parametrize("precision", ["int4", "int8", "fp16"])
def test_a_split_reads_both_memories_at_once(precision: str) -> None:
    program = lower(LARGE, assign_uniform(LARGE, precision))
    planner = planner_of(program, GDDR5)
    choice = planner.best(1 << 31)
    assert choice is not None and choice.card is not None and choice.device == "split" and planner.card is not None
    assert all(share > 0.85 for share in planner.card.busy(choice.card))
    speeds = planner.devices(choice)
    assert speeds["split"] > 1.2 * max(speeds["cpu"], speeds["gpu"])
    assert planner.limit(choice) == "RAM and VRAM"
    first, *others = planner.plans(1 << 31)
    assert first.vram_bytes >= choice.card.vram_bytes and first.decode_tokens_per_s == pytest.approx(speeds["split"])
    assert speeds["gpu"] == pytest.approx(others[0].decode_tokens_per_s)  # for a card with room for everything
    assert next(plan for plan in others if not plan.vram_bytes).arena_bytes == first.arena_bytes


@settings(max_examples=12, deadline=None)
@given(programs(), cards(), st.lists(st.floats(0, 1.1), min_size=2, max_size=3), st.integers(1, 400))
def test_with_a_card_more_ram_is_never_slower_and_plans_keep_the_rules(
    program: Program, target: Target, shares: list[float], kilobytes: int
) -> None:
    target = target.model_copy(update={"vram_bytes": kilobytes << 10})
    planner = planner_of(program, target, len(tiny_tokenizer(program.vocab)))
    least, most = planner.least_arena, planner.arena_bytes(planner.resident)
    before = 0.0
    for share in sorted(shares):
        arena = round_up(round(least + share * (most - least)), PAGE)
        choice = planner.best(arena)
        assert choice is not None and planner.ram_taken(choice) <= arena
        speed = 1 / planner.timeline(choice).period
        # A card that gains too little over what the CPU does in more memory is left out.
        assert speed * (1.0 if choice.card else LEAST_GAIN) >= before * (1 - 1e-8)
        before = speed
    plans = planner.plans(arena + OVERHEAD)
    assert plans[0].decode_tokens_per_s == pytest.approx(speed)
    assert all(plan.vram_bytes <= target.vram_bytes and plan.arena_bytes <= arena for plan in plans)
    with TemporaryDirectory() as folder:
        check(planner, plans, Path(folder))


def test_where_ram_is_short_weights_are_in_vram_only() -> None:
    """Faster than reading them from the disk for every token, by far."""
    program = lower(LARGE, assign_uniform(LARGE, "int8"))
    planner = planner_of(program, GDDR5)
    all_in_ram = planner.arena_bytes(planner.resident)
    choice = planner.best(all_in_ram - (60 << 20))
    assert choice is not None and choice.card is not None and choice.card.segments
    plan = planner.plan(choice)
    only = [i for i, place in enumerate(plan.placements) if place.tier is Tier.VRAM]
    assert only == list(choice.card.segments)
    assert plan.arena_bytes == all_in_ram - sum(program.segments[i].size for i in only)
    assert plan.disk_bytes_per_token == 0
    speeds = planner.devices(choice)
    assert speeds["split"] > 3 * speeds["cpu"]
    assert "of weights that are nowhere else" in explain_card(planner, choice)


def test_a_model_larger_than_both_memories_reads_only_the_rest_from_the_disk() -> None:
    program = lower(LARGE, assign_uniform(LARGE, "int8"))
    planner = planner_of(program, GDDR5.model_copy(update={"vram_bytes": 40 << 20}))
    arena = planner.arena_bytes(planner.resident) // 2
    choice, alone = planner.best(arena), planner.best_on_cpu(arena)
    assert choice is not None and choice.card is not None and alone is not None and alone.streamed
    assert choice.card.segments and choice.streamed and not set(choice.card.segments) & set(choice.streamed)
    held = sum(program.segments[i].size for i in choice.card.segments)
    assert held > 20 << 20
    assert planner.disk_bytes(choice) < planner.disk_bytes(alone) - held + (16 << 20)  # as whole segments go
    assert planner.limit(choice) == "disk"
    assert "larger than both memories" in explain_card(planner, choice)
    gain = planner.timeline(alone).period / planner.timeline(choice).period
    assert gain == pytest.approx(planner.disk_bytes(alone) / planner.disk_bytes(choice), rel=0.05)
    sizes = [(plan.vram_bytes > 0, plan.arena_bytes) for plan in planner.plans(arena + OVERHEAD)]
    assert sizes == sorted(sizes, reverse=True) and sum(with_card for with_card, _ in sizes) > 2


def test_prompts_do_not_suffer_from_more_vram() -> None:
    """Some is kept for what comes over the bus; what stays there for single tokens is the card's in prompts, too."""
    program = lower(LARGE, assign_uniform(LARGE, "int4"))
    best = 0.0
    for megabytes in (0, 24, 28, 32, 40, 50, 64, 80, 100, 128):
        planner = planner_of(program, GDDR5.with_vram(megabytes << 20) if megabytes else GDDR5.with_vram(0))
        choice = planner.best(1 << 31)
        assert choice is not None
        speed = planner.plan(choice).prefill_tokens_per_s
        assert speed >= 0.95 * best
        best = max(best, speed)
    assert best > 2 * planner_of(program, GDDR5.with_vram(0)).plan(planner.resident).prefill_tokens_per_s


def test_prompts_bring_weights_to_a_card_that_holds_few() -> None:
    """A batch shares the way over the bus, so prompts are faster, and single tokens are as they were."""
    program = lower(LARGE, assign_uniform(LARGE, "int4"))
    target = GDDR5.model_copy(update={"vram_bytes": 40 << 20})
    planner = planner_of(program, target)
    choice = planner.best(1 << 31)
    assert choice is not None and choice.card is not None and not choice.card.crossing
    batched = planner.with_batches(choice)
    assert batched.card is not None and batched.card.crossing and batched.card.card_batch >= 8
    assert planner.timeline(batched).period == planner.timeline(choice).period
    gain = planner.timeline(choice, 64).period / planner.timeline(batched, 64).period
    assert gain > 1.2
    assert f"For batches of {batched.card.card_batch} prompt tokens or more" in explain_card(planner, choice)
    plan = planner.plan(choice)
    assert choice.card.vram_bytes < plan.vram_bytes <= target.vram_bytes
    assert plan.prefill_tokens_per_s == pytest.approx(64 / planner.timeline(batched, 64).period)
    slow = planner_of(program, target.model_copy(update={"pcie_bytes_per_s": 1e8}))
    choice = slow.best(1 << 31)
    assert choice is not None and slow.plan(choice).card_batch == 0


def test_what_the_driver_takes_of_the_ram_is_foreseen() -> None:
    """It is missing elsewhere: where it would push weights to the disk, the card holds them or is left out."""
    program = lower(LARGE, assign_uniform(LARGE, "int4"))
    target = GDDR5.model_copy(update={"vram_bytes": 40 << 20})
    assert target.gpu is not None
    driver = 60 << 20
    planner = planner_of(program, target)
    heavy = planner_of(
        program, target.model_copy(update={"gpu": target.gpu.model_copy(update={"driver_ram_bytes": driver})})
    )
    everything = planner.arena_bytes(planner.resident)
    light = planner.best(everything)
    assert light is not None and light.card is not None and not light.card.segments
    assert heavy.best(everything + driver) == light and heavy.ram_taken(light) == everything + driver
    for spare in (0, driver // 2, driver - 1):
        choice = heavy.best(everything + spare)
        assert choice is not None and heavy.ram_taken(choice) <= everything + spare
        assert choice.card is None or choice.card.segments
    assert choice.card is not None  # a single page was missing


def test_a_card_without_room_for_all_takes_what_it_holds() -> None:
    program = lower(LARGE, assign_uniform(LARGE, "int8"))
    small = planner_of(program, GDDR5.model_copy(update={"vram_bytes": 40 << 20}))
    choice = small.best(1 << 31)
    assert choice is not None and choice.card is not None and choice.device == "split"
    assert 28 << 20 < choice.card.vram_bytes <= 30 << 20  # a quarter is for what comes over the bus
    assert "gpu" not in small.devices(choice)


def test_who_is_left_out_and_why() -> None:
    program = lower(LARGE, assign_uniform(LARGE, "int8"))

    def why(planner: Planner, ram: int = 1 << 31) -> str:
        choice = planner.best(ram)
        assert choice is not None and choice.card is None
        assert all(plan.vram_bytes == 0 for plan in planner.plans(ram + OVERHEAD))
        return explain_card(planner, choice)

    assert "no compiler makes kernels for sm_21" in why(planner_of(program, load_target("gt730-ddr3-128")))
    assert "none of the steps has a kernel" in why(Planner(program, GDDR5, 1 << 20, 64))
    assert why(planner_of(program, load_target("cpu-8g-ssd"))) == why(planner_of(program, GDDR5.with_vram(0))) == ""
    planner = planner_of(program, GDDR5.model_copy(update={"vram_bytes": 4 << 20}))
    assert "hold too little of it" in why(planner, planner.least_arena)
    slow = GDDR5.model_copy(update={"pcie_bytes_per_s": 1e6, "vram_bytes": 32 << 20})
    assert "does not pay" in why(planner_of(program, slow))


def test_a_small_gain_is_no_reason_to_use_the_card() -> None:
    program = lower(LARGE, assign_uniform(LARGE, "int8"))
    for megabytes in range(1, 12):
        planner = planner_of(program, DDR3.model_copy(update={"vram_bytes": megabytes << 20}))
        choice = planner.best(1 << 31)
        assert choice is not None
        speeds = planner.devices(choice)
        assert choice.device == ("split" if speeds.get("split", 0) >= LEAST_GAIN * speeds["cpu"] else "cpu")


def test_an_experts_steps_count_by_the_tokens_that_choose_it() -> None:
    def seconds(top_k: int, tokens: int) -> tuple[float, float]:
        """Of the first expert's steps, and of all."""
        program = tiny(Shape(experts=5, top_k=top_k)).program
        model = CardModel(program, GDDR5, 64, 8, 2, frozenset(range(len(program.steps))))
        steps = model.step_seconds(CardUse((), 0), tokens)
        first = next(i for i, step in enumerate(program.steps) if step.op is StepOp.EXPERT)
        return sum(steps[first : first + 1 + program.steps[first].ints[1]]), sum(steps)

    assert seconds(2, 1)[0] == pytest.approx(0.4 * seconds(5, 1)[0])
    assert seconds(2, 8)[0] == pytest.approx((1 - 0.6**8) * seconds(5, 8)[0], rel=0.1)
    assert seconds(2, 1)[1] < seconds(5, 1)[1] < seconds(5, 8)[1]


def test_a_matrix_on_the_card_has_its_bias_in_memory(tmp_path: Path) -> None:
    """Where weight and bias lie in different segments, one in VRAM only, the other is not read from the disk."""
    gpu = GDDR5.gpu
    assert gpu is not None
    free = gpu.model_copy(update={"launch_s": 1e-9, "copy_s": 1e-9})
    card = {"gpu": free, "vram_bytes": 64 << 10, "vram_bytes_per_s": 1e10, "pcie_bytes_per_s": 1e8}
    graph = llama_graph(
        layers=3, hidden=97, heads=4, kv_heads=2, head_dim=32, ffn=33, vocab=17, tied=False, bias=True, experts=2
    )
    program = lower(graph, assign_uniform(graph, "int3"), segment_bytes=4096)
    planner = planner_of(program, GDDR5.model_copy(update=card), len(tiny_tokenizer(program.vocab)))
    choice = planner.best(planner.least_arena)
    assert choice is not None and choice.card is not None and choice.card.segments and choice.streamed
    check(planner, [planner.plan(choice)], tmp_path)
