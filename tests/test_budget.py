"""Budgets: what fits is found and used up; prices are times; a plan without a profile keeps to the bits of mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from n730c.budget import MOST_BPW, TRIES, fit, nominal_formats, seconds
from n730c.dtypes import Format, matrix_bytes
from n730c.frontend.model import load_graph
from n730c.ir.core import Graph
from n730c.mixed import assignable, matrices, weights_of
from n730c.profile import SensitivityProfile
from n730c.target import load_target
from tests.models import DEMO


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_graph(DEMO)


@pytest.mark.parametrize("fixed", [0, 3_000, 40_000])
@pytest.mark.parametrize("jump", [0, 7_000, 25_000])
def test_a_budget_is_used_up_though_the_rest_depends_on_it(fixed: int, jump: int) -> None:
    """A package of ``fixed`` bytes more than its matrices, and ``jump`` more once they take 60 000."""
    tried = []

    def size(budget: float) -> float:
        taken = budget // 100 * 100
        return taken + fixed + (jump if taken >= 60_000 else 0)

    def draft(budget: float) -> float:
        tried.append(budget)
        return size(budget)

    limit = 100_000.0
    found = fit(draft, lambda made: made - limit, limit, 10_000, limit, 1_000)
    reachable = max(made for made in map(size, range(10_000, 100_001, 100)) if made <= limit)
    assert reachable - 1_000 <= found <= limit and len(tried) <= TRIES


def test_the_least_is_given_where_nothing_fits() -> None:
    assert fit(lambda budget: budget + 50, lambda size: size - 100.0, 100.0, 80.0, 100.0) == 130.0


def test_a_matrix_costs_its_reading_and_more_from_the_disk(graph: Graph) -> None:
    target = load_target("gt730")
    here, there = seconds(graph, target, False), seconds(graph, target, True)
    name = next(n for n in assignable(graph) if "up_proj" in n)
    shape = next(p.shape for p in graph.params if p.name == name)
    for fmt in (Format.INT2, Format.INT8):
        assert there(name, fmt) == pytest.approx(matrix_bytes(fmt, *shape) / target.disk_bytes_per_s)
        assert 0 < here(name, fmt) < there(name, fmt)


def test_the_worst_inputs_get_16_bits_until_the_rest_costs_little() -> None:
    inputs = {"a": 1e-5, "b": 6e-4, "c": 1e-4, "d": 2e-4}
    profile = SensitivityProfile({}, "", 0, "", 2 * sum(inputs.values()), {}, inputs=inputs)
    assert profile.widened(1.0) == (frozenset(), pytest.approx(1.82e-3))
    assert profile.widened(3e-3) == ({"b"}, pytest.approx(6.2e-4))
    assert profile.widened(1e-3) == ({"b", "d"}, pytest.approx(2.2e-4))
    assert profile.widened(0.0) == (inputs.keys(), pytest.approx(0.0))
    assert profile.widened(0.0, "int8") == (frozenset(), profile.activations)
    assert profile.widened(1.0, "wide") == (inputs.keys(), 0.0)
    assert replace(profile, inputs={}).widened(0.0) == (frozenset(), profile.activations)


def test_the_bits_that_mixed_would_take_without_a_profile(graph: Graph) -> None:
    shapes = {p.name: p.shape for p in graph.params}

    def bits(room: int) -> float:
        formats = nominal_formats(graph, room)
        assert set(formats) >= matrices(graph)
        return 8 * sum(matrix_bytes(formats[n], *shapes[n]) for n in matrices(graph)) / weights_of(graph)

    assert MOST_BPW - 0.3 < bits(1 << 40) <= MOST_BPW
    assert 3.2 < bits(int(3.5 * weights_of(graph) / 8)) <= 3.5
    assert bits(0) < 2.5
