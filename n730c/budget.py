"""How much the matrices may take: bytes, or seconds a token, from what was asked for and what the target has.

Kernels, tables and plans take bytes too, and which of them there are depends on the formats chosen. So `fit` tries a
budget, measures the whole, and gives the difference back to the budget; where that overshoots, halves are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from n730c.artifacts import OVERHEAD, PAGE
from n730c.dtypes import Format, matrix_bytes
from n730c.errors import BudgetExceeded
from n730c.ir.core import Graph, Op
from n730c.mixed import (
    CANDIDATES,
    ORIGINAL_BITS,
    OTHERS,
    Prices,
    above_original,
    assignable,
    least_price,
    matrices,
    stack_bytes,
    weights_of,
)
from n730c.passes.cost import READING_SHARE
from n730c.passes.plan import Planner
from n730c.passes.precision import assign_uniform
from n730c.profile import SensitivityProfile
from n730c.target import Target

MOST_BPW = 5.0  # bits a weight that are taken by default even if the memory would hold more: speed is worth more then
EXPERTS_BPW = 4.2  # of models with experts that do not fit the memory in any way
Draft = TypeVar("Draft")

TRIES = 7
_CARD_STEPS = 8  # amounts of the card's memory that are tried
ENOUGH = 1 / 1024  # of the limit: what may stay unused


def fit(
    draft: Callable[[float], Draft],
    excess: Callable[[Draft], float],
    budget: float,
    least: float,
    limit: float,
    enough: float = 0.0,
) -> Draft:
    """The draft of about the largest budget that is within ``limit``, from ``budget`` on; of ``least`` if none is.

    ``excess(draft)``: by how much it is above the limit, in the budget's own unit (negative: room that is left).
    Room of ``enough``, or of ENOUGH of the limit, may stay unused. The caller checks what comes back where even
    ``least`` may be too much.
    """
    enough = max(enough, limit * ENOUGH)
    low, high = least, math.inf
    best: Draft | None = None
    for _ in range(TRIES):
        budget = max(budget, least)
        made = draft(budget)
        room = -excess(made)
        if room < 0:
            high = min(high, budget)
        else:
            best, low = made, max(low, budget)
        if 0 <= room <= enough or (budget == least and room < 0) or high - low < enough / 4:
            break
        budget += room
        if budget >= high:  # what the next formats bring along is too much: nearer to where they come in
            budget = (low + 3 * high) / 4
        elif budget <= low:
            budget = (low + high) / 2
    if best is not None:
        return best
    return made if budget == least else draft(least)


def room_for_weights(planner: Planner, ram_bytes: int) -> int:
    """Bytes of RAM that are left for matrices, all of them in RAM, beside what else the planner's program wants.

    Every segment may end anywhere in a page: a page each is set aside.
    """
    program = planner.program
    own = sum(t.size for t in program.tensors if not t.is_vector)
    others = planner.arena_bytes(planner.resident) - own + PAGE * len(program.segments)
    return ram_bytes - OVERHEAD - others


def rooms(room: int, target: Target) -> tuple[int, ...]:
    """Rooms for matrices to try, largest first: ``room`` of RAM and less and less of the card's memory, at last none.

    How much of a card's memory can take weights off the RAM depends on the program; a plan shows it. Take the first
    room whose plan reads nothing from the disk for a token.
    """
    if target.gpu is None or target.gpu_arch is None:
        return (room,)
    beside = room - target.gpu.driver_ram_bytes
    tried = (beside + target.vram_bytes * step // _CARD_STEPS for step in range(_CARD_STEPS, 0, -1))
    return (*(more for more in tried if more > room), room)


def least_budget(graph: Graph, profile: SensitivityProfile, prices: Prices | None = None) -> float:
    """What all matrices take with the fewest bits that the profile knows of: bytes, or in the unit of ``prices``."""
    return least_price(graph, profile, prices)


def first_budgets(
    graph: Graph,
    profile: SensitivityProfile,
    bits_per_weight: float | None,
    max_bytes: int | None,
    tried: Sequence[int],
) -> tuple[float, ...]:
    """Bytes for all matrices together: what was asked for, else for each of the ``rooms`` the least of it and MOST_BPW.

    Raises BudgetExceeded when the smallest formats take more bits than were asked for, or the original itself less.
    """
    least = least_budget(graph, profile)
    check_asked(graph, least, bits_per_weight, max_bytes)
    if bits_per_weight is not None:
        return (bits_per_weight * weights_of(graph) / 8,)
    if max_bytes is not None:
        return (max(least, float(max_bytes)),)  # how much more than the matrices there is, the draft says
    return tuple(dict.fromkeys(default_budget(graph, least, room) for room in tried))


def check_asked(graph: Graph, least: float, bits_per_weight: float | None, max_bytes: int | None) -> None:
    """Raise BudgetExceeded for fewer bits than ``least`` bytes of matrices, or a file above the original's size."""
    weights = weights_of(graph)
    if bits_per_weight is not None and bits_per_weight * weights / 8 < least:
        raise BudgetExceeded(
            "--bpw is below what the smallest formats take",
            expected=f"at least {math.ceil(800 * least / weights) / 100:.2f}",
            found=f"{bits_per_weight:g}",
            hint="Raise --bpw.",
        )
    if max_bytes is not None and max_bytes > weights * ORIGINAL_BITS // 8:
        raise above_original("--max-size", f"at most {weights * ORIGINAL_BITS // 8} bytes", f"{max_bytes} bytes")


def cheapest(graph: Graph, prices: Prices | None = None) -> dict[str, Format]:
    """Of every tensor the format of the least price, by default the smallest, before anything is measured."""
    shapes = {p.name: p.shape for p in graph.params}
    price = prices or (lambda name, fmt: float(stack_bytes(fmt, shapes[name])))
    least = {name: min(CANDIDATES, key=lambda fmt: (price(name, fmt), fmt)) for name in assignable(graph)}
    return {**assign_uniform(graph, OTHERS), **least}


def default_budget(graph: Graph, least: float, room: int) -> float:
    """Bytes for all matrices: the least of ``room`` and MOST_BPW, but what the fewest bits take.

    Where not even these have room, experts are read when they are chosen, and get bits enough to be worth it.
    """
    bits = weights_of(graph) / 8
    if least > room and any(node.op is Op.EXPERTS for node in graph.nodes):
        return max(least, EXPERTS_BPW * bits)
    return max(least, min(float(room), MOST_BPW * bits))


def seconds(graph: Graph, target: Target, streamed: bool) -> Prices:
    """What a matrix costs a token on the target: reading or computing, whichever is slower; from the disk if streamed.

    An embedding that is nothing else costs only its room: a row of it is read a token; of experts those chosen count.
    """
    shapes = {p.name: p.shape for p in graph.params}
    multiplied = {node.param("weight"): 1.0 for node in graph.nodes if node.op is Op.LINEAR}
    routes = {node.name: node for node in graph.nodes if node.op is Op.ROUTE}
    for node in graph.nodes:
        if node.op is Op.EXPERTS:
            route = routes.get(node.inputs[1])
            share = float(route.attr("top_k")) / route.width if route else 1.0
            multiplied |= {node.param("gate_up"): share, node.param("down"): share}
    ram = READING_SHARE * target.ram_bytes_per_s

    def price(name: str, fmt: Format) -> float:
        size = stack_bytes(fmt, shapes[name]) * multiplied.get(name, 1.0)
        found = size / target.disk_bytes_per_s if streamed else 0.0
        if name in multiplied:
            rate: float = getattr(target.kernel_rates, fmt.name.lower())
            computing = multiplied[name] * math.prod(shapes[name]) / (rate * target.cores)
            found = max(found, size / ram, computing)
        return found

    return price


def nominal_formats(graph: Graph, room: int) -> dict[str, Format]:
    """About what mixed precision takes where nothing was measured: the same bits, spread as evenly as formats allow."""
    formats = dict(assign_uniform(graph, OTHERS))
    shapes = {p.name: p.shape for p in graph.params}
    names = sorted(assignable(graph), key=lambda name: (formats[name] is not Format.INT8, name))  # the ends first
    ladder = sorted((fmt for fmt in Format if fmt.is_integer), key=lambda fmt: (matrix_bytes(fmt, 16, 256), fmt))
    formats |= dict.fromkeys(names, ladder[0])

    def size(name: str, fmt: Format) -> int:
        return stack_bytes(fmt, shapes[name])

    least = sum(size(name, formats[name]) for name in matrices(graph))
    left = default_budget(graph, least, room) - least
    for fmt in ladder[1:]:
        for name in names:
            more = size(name, fmt) - size(name, formats[name])
            if more <= left:
                formats[name] = fmt
                left -= more
    return formats
