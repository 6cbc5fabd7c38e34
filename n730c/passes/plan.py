"""Place every segment, give everything its bytes in one arena, write the schedule and predict the speed. Pure.

What can be chosen is few: how many segments of the body are streamed from the disk, in runs of how many, through a
ring of how many slots, and whether the embedding is read by rows. Every choice has a memory size and, by simulation,
a time a token. Of all that fit the budget the fastest is taken, exactly (branch and bound); since a larger budget
only adds choices, more memory never makes a plan slower. The head and what EMBED shares with it stay in RAM: a byte
of them saves as much reading as any other.

A graphics card may take part (``card.py``): where nothing is streamed it takes what makes the token shortest; where
the disk is read, it holds segments that need neither RAM nor reading then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from n730c.artifacts import (
    NONE,
    OVERHEAD,
    PAGE,
    PIECE,
    Action,
    Event,
    Placement,
    Plan,
    Program,
    StepOp,
    Tier,
)
from n730c.dtypes import TILE_ROWS, matrix_bytes, round_up
from n730c.errors import BudgetExceeded
from n730c.passes.card import LEAST_GAIN, CardModel, CardUse
from n730c.passes.cost import StepCost, arriving_seconds, expert_shares, read_seconds, row_read_bytes, step_costs
from n730c.passes.memory import buffer_offsets
from n730c.passes.ring import slots_and_leads, spread
from n730c.passes.simulate import Read, Timeline, simulate
from n730c.target import Target

BATCH = 64  # prompt tokens of one prefill pass: weights are read once a pass
HEAD_BATCH = 8
PROMPT = 128  # tokens of the prompt that "time to first token" stands for
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
class Choice:
    """One way to run the program. ``streamed``: segments read in every pass; ``rows``: the segment read by rows;
    ``experts``: places for experts, which are read when they are chosen (None: all are in RAM); ``card``: what the
    graphics card does (None: nothing)."""

    streamed: tuple[int, ...]
    slots: int
    rows: int | None
    experts: int | None = None
    card: CardUse | None = None

    @property
    def device(self) -> str:
        """Who computes: ``cpu``, ``gpu`` or, the rows of matrices between both, ``split``."""
        return "cpu" if self.card is None else "gpu" if self.card.whole else "split"


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
class Planner:
    """All plans of one program on one target. Sizes in bytes, ``context`` in tokens.

    ``card_steps``: the steps for which there are kernels for the target's graphics card.
    """

    program: Program
    target: Target
    tokenizer_bytes: int
    context: int
    batch: int = BATCH
    head_batch: int = HEAD_BATCH
    card_steps: frozenset[int] = frozenset()
    _timelines: dict[tuple[Choice, int], Timeline] = field(default_factory=dict, compare=False, repr=False)
    _beside: dict[CardUse, tuple[_Candidate, ...]] = field(default_factory=dict, compare=False, repr=False)
    _alone: dict[int, Choice | None] = field(default_factory=dict, compare=False, repr=False)

    # ---- what the program allows ----

    @cached_property
    def uses(self) -> tuple[tuple[int, int], ...]:
        """First and last step that uses each segment; (NONE, -1): none does."""
        uses = [(NONE, -1)] * len(self.program.segments)
        for i, step in enumerate(self.program.steps):
            for tensor in (step.weight, step.bias):
                if tensor != NONE:
                    segment = self._segment_of[tensor]
                    uses[segment] = (min(uses[segment][0], i), i)
        return tuple(uses)

    @cached_property
    def _segment_of(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.program.segments) for _ in range(s.tensor_count))

    @cached_property
    def streamable(self) -> tuple[int, ...]:
        """Segments whose tensors are used exactly once, by steps of the body other than EMBED and an expert's."""
        count = [0] * len(self.program.tensors)
        barred: set[int] = set()
        for i, step in enumerate(self.program.steps):
            for tensor in (step.weight, step.bias):
                if tensor != NONE:
                    count[tensor] += 1
                    if i >= self.program.head_first or step.op is StepOp.EMBED or i in self._grouped:
                        barred.add(self._segment_of[tensor])
        barred |= {self._segment_of[t] for t, n in enumerate(count) if n != 1}
        return tuple(i for i in range(len(self.program.segments)) if i not in barred)

    @cached_property
    def _grouped(self) -> frozenset[int]:
        """Steps of experts."""
        starts = [i for i, step in enumerate(self.program.steps) if step.op is StepOp.EXPERT]
        return frozenset(j for i in starts for j in range(i, i + 1 + self.program.steps[i].ints[1]))

    @cached_property
    def expert_segments(self) -> dict[int, float]:
        """Segments that hold one expert each, with the share of tokens that choose it."""
        shares = expert_shares(self.program)
        return {i: shares[first] for i, (first, _) in enumerate(self.uses) if first in self._grouped}

    @cached_property
    def _expert_bytes(self) -> int:
        """Of one place."""
        return max((self.program.segments[i].size for i in self.expert_segments), default=0)

    def missed(self, experts: int | None) -> float:
        """The share of chosen experts that have to be read with so many places, if each is as likely as any other."""
        return 0.0 if experts is None else 1 - experts / len(self.expert_segments)

    @cached_property
    def row_segment(self) -> int | None:
        """The segment that holds an embedding and nothing else, used by EMBED alone; None: there is none."""
        by_id = [s.op is StepOp.EMBED and s.ints != (1,) for s in self.program.steps]
        embeds = {s.weight for s, is_row in zip(self.program.steps, by_id, strict=True) if is_row}
        others = {
            t for s, is_row in zip(self.program.steps, by_id, strict=True) if not is_row for t in (s.weight, s.bias)
        }
        for i, segment in enumerate(self.program.segments):
            tensor = self.program.tensors[segment.first_tensor]
            alone = segment.tensor_count == 1 and segment.first_tensor in embeds - others
            if alone and matrix_bytes(tensor.format, TILE_ROWS, tensor.cols) <= PIECE and segment.size > 2 * PIECE:
                return i
        return None

    # ---- memory ----

    @cached_property
    def _fixed_bytes(self) -> int:
        """Everything but weights: tokenizer, caches, activations."""
        caches = sum(c.size(self.context, self._batch) for c in self.program.caches)
        start = round_up(self.tokenizer_bytes, 64) + caches
        return round_up(buffer_offsets(self.program, start, self._batch, self._head_batch)[1], PAGE)

    @property
    def _batch(self) -> int:
        return min(self.batch, self.context)

    @property
    def _head_batch(self) -> int:
        return min(self.head_batch, self._batch)

    @cached_property
    def resident(self) -> Choice:
        """Everything in RAM."""
        return Choice((), 0, None)

    def arena_bytes(self, choice: Choice) -> int:
        sizes = [s.size for s in self.program.segments]
        weights = sum(sizes) - sum(sizes[i] for i in self._away(choice))
        weights += (choice.experts or 0) * self._expert_bytes
        ring = choice.slots * max((sizes[i] for i in choice.streamed), default=0)
        return weights + ring + (0 if choice.rows is None else 2 * PIECE) + self._fixed_bytes

    def _away(self, choice: Choice) -> set[int]:
        """Segments that are not loaded into RAM once for all."""
        rows = () if choice.rows is None else (choice.rows,)
        experts = self.expert_segments if choice.experts is not None else ()
        return {*choice.streamed, *rows, *experts, *(choice.card.segments if choice.card else ())}

    # ---- time ----

    @cached_property
    def decode_costs(self) -> tuple[StepCost, ...]:
        """What each step of one token costs, weights in RAM."""
        return step_costs(self.program, self.target, self.context, 1)

    @cached_property
    def _prefill_costs(self) -> tuple[StepCost, ...]:
        return step_costs(self.program, self.target, self.context, self._batch)

    def _steps(self, card: CardUse | None, streamed: Sequence[int], rows: int | None, tokens: int) -> list[float]:
        if card is None:
            steps = [c.seconds for c in (self.decode_costs if tokens == 1 else self._prefill_costs)]
        else:
            assert self.card is not None
            steps = list(self.card.step_seconds(card, tokens))
        for i in streamed:
            steps[self.uses[i][0]] += arriving_seconds(self.program.segments[i].size, self.target)
        if rows is not None:
            steps[self.uses[rows][0]] += tokens * self._row_seconds(rows)
        return steps

    def _row_seconds(self, rows: int) -> float:
        """Of one row of the embedding, from the disk."""
        return self.target.disk_seek_s + row_read_bytes(self.program, rows) / self.target.disk_bytes_per_s

    def _expert_reads(self, tokens: int) -> list[tuple[int, float]]:
        """First steps of experts, and the seconds that reading it takes in a pass on average if none is kept."""
        reads = []
        for i, share in self.expert_segments.items():
            size = self.program.segments[i].size
            seconds = read_seconds(size, False, self.target) + arriving_seconds(size, self.target)
            reads.append((self.uses[i][0], (1 - (1 - share) ** tokens) * seconds))
        return reads

    @cached_property
    def _expert_seconds(self) -> float:
        """What reading all experts that a token chooses takes."""
        return sum(seconds for _, seconds in self._expert_reads(1))

    def _reads(self, streamed: Sequence[int], leads: Sequence[int]) -> tuple[Read, ...]:
        reads = []
        for n, i in enumerate(streamed):
            contiguous = streamed[n - 1] == i - 1
            seconds = read_seconds(self.program.segments[i].size, contiguous, self.target)
            reads.append(Read(seconds, leads[n], *self.uses[i]))
        return tuple(reads)

    def _ring(self, choice: Choice) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        sizes = [self.program.segments[i].size for i in choice.streamed]
        return slots_and_leads(sizes, [self.uses[i] for i in choice.streamed], choice.slots)

    def timeline(self, choice: Choice, tokens: int = 1) -> Timeline:
        """The simulated passes of ``tokens`` tokens each; the choice must have a ring that works."""
        key = (choice, tokens)
        if key not in self._timelines:
            ring = self._ring(choice)
            assert ring is not None
            steps = self._steps(choice.card, choice.streamed, choice.rows, tokens)
            if choice.experts is not None:
                for step, seconds in self._expert_reads(tokens):
                    steps[step] += self.missed(choice.experts) * seconds
            self._timelines[key] = simulate(
                steps,
                self._reads(choice.streamed, ring[1]),
                self.target.disk_bytes_per_s_beside_ram / self.target.disk_bytes_per_s,
            )
        return self._timelines[key]

    def limit(self, choice: Choice) -> str:
        """What holds decoding up: ``disk``, ``RAM``, ``compute`` or, where the card is at work, ``VRAM``."""
        timeline = self.timeline(choice)
        if timeline.waited + self.missed(choice.experts) * self._expert_seconds > timeline.period / 2:
            return "disk"
        if choice.card is not None:
            return "VRAM" if choice.card.whole else "RAM and VRAM"
        reading = sum(c.reading for c in self.decode_costs if c.reading >= c.computing)
        return "RAM" if reading > sum(c.seconds for c in self.decode_costs) / 2 else "compute"

    def disk_bytes(self, choice: Choice) -> int:
        """Bytes read from the disk for one token."""
        rows = 0 if choice.rows is None else round(row_read_bytes(self.program, choice.rows))
        experts = round(self.missed(choice.experts) * self._chosen_bytes)
        return sum(self.program.segments[i].size for i in choice.streamed) + rows + experts

    @cached_property
    def _chosen_bytes(self) -> float:
        """Of the experts that a token chooses, on average."""
        return sum(share * self.program.segments[i].size for i, share in self.expert_segments.items())

    # ---- choosing ----

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
        held = set(card.segments if card else ())
        computing = sum(self._steps(card, (), None, 1))
        for streamed in self._streamed_sets([i for i in self.streamable if i not in held]):
            sizes = [self.program.segments[i].size for i in streamed]
            gaps = sum(before != i - 1 for before, i in zip((*streamed[-1:], *streamed), streamed, strict=False))
            reading = sum(sizes) / self.target.disk_bytes_per_s + gaps * self.target.disk_seek_s
            arriving = arriving_seconds(sum(sizes), self.target)
            for rows, experts in product(dict.fromkeys((None, self.row_segment)), self._expert_places(bool(streamed))):
                steps = computing + arriving + (0.0 if rows is None else self._row_seconds(rows))
                bound = _comparable(max(reading, steps + self.missed(experts) * self._expert_seconds))
                choice = Choice(streamed, 0, rows, experts, card)
                disk, arena = self.disk_bytes(choice), self.arena_bytes(choice)
                for slots in (s for s in SLOTS if s <= len(streamed)) if streamed else (0,):
                    choice = replace(choice, slots=slots)
                    found[choice] = _Candidate(bound, disk, arena + slots * max(sizes, default=0), choice)
        return tuple(sorted(found.values(), key=lambda c: c.rank))

    def _expert_places(self, streams: bool) -> list[int | None]:
        """How many places for experts there may be. What every token needs is streamed only when few are left."""
        total = len(self.expert_segments)
        counts = sorted({max(1, total * i // MOST_PLACES) for i in range(MOST_PLACES)} if total > 1 else ())
        return list(counts[:FEW_PLACES]) if streams and counts else [None, *counts]

    @cached_property
    def card(self) -> CardModel | None:
        """The target's graphics card, if there are kernels for it."""
        if self.target.gpu_arch is None or not self.card_steps:
            return None
        return CardModel(
            self.program, self.target, self.context, self._batch, self._head_batch, frozenset(self.card_steps)
        )

    @cached_property
    def card_choices(self) -> tuple[Choice, ...]:
        """The ways to use the card without the disk, fastest first, whether they pay or not."""
        uses = self.card.uses(self.arena_bytes(self.resident)) if self.card else ()
        return tuple(sorted((replace(self.resident, card=use) for use in uses), key=lambda c: self.timeline(c).period))

    @cached_property
    def paying_choices(self) -> tuple[Choice, ...]:
        """Those that gain enough over the CPU alone."""
        return tuple(filter(self._pays, self.card_choices))

    def _pays(self, choice: Choice) -> bool:
        """Whether it gains enough over the CPU alone in the same memory."""
        alone = self.best_on_cpu(self.arena_bytes(choice))
        return alone is None or self.timeline(choice).period * LEAST_GAIN <= self.timeline(alone).period

    def _floor(self, card: CardUse, arena_bytes: int) -> float:
        """Seconds a token that no choice with these segments in VRAM gets below: for computing, for reading others."""
        assert self.card is not None
        elsewhere = {*card.segments, *self.expert_segments, *(() if self.row_segment is None else (self.row_segment,))}
        needed = sum(s.size for i, s in enumerate(self.program.segments) if i not in elsewhere)
        reading = (needed + self._fixed_bytes - arena_bytes) / self.target.disk_bytes_per_s
        return max(reading, sum(self.card.step_seconds(card, 1)))

    def best_beside_disk(self, arena_bytes: int, limit: Choice) -> Choice | None:
        """The fastest with segments in VRAM only and others from the disk, if it pays and is faster than ``limit``."""
        if self.card is None:
            return None
        best: _Rank = (_comparable(self.timeline(limit).period), 0, 0)
        found = None
        floors = [(self._floor(card, arena_bytes), -i, card) for i, card in enumerate(self.card.parts)]
        for floor, _, card in sorted(floors, key=lambda f: f[:2]):
            if floor >= best[0]:
                break
            best, better = self._fastest(self._candidates_beside(card), arena_bytes, best, self._pays)
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

    def best(self, arena_bytes: int) -> Choice | None:
        """The fastest choice whose arena takes at most so much, with the card if that pays."""
        alone = self.best_on_cpu(arena_bytes)
        if alone is None:
            return None  # whoever has no card must be able to run the package, too
        fitting = [choice for choice in self.paying_choices if self.arena_bytes(choice) <= arena_bytes]
        best = min((*fitting, alone), key=lambda choice: self.timeline(choice).period)
        return self.best_beside_disk(arena_bytes, best) or best

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
            if candidate.arena_bytes > arena_bytes or self._ring(choice) is None:
                continue
            rank = (_comparable(self.timeline(choice).period), candidate.disk_bytes, candidate.arena_bytes)
            if rank < best and fits(choice):
                best, chosen = rank, choice
        return best, chosen

    @cached_property
    def least_arena(self) -> int:
        """Bytes below which nothing runs."""
        return min(c.arena_bytes for c in self._candidates if self._ring(c.choice) is not None)

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
        return tuple(map(self.plan, (*self._with_card(room, on_cpu), *on_cpu)))

    def _with_card(self, arena_bytes: int, on_cpu: Sequence[Choice]) -> list[Choice]:
        """Choices with the card, largest arena first; ``on_cpu``: those without, likewise.

        The runtime takes the first that fits: so each is faster than whatever runs without a card in less memory than
        the one before it takes.
        """
        best = self.best(arena_bytes)
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
        caches = sum(c.size(self.context, self._batch) for c in self.program.caches)
        weights = self.least_arena - self._fixed_bytes
        return BudgetExceeded(
            "the model does not fit in the memory, even streamed from the disk",
            expected=f"at least {(self.least_arena + OVERHEAD) / 2**20:.1f} MiB: {weights / 2**20:.1f} weights that "
            f"must stay and the smallest ring, {caches / 2**20:.1f} KV cache of {self.context} tokens, "
            f"{(self._fixed_bytes - caches) / 2**20:.1f} tokenizer and activations, {OVERHEAD >> 20} the program",
            found=f"{ram_bytes / 2**20:.1f} MiB",
            hint="Take fewer bits (--precision), a smaller --context, or more --ram.",
        )

    # ---- writing it down ----

    def with_batches(self, choice: Choice) -> Choice:
        """``choice`` with what the card does for batches of prompt tokens beyond what it does for one."""
        if choice.card is None or self.card is None:
            return choice
        in_ram = set(range(len(self.program.segments))) - self._away(choice)
        return replace(choice, card=self.card.with_crossing(choice.card, in_ram))

    def plan(self, choice: Choice) -> Plan:
        """The plan of one choice."""
        choice = self.with_batches(choice)
        ring = self._ring(choice)
        assert ring is not None
        turns, leads = ring
        segments = self.program.segments
        at = 0
        placements: list[Placement | None] = [None] * len(segments)
        for i, segment in enumerate(segments):
            if choice.card is not None and i in choice.card.segments:
                placements[i] = Placement(Tier.VRAM, 0)
            elif choice.experts is not None and i in self.expert_segments:
                placements[i] = Placement(Tier.EXPERT, 0)
            elif i not in choice.streamed and i != choice.rows:
                placements[i] = Placement(Tier.RAM, at)
                at += segment.size
        slot = max((segments[i].size for i in choice.streamed), default=0)
        for i, turn in zip(choice.streamed, turns, strict=True):
            placements[i] = Placement(Tier.STREAM, at + turn * slot)
        at += choice.slots * slot
        if choice.rows is not None:
            placements[choice.rows] = Placement(Tier.ROWS, at)
            at += 2 * PIECE
        experts_offset = at if choice.experts else 0
        at += (choice.experts or 0) * self._expert_bytes
        tokenizer_offset = at
        at = round_up(at + self.tokenizer_bytes, 64)
        cache_offsets = []
        for cache in self.program.caches:
            cache_offsets.append(at)
            at += cache.size(self.context, self._batch)
        buffers, at = buffer_offsets(self.program, at, self._batch, self._head_batch)
        decode = self.timeline(choice)
        prefill = self.timeline(choice, self._batch)
        later = self._away(choice) - set(choice.card.segments if choice.card else ())
        loading = sum(s.size for i, s in enumerate(segments) if i not in later)
        return Plan(
            arena_bytes=round_up(at, PAGE),
            vram_bytes=choice.card.vram_bytes if choice.card else 0,
            context=self.context,
            batch=self._batch,
            head_batch=self._head_batch,
            placements=tuple(p for p in placements if p is not None),
            buffer_offsets=buffers,
            cache_offsets=tuple(cache_offsets),
            tokenizer_offset=tokenizer_offset,
            schedule=self._schedule(choice, leads),
            disk_bytes_per_token=self.disk_bytes(choice),
            decode_tokens_per_s=1 / decode.period,
            prefill_tokens_per_s=self._batch / prefill.period,
            first_token_s=loading / self.target.disk_bytes_per_s + PROMPT / self._batch * prefill.period,
            disk_bytes_per_s=self.target.disk_bytes_per_s,
            read_bytes=self.target.disk_read_bytes,
            reads_in_flight=self.target.disk_reads_in_flight,
            experts_offset=experts_offset,
            expert_places=choice.experts or 0,
            card_batch=choice.card.card_batch if choice.card else 0,
        )

    def _schedule(self, choice: Choice, leads: Sequence[int]) -> tuple[Event, ...]:
        away = self._away(choice)
        loads = [Event(Action.LOAD, i) for i in range(len(self.program.segments)) if i not in away]
        reads = [Event(Action.READ, i, lead) for i, lead in zip(choice.streamed, leads, strict=True)]
        held, crossing = (dict(choice.card.tiles), dict(choice.card.crossing)) if choice.card else ({}, {})
        runs = [Event(Action.CARD, i, held.get(i, 0), crossing.get(i, 0)) for i in sorted({*held, *crossing})]
        at = 0
        for i in choice.streamed:
            first = self.uses[i][0]
            if first > at:
                runs.append(Event(Action.RUN, at, first - at))
                at = first
            runs.append(Event(Action.WAIT, i))
        runs.append(Event(Action.RUN, at, len(self.program.steps) - at))
        return (*loads, *reads, *runs)


def fit_context(program: Program, longest: int, ram_bytes: int) -> int:
    """Tokens of context when none are asked for: ``longest``, halved until the KV cache takes a quarter of the RAM."""
    context = longest
    while context > LEAST_CONTEXT and sum(c.size(context, BATCH) for c in program.caches) > ram_bytes // 4:
        context = max(LEAST_CONTEXT, context // 2)
    return min(context, longest)


def _comparable(seconds: float) -> float:
    """Without the last digits: sums of the same times in another order are equal."""
    return float(f"{seconds:.9e}")
