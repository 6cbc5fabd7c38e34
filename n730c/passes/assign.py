"""AssignPrecision: every tensor gets the format that serves the whole best under a budget. Pure and exact.

A multiple-choice knapsack: of each tensor one format is taken; the expected KL divergences add up, and so do the
prices. The price of a choice is its bytes, or the seconds a token that it costs on the target. Solved by HiGHS' branch
and bound.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from n730c.dtypes import Format
from n730c.errors import BudgetExceeded

GAP = 1e-4  # of the optimum that the solver may leave: below what the measured figures themselves are good for


@dataclass(frozen=True)
class Item:
    """Tensors that take one format together. ``divergence``, ``price``: of each format that may be taken."""

    names: tuple[str, ...]
    divergence: Mapping[Format, float]
    price: Mapping[Format, float]


@dataclass(frozen=True)
class Assignment:
    """The formats chosen, by tensor; the sum of their prices, and of the KL divergences expected of them (nats)."""

    formats: Mapping[str, Format]
    price: float
    divergence: float


def assign(items: Sequence[Item], budget: float) -> Assignment:
    """The least expected divergence whose prices add up to at most ``budget``.

    Ties are broken by price, so that the same input gives the same output. Raises BudgetExceeded (with the least price
    possible as ``least``) when even the cheapest formats cost more.
    """
    least = sum(min(item.price.values()) for item in items)
    if least > budget:
        raise BudgetExceeded("the budget is below what the smallest formats take", expected=f"at least {least:.6g}")
    choices = [(i, fmt) for i, item in enumerate(items) for fmt in sorted(useful(item))]
    price = np.array([items[i].price[fmt] for i, fmt in choices])
    loss = np.array([items[i].divergence[fmt] for i, fmt in choices])
    scale = float(loss.max()) or 1.0
    rows = [i for i, _ in choices]
    once = csr_array((np.ones(len(choices)), (rows, range(len(choices)))), shape=(len(items), len(choices)))
    with _native_silence():
        result = milp(
            loss / scale + 1e-9 * price / max(budget, 1e-30),
            integrality=np.ones(len(choices)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(once, 1, 1),
                LinearConstraint(csr_array(price[None, :] / budget), -np.inf, 1.0),
            ],
            options={"mip_rel_gap": GAP, "node_limit": 100_000},
        )
    if result.x is None:
        raise BudgetExceeded("no assignment of formats was found", found=str(result.message))
    taken = np.flatnonzero(result.x > 0.5)
    formats = {name: choices[k][1] for k in taken for name in items[choices[k][0]].names}
    return Assignment(MappingProxyType(formats), float(price[taken].sum()), float(loss[taken].sum()))


@contextmanager
def _native_silence() -> Iterator[None]:
    """HiGHS prints a line for its developers now and then, whatever its options say, on the output that is ours."""
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda _: None
    sys.stdout.flush()
    flush(None)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        flush(None)  # what C holds back would come out later
        os.dup2(kept, 1)
        os.close(kept)


def useful(item: Item) -> list[Format]:
    """The formats of an item that no other of its formats beats in both price and divergence."""
    kept: list[Format] = []
    for fmt in sorted(item.price, key=lambda f: (item.price[f], item.divergence[f], f)):
        if not kept or item.divergence[fmt] < item.divergence[kept[-1]]:
            kept.append(fmt)
    return kept


def curve(items: Sequence[Item], budgets: Sequence[float]) -> list[Assignment]:
    """The best assignment under each budget that is not too small: the Pareto curve of the report."""
    found = []
    for budget in budgets:
        try:
            found.append(assign(items, budget))
        except BudgetExceeded:
            continue
    return found
