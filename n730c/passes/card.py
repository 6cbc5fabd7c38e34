"""What a graphics card can take over, and what that gains. Pure.

Two ways beside the CPU alone. *Whole*: the program runs on the card, which must hold all of it. *Split*: of the rows
of a matrix the first tiles lie in VRAM and the rest in RAM, and card and CPU compute at the same time, so that both
memories are read at once; everything else stays on the CPU. Activations cross the bus each way, weights when they are
loaded, and for batches of prompt tokens, which share the way: where the card multiplies a batch so much faster than
the CPU, rows that are in RAM only are brought to it, too. Where RAM is short, segments of which the card computes
everything are not in RAM at all, and where even that is not enough, others are read from the disk (``plan.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from n730c.artifacts import NONE
from n730c.passes.card_batches import reserve_bytes, with_crossing
from n730c.passes.card_costs import CardCosts, CardUse, fill, last_that, soonest
from n730c.passes.card_memory import rows_bytes
from n730c.passes.ring import spread

MOST_OFFLOADS = 12  # numbers of segments in VRAM only that are looked at
RESERVE = 4  # of VRAM that part is at most kept free for tiles that come over the bus: little of any real card's
MOST_PARTS = 32  # the same where others are read from the disk: there every byte counts


@dataclass(frozen=True)
class CardModel(CardCosts):
    """The ways to use the card for one program."""

    def uses(self, arena_bytes: int) -> Iterator[CardUse]:
        """The ways that fit the card's memory; ``arena_bytes``: of the plan that has everything in RAM."""
        whole = arena_bytes + 4 * self.batch
        if self.steps.issuperset(range(len(self.program.steps))) and whole <= self.target.vram_bytes:
            yield CardUse((), whole)
        split = self._split(())
        if split is not None and split.tiles:
            yield split
        total = len(self.offloadable)
        for count in sorted({total * k // MOST_OFFLOADS for k in range(1, MOST_OFFLOADS + 1)} - {0}):
            use = self._split(spread(self.offloadable, count))
            if use is not None:
                yield use

    @cached_property
    def parts(self) -> tuple[CardUse, ...]:
        """Ever more segments in VRAM only, as far as they fit, and no other rows: beside a disk that is read."""
        total = len(self.offloadable)
        found = []
        for count in sorted({total * k // MOST_PARTS for k in range(1, MOST_PARTS + 1)} - {0}):
            segments = spread(self.offloadable, count)
            taken = self._forced(segments)
            used = self.used(taken)
            if used <= self._room_to_keep:
                found.append(CardUse(tuple(sorted(taken.items())), used, segments))
        return tuple(found)

    @cached_property
    def offloadable(self) -> tuple[int, ...]:
        """Segments that only LINEAR steps use which the card can compute."""
        ours = {i for steps in self.rounds for i in steps} & self.steps
        barred: set[int] = set()
        used: set[int] = set()
        for i, step in enumerate(self.program.steps):
            for tensor in {step.weight, step.bias} - {NONE}:
                (used if i in ours else barred).add(self.weights.segment_of[tensor])
        return tuple(sorted(used - barred))

    def _split(self, segments: tuple[int, ...]) -> CardUse | None:
        """Every round gets the tiles that let both sides end together; where VRAM is short, those that gain most.

        Rounds are taken in an order that does not depend on the card's memory, so that more of it is never slower.
        ``segments`` are in VRAM only, and what reads them is the card's; None: they do not fit.
        """
        forced = self._forced(segments)
        wanted = []
        everything = dict(forced)
        for steps in self.rounds:
            if forced.keys() & set(steps):
                continue
            taken = self._balanced(steps)
            gain = self._gain(steps, taken)
            if gain > 0:
                wanted.append((-gain / rows_bytes(self.program, taken), steps, taken))
                everything |= taken
        room = self._room_to_keep - self.staging(everything) - rows_bytes(self.program, forced)
        if room < 0 and segments:
            return None
        chosen = dict(forced)
        for _, steps, taken in sorted(wanted, key=lambda w: w[:2]):
            needed = rows_bytes(self.program, taken)
            if needed > room:
                part = self._fitting(steps, sum(taken.values()), room)
                if part and self._gain(steps, part) > 0:
                    chosen |= part
                break
            room -= needed
            chosen |= taken
        return CardUse(tuple(sorted(chosen.items())), self.used(chosen), segments)

    def _forced(self, segments: tuple[int, ...]) -> dict[int, int]:
        """All tiles of the steps that use ``segments``."""
        held = set(segments)
        forced = {}
        for i in (i for steps in self.rounds for i in steps):
            step = self.program.steps[i]
            if any(self.weights.segment_of[tensor] in held for tensor in {step.weight, step.bias} - {NONE}):
                forced[i] = self.tiles(i)
        return forced

    def _room(self, steps: tuple[int, ...]) -> dict[int, int]:
        """All tiles of a round that the card could compute."""
        return {i: self.tiles(i) for i in steps if i in self.steps}

    def _balanced(self, steps: tuple[int, ...]) -> dict[int, int]:
        return soonest(self._room(steps), lambda taken: self.round_cost(steps, taken, 1))

    def _fitting(self, steps: tuple[int, ...], most: int, room: int) -> dict[int, int]:
        """As many tiles of a round as ``room`` bytes hold."""
        tiles = self._room(steps)
        return fill(tiles, last_that(most, lambda n: rows_bytes(self.program, fill(tiles, n)) <= room))

    def _gain(self, steps: tuple[int, ...], taken: dict[int, int]) -> float:
        return self.round_cost(steps, {}, 1).seconds - self.round_cost(steps, taken, 1).seconds

    @cached_property
    def _reserve(self) -> int:
        return reserve_bytes(self)

    @property
    def _room_to_keep(self) -> int:
        """Bytes of VRAM for what is there for good: the more there is of it, the more."""
        return self.target.vram_bytes - min(self._reserve, self.target.vram_bytes // RESERVE)

    def with_crossing(self, use: CardUse, in_ram: Collection[int]) -> CardUse:
        """``use`` with what is worth bringing to the card for batches; ``in_ram``: segments from which it may come."""
        return use if use.whole or not self._reserve else with_crossing(self, use, in_ram)
