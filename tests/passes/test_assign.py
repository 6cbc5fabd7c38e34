"""The knapsack: exact against trying everything, within the budget, the same for the same input, clear refusals."""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.dtypes import Format
from n730c.errors import BudgetExceeded
from n730c.passes import assign as module
from n730c.passes.assign import Item, assign, curve, useful
from n730c.profile import SensitivityProfile

FORMATS = (Format.INT2, Format.INT4, Format.INT8)


def random_items(count: int, seed: int) -> list[Item]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        size, weight = float(rng.integers(1, 50)), float(rng.uniform(0.001, 1))
        price = {fmt: size * fmt.bits for fmt in FORMATS}
        made.append(Item((f"t{i}",), {fmt: weight * 4.0**-fmt.bits for fmt in FORMATS}, price))
    return made


def by_trying_everything(items: list[Item], budget: float) -> float:
    losses = []
    for choice in product(FORMATS, repeat=len(items)):
        if sum(item.price[fmt] for item, fmt in zip(items, choice, strict=True)) <= budget:
            losses.append(sum(item.divergence[fmt] for item, fmt in zip(items, choice, strict=True)))
    return min(losses)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0, 1))
def test_the_best_there_is(count: int, seed: int, share: float) -> None:
    items = random_items(count, seed)
    least, most = (sum(f(item.price.values()) for item in items) for f in (min, max))
    budget = least + share * (most - least)
    found = assign(items, budget)
    assert found.price <= budget * (1 + 1e-9)
    assert found.divergence == pytest.approx(sum(i.divergence[found.formats[i.names[0]]] for i in items))
    assert found.divergence <= by_trying_everything(items, budget) * 1.001 + 1e-12
    assert dict(assign(items, budget).formats) == dict(found.formats)


def test_tied_tensors_take_one_format_and_the_useless_is_never_taken() -> None:
    price = {Format.INT2: 1.0, Format.INT4: 2.0, Format.INT8: 4.0}
    tied = Item(("q", "k"), {Format.INT2: 3.0, Format.INT4: 5.0, Format.INT8: 1.0}, price)
    assert useful(tied) == [Format.INT2, Format.INT8]
    assert dict(assign([tied], 3.0).formats) == {"q": Format.INT2, "k": Format.INT2}
    assert dict(assign([tied], 4.0).formats) == {"q": Format.INT8, "k": Format.INT8}


def test_more_budget_is_never_worse() -> None:
    items = random_items(30, 5)
    least = sum(min(item.price.values()) for item in items)
    losses = [a.divergence for a in curve(items, [least * (1 + 0.2 * i) for i in range(12)])]
    assert len(losses) == 12
    assert all(b <= a * (1 + 1e-3) for a, b in pairwise(losses))


def test_too_small_a_budget_names_the_least() -> None:
    items = random_items(3, 1)
    least = sum(min(item.price.values()) for item in items)
    with pytest.raises(BudgetExceeded, match=f"at least {least:.6g}"):
        assign(items, least * 0.99)


def test_what_is_expected_of_a_sum_runs_through_what_was_measured_of_the_whole() -> None:
    known = ((0.001, 0.0011), (0.01, 0.012), (0.1, 0.14))
    profile = SensitivityProfile({}, "", 0, "", 0.5, {"t": {Format.INT2: 0.01, Format.INT4: 1.0}}, known)
    for parts, both in known:
        assert profile.expected(parts) == pytest.approx(0.5 + both)
    sums = np.geomspace(1e-5, 10, 200)
    expected = [profile.expected(float(total)) for total in sums]
    assert all(a < b for a, b in pairwise(expected))
    assert expected[0] == pytest.approx(0.5 + 1.1e-5) and expected[-1] == pytest.approx(14.5)
    assert profile.predicted({"t": Format.INT2, "other": Format.INT8}) == pytest.approx(0.512)
    assert profile.expected(0.0) == 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="the C library is found in another way")
def test_what_the_solver_prints_is_not_ours(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    library, solve = ctypes.CDLL(None), module.milp

    def talkative(*args: object, **options: object) -> object:
        library.puts(b"for developers")
        return solve(*args, **options)

    monkeypatch.setattr(module, "milp", talkative)
    library.puts(b"before")
    assign([Item(("a",), {Format.INT4: 1.0}, {Format.INT4: 8.0})], 8.0)
    library.puts(b"after")
    library.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]
