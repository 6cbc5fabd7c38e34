from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product

from n730c.artifacts import OVERHEAD, PAGE, Plan, Program
from n730c.errors import BudgetExceeded
from n730c.passes.card_costs import LEAST_GAIN, CardUse
from n730c.passes.cost import arriving_seconds
from n730c.passes.ring import spread
from n730c.passes.schedule import write_plan
from n730c.passes.ways import BATCH, Choice, Ways

SLOTS = (3, 4, 6, 8, 12)  # with two, every hiccup of disk or scheduler is lost: measured, 5 to 10 % of the speed
RUNS = (1, 4, 16)  # streamed segments in a row: a disk that seeks slowly wants several
SLOW_SEEK = 1 << 20  # bytes that the disk could read in the time of a seek, from which on that counts
LEAST_CONTEXT = 256  # tokens; less is taken only if asked for
MOST_COUNTS = 128  # numbers of streamed segments that are looked at
MOST_PLANS = 24  # in one package, without a card
CARD_LADDER = 3  # of their memory sizes every third also gets a plan with a card, where that pays
MOST_PLACES = 32  # numbers of places for experts that are looked at
FEW_PLACES = 2  # of these, beside a ring


@dataclass(frozen=True)
class _Candidate:
    """A choice with what is known of it before it is simulated."""

    bound: float  # seconds a token that cannot be beaten
    disk_bytes: int  # a token
    arena_bytes: int
    choice: Choice

    @property
    def rank(self) -> _Rank:
        return self.bound, self.disk_bytes, self.arena_bytes


_Rank = tuple[float, int, int]


@dataclass(frozen=True)
class Planner(Ways):
    """All plans of one program on one target."""

    _beside: dict[CardUse, tuple[_Candidate, ...]] = field(default_factory=dict, compare=False, repr=False)
    _alone: dict[int, Choice | None] = field(default_factory=dict, compare=False, repr=False)

    def _streamed_sets(self, streamable: Sequence[int]) -> Iterator[tuple[int, ...]]:
        yield ()
        seeks_slowly = self.target.disk_seek_s * self.target.disk_bytes_per_s >= SLOW_SEEK
        for run in RUNS if seeks_slowly else (1,):
            chunks = [tuple(streamable[i : i + run]) for i in range(0, len(streamable), run)]
            counts = {-(-len(chunks) * j // MOST_COUNTS) for j in range(1, MOST_COUNTS + 1)}
            for wanted in sorted(counts - {0}):
                yield tuple(i for chunk in spread(chunks, wanted) for i in chunk)

    @cached_property
    def _candidates(self) -> tuple[_Candidate, ...]:
        """All choices without the card, the most promising first."""
        return self._sorted_candidates(None)

    def _candidates_beside(self, card: CardUse) -> tuple[_Candidate, ...]:
        """All choices in which the card does that, likewise."""
        if card not in self._beside:
            self._beside[card] = self._sorted_candidates(card)
        return self._beside[card]

    def _sorted_candidates(self, card: CardUse | None) -> tuple[_Candidate, ...]:
        found = {}
        held = self.card.segments_of(card) if self.card and card else frozenset()
        computing = sum(self.step_seconds(card, (), None, 1))
        for streamed in self._streamed_sets([i for i in self.weights.streamable if i not in held]):
            sizes = [self.program.segments[i].size for i in streamed]
            gaps = sum(before != i - 1 for before, i in zip((*streamed[-1:], *streamed), streamed, strict=False))
            reading = sum(sizes) / self.target.disk_bytes_per_s + gaps * self.target.disk_seek_s
            arriving = arriving_seconds(sum(sizes), self.target)
            places = self._expert_places(bool(streamed))
            for rows, experts in product(dict.fromkeys((None, self.weights.row_segment)), places):
                steps = computing + arriving + (0.0 if rows is None else self.row_seconds(rows))
                bound = _comparable(max(reading, steps + self.missed(experts) * self.expert_seconds))
                choice = Choice(streamed, 0, rows, experts, card)
                disk, arena = self.disk_bytes(choice), self.arena_bytes(choice)
                for slots in (s for s in SLOTS if s <= len(streamed)) if streamed else (0,):
                    choice = replace(choice, slots=slots)
                    found[choice] = _Candidate(bound, disk, arena + slots * max(sizes, default=0), choice)
        return tuple(sorted(found.values(), key=lambda c: c.rank))

    def _expert_places(self, streams: bool) -> list[int | None]:
        """How many places for experts there may be. What every token needs is streamed only when few are left."""
        total = len(self.weights.experts)
        counts = sorted({max(1, total * i // MOST_PLACES) for i in range(MOST_PLACES)} if total > 1 else ())
        return list(counts[:FEW_PLACES]) if streams and counts else [None, *counts]

    @cached_property
    def card_choices(self) -> tuple[Choice, ...]:
        """The ways to use the card without the disk, fastest first, whether they pay or not."""
        uses = self.card.uses(self.arena_bytes(self.resident)) if self.card else ()
        return tuple(sorted((replace(self.resident, card=use) for use in uses), key=lambda c: self.timeline(c).period))

    @cached_property
    def paying_choices(self) -> tuple[Choice, ...]:
        """Those that gain enough over the CPU alone."""
        return tuple(filter(self._pays, self.card_choices))

    def _pays(self, choice: Choice, ram_bytes: int | None = None) -> bool:
        """Whether it gains enough over the CPU alone in so much memory; None: as much as it takes itself."""
        alone = self.best_on_cpu(self.ram_taken(choice) if ram_bytes is None else ram_bytes)
        return alone is None or self.timeline(choice).period * LEAST_GAIN <= self.timeline(alone).period

    def _floor(self, card: CardUse, arena_bytes: int) -> float:
        """Seconds a token that no choice with these segments in VRAM gets below: for computing, for reading others."""
        assert self.card is not None
        elsewhere = {*card.segments, *self.weights.experts, self.weights.row_segment}
        needed = sum(s.size for i, s in enumerate(self.program.segments) if i not in elsewhere)
        reading = (needed + self.fixed_bytes - arena_bytes) / self.target.disk_bytes_per_s
        return max(reading, sum(self.card.step_seconds(card, 1)))

    def best_beside_disk(self, ram_bytes: int, limit: Choice) -> Choice | None:
        """The fastest with segments in VRAM only and others from the disk, if it pays and is faster than ``limit``.

        ``ram_bytes``: for the arena and the driver.
        """
        if self.card is None:
            return None
        arena_bytes = ram_bytes - self.card.gpu.driver_ram_bytes
        best: _Rank = (_comparable(self.timeline(limit).period), 0, 0)
        found = None
        pays = partial(self._pays, ram_bytes=ram_bytes)
        floors = [(self._floor(card, arena_bytes), -i, card) for i, card in enumerate(self.card.parts)]
        for floor, _, card in sorted(floors, key=lambda f: f[:2]):
            if floor >= best[0]:
                break
            best, better = self._fastest(self._candidates_beside(card), arena_bytes, best, pays)
            found = better or found
        return found

    def devices(self, choice: Choice) -> dict[str, float]:
        """Tokens a second of each way to compute in the memory that ``choice`` takes, the fastest of each kind."""
        speeds: dict[str, float] = {}
        arena = self.arena_bytes(choice)
        ways = [way for way in self.card_choices if self.arena_bytes(way) <= arena]
        alone = self.best_on_cpu(arena)
        for way in [choice, *ways, *([alone] if alone else [])]:
            speeds[way.device] = max(speeds.get(way.device, 0.0), 1 / self.timeline(way).period)
        return {name: speeds[name] for name in ("cpu", "gpu", "split") if name in speeds}

    def best(self, ram_bytes: int) -> Choice | None:
        """The fastest choice that takes at most so much beside the program itself, with the card if that pays.

        More memory is never slower, but for this: where the CPU alone comes near to what the card did in less, the card
        is left out, as weights that only VRAM holds make a run depend on it.
        """
        alone = self.best_on_cpu(ram_bytes)
        if alone is None:
            return None  # whoever has no card must be able to run the package, too
        fitting = [c for c in self.paying_choices if self.ram_taken(c) <= ram_bytes and self._pays(c, ram_bytes)]
        best = min(fitting, key=lambda choice: self.timeline(choice).period, default=alone)
        return self.best_beside_disk(ram_bytes, best) or best

    def best_on_cpu(self, arena_bytes: int) -> Choice | None:
        """The fastest without the card; of equals the one that reads and takes least."""
        if arena_bytes not in self._alone:
            self._alone[arena_bytes] = self._fastest(self._candidates, arena_bytes)[1]
        return self._alone[arena_bytes]

    def _fastest(
        self,
        candidates: Iterable[_Candidate],
        arena_bytes: int,
        best: _Rank = (float("inf"), 0, 0),
        fits: Callable[[Choice], bool] = lambda choice: True,
    ) -> tuple[_Rank, Choice | None]:
        """The best rank and its choice among candidates that are better than ``best``; None: there is none."""
        chosen = None
        for candidate in candidates:
            if candidate.rank >= best:
                break  # simulated time is never below the bound
            choice = candidate.choice
            if candidate.arena_bytes > arena_bytes or self.ring(choice) is None:
                continue
            rank = (_comparable(self.timeline(choice).period), candidate.disk_bytes, candidate.arena_bytes)
            if rank < best and fits(choice):
                best, chosen = rank, choice
        return best, chosen

    @cached_property
    def least_arena(self) -> int:
        """Bytes below which nothing runs."""
        return min(c.arena_bytes for c in self._candidates if self.ring(c.choice) is not None)

    def plan(self, choice: Choice) -> Plan:
        """The plan of one choice, with what the card does for batches."""
        return write_plan(self, self.with_batches(choice))

    def plans(self, ram_bytes: int) -> tuple[Plan, ...]:
        """The best plan for ``ram_bytes`` (the whole process) and plans for less memory, largest first.

        Those with the graphics card are in front of those without, and each is faster than what these do in its memory.
        Raises BudgetExceeded if nothing fits; the message says what would.
        """
        room = (ram_bytes - OVERHEAD) // PAGE * PAGE
        first = self.best_on_cpu(room)
        if first is None:
            raise self._too_small(ram_bytes)
        top, least = self.arena_bytes(first), self.least_arena
        ladder = [least + (top - least) * i // (MOST_PLANS - 1) for i in range(MOST_PLANS - 1)]
        chosen = {self.arena_bytes(c): c for c in (*map(self.best_on_cpu, ladder), first) if c is not None}
        on_cpu = [chosen[size] for size in sorted(chosen, reverse=True)]
        return tuple(self.plan(c) for c in (*self._with_card(room, on_cpu), *on_cpu))

    def _with_card(self, ram_bytes: int, on_cpu: Sequence[Choice]) -> list[Choice]:
        """Choices with the card, largest arena first; ``on_cpu``: those without, likewise.

        The runtime takes the fastest that fits: so each is faster than whatever runs without a card in less memory than
        the one before it takes.
        """
        best = self.best(ram_bytes)
        if best is None or best.card is None:
            return []
        all_in_ram, period = self.arena_bytes(self.resident), self.timeline(on_cpu[0]).period
        kept: list[Choice] = []
        for choice in sorted(self.paying_choices, key=lambda c: (self.arena_bytes(c), self.timeline(c).period)):
            size, mine = self.arena_bytes(choice), self.timeline(choice).period
            faster = not kept or mine < min(self.timeline(c).period for c in kept)
            if size <= self.arena_bytes(best) and mine < period and (faster or size == all_in_ram):
                kept.append(choice)
        kept.sort(key=lambda c: (-self.arena_bytes(c), self.timeline(c).period))
        if best not in kept:
            kept.insert(0, best)
        for alone in on_cpu[::CARD_LADDER]:
            least = self.arena_bytes(kept[-1])
            smaller = [c for c in on_cpu if self.arena_bytes(c) < least]
            if alone not in smaller:
                continue
            beside = self.best_beside_disk(self.arena_bytes(alone), smaller[0])
            if beside is not None:
                kept.append(beside)
        return kept

    def _too_small(self, ram_bytes: int) -> BudgetExceeded:
        caches = sum(c.size(self.context, self.pass_tokens) for c in self.program.caches)
        weights = self.least_arena - self.fixed_bytes
        return BudgetExceeded(
            "the model does not fit in the memory, even streamed from the disk",
            expected=f"at least {(self.least_arena + OVERHEAD) / 2**20:.1f} MiB: {weights / 2**20:.1f} weights that "
            f"must stay and the smallest ring, {caches / 2**20:.1f} KV cache of {self.context} tokens, "
            f"{(self.fixed_bytes - caches) / 2**20:.1f} tokenizer and activations, {OVERHEAD >> 20} the program",
            found=f"{ram_bytes / 2**20:.1f} MiB",
            hint="Take fewer bits (--precision), a smaller --context, or more --ram.",
        )


def fit_context(program: Program, longest: int, ram_bytes: int) -> int:
    """Tokens of context when none are asked for: ``longest``, halved until the KV cache takes a quarter of the RAM."""
    context = longest
    while context > LEAST_CONTEXT and sum(c.size(context, BATCH) for c in program.caches) > ram_bytes // 4:
        context = max(LEAST_CONTEXT, context // 2)
    return min(context, longest)


def _comparable(seconds: float) -> float:
    """Without the last digits: sums of the same times in another order are equal."""
    return float(f"{seconds:.9e}")
