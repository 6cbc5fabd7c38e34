"""Rows that come over the bus: a card multiplies a batch of prompt tokens with weights that stay in RAM. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from n730c.artifacts import NONE
from n730c.dtypes import TILE_ROWS
from n730c.passes.card_costs import LEAST_GAIN, CardCosts, CardUse, last_that, soonest
from n730c.passes.card_memory import Taken

SIZES = 64  # of the places in VRAM that are looked at


def reserve_bytes(costs: CardCosts) -> int:
    """VRAM that would do for whatever may come over the bus, if it pays at all; 0: it does not."""
    wide = [steps for steps in costs.rounds if steps[0] < costs.program.head_first]
    if not wide:
        return 0
    largest = max(wide, key=lambda steps: sum(costs.tiles(i) * costs.tile_bytes(i) for i in steps))
    all_of = {i: costs.tiles(i) for i in largest if i in costs.steps}
    if not _crossed(costs, largest, {}, all_of):
        return 0
    places = 2 * max(costs.tiles(i) * costs.tile_bytes(i) for steps in wide for i in steps)
    return places + 4 * TILE_ROWS * costs.batch * max(sum(map(costs.tiles, steps)) for steps in wide)


def with_crossing(costs: CardCosts, use: CardUse, in_ram: Collection[int]) -> CardUse:
    """``use`` with the tiles that are worth bringing to the card for a whole batch, as far as its memory goes.

    ``in_ram``: segments from which they may come. What is done for one token stays the same.
    """
    taken = dict(use.tiles)
    free: dict[int, int] = {}  # tiles that the card has not
    for i in (i for steps in costs.rounds for i in steps if i in costs.steps and i < costs.program.head_first):
        step = costs.program.steps[i]
        if all(costs.weights.segment_of[tensor] in in_ram for tensor in {step.weight, step.bias} - {NONE}):
            free[i] = costs.tiles(i) - taken.get(i, 0)
    largest = max((n * costs.tile_bytes(i) for i, n in free.items()), default=0)

    def crossing(size: int) -> dict[int, int]:
        """What is worth it with places of so many of ``SIZES`` parts of the largest."""
        found: dict[int, int] = {}
        for steps in costs.rounds:
            held = {i: taken[i] for i in steps if i in taken}
            most = {i: min(free[i], largest * size // SIZES // costs.tile_bytes(i)) for i in steps if i in free}
            found |= _crossed(costs, steps, held, most)
        return found

    size = last_that(SIZES, lambda n: n == 0 or costs.used(taken, crossing(n)) <= costs.target.vram_bytes)
    brought = crossing(size)
    if not brought:
        return use
    used = costs.used(taken, brought)
    return _from_batch(costs, replace(use, vram_bytes=used, crossing=tuple(sorted(brought.items()))))


def _crossed(costs: CardCosts, steps: tuple[int, ...], taken: Taken, most: Taken) -> dict[int, int]:
    """Of up to ``most`` tiles of each step, those with which a round of a whole batch is over soonest."""
    return soonest(most, lambda crossing: costs.round_cost(steps, taken, costs.batch, crossing))


def _from_batch(costs: CardCosts, use: CardUse) -> CardUse:
    """``use`` with the fewest tokens for which its crossing pays; without it if that is not even a whole batch."""
    without = replace(use, vram_bytes=costs.used(dict(use.tiles)), crossing=())
    for tokens in sorted({8, 16, 32, costs.batch}):
        made = replace(use, card_batch=tokens)
        if 1 < tokens <= costs.batch and use.crossing:
            seconds, before = (sum(costs.step_seconds(way, tokens)) for way in (made, without))
            if seconds * LEAST_GAIN <= before:
                return made
    return without
