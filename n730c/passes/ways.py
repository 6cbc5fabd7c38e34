"""The ways to run a program on a target, and what each takes: bytes of memory, seconds a token. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from n730c.artifacts import PAGE, PIECE, Program
from n730c.dtypes import round_up
from n730c.passes.card import CardModel
from n730c.passes.card_costs import CardUse
from n730c.passes.cost import StepCost, arriving_seconds, read_seconds, row_read_bytes, step_costs
from n730c.passes.memory import buffer_offsets
from n730c.passes.ring import slots_and_leads
from n730c.passes.simulate import Read, Timeline, simulate
from n730c.passes.weights import Weights
from n730c.target import Target

BATCH = 64  # prompt tokens of one prefill pass: weights are read once a pass
HEAD_BATCH = 8


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
class Ways:
    """The ways to run one program on one target. Sizes in bytes, ``context`` in tokens.

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

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.program)

    @cached_property
    def card(self) -> CardModel | None:
        """The target's graphics card, if there are kernels for it."""
        if self.target.gpu_arch is None or not self.card_steps:
            return None
        return CardModel(
            self.program, self.target, self.context, self.pass_tokens, self.head_tokens, frozenset(self.card_steps)
        )

    def with_batches(self, choice: Choice) -> Choice:
        """``choice`` with what the card does for batches of prompt tokens beyond what it does for one."""
        if choice.card is None or self.card is None:
            return choice
        in_ram = set(range(len(self.program.segments))) - self.away(choice)
        return replace(choice, card=self.card.with_crossing(choice.card, in_ram))

    # ---- memory ----

    @cached_property
    def fixed_bytes(self) -> int:
        """Everything but weights: tokenizer, caches, activations."""
        caches = sum(c.size(self.context, self.pass_tokens) for c in self.program.caches)
        start = round_up(self.tokenizer_bytes, 64) + caches
        return round_up(buffer_offsets(self.program, start, self.pass_tokens, self.head_tokens)[1], PAGE)

    @property
    def pass_tokens(self) -> int:
        return min(self.batch, self.context)

    @property
    def head_tokens(self) -> int:
        return min(self.head_batch, self.pass_tokens)

    @cached_property
    def resident(self) -> Choice:
        """Everything in RAM."""
        return Choice((), 0, None)

    def arena_bytes(self, choice: Choice) -> int:
        sizes = [s.size for s in self.program.segments]
        weights = sum(sizes) - sum(sizes[i] for i in self.away(choice))
        weights += (choice.experts or 0) * self.weights.expert_bytes
        ring = choice.slots * max((sizes[i] for i in choice.streamed), default=0)
        return weights + ring + (0 if choice.rows is None else 2 * PIECE) + self.fixed_bytes

    def ram_taken(self, choice: Choice) -> int:
        """Of RAM, beside the program itself: the arena, and what the driver takes where the card is used."""
        gpu = self.target.gpu if choice.card else None
        return self.arena_bytes(choice) + (gpu.driver_ram_bytes if gpu else 0)

    def away(self, choice: Choice) -> set[int]:
        """Segments that are not loaded into RAM once for all."""
        rows = () if choice.rows is None else (choice.rows,)
        experts = self.weights.experts if choice.experts is not None else ()
        return {*choice.streamed, *rows, *experts, *(choice.card.segments if choice.card else ())}

    def missed(self, experts: int | None) -> float:
        """The share of chosen experts that have to be read with so many places, if each is as likely as any other."""
        return 0.0 if experts is None else 1 - experts / len(self.weights.experts)

    # ---- time ----

    @cached_property
    def decode_costs(self) -> tuple[StepCost, ...]:
        """What each step of one token costs, weights in RAM."""
        return step_costs(self.program, self.target, self.context, 1)

    @cached_property
    def _prefill_costs(self) -> tuple[StepCost, ...]:
        return step_costs(self.program, self.target, self.context, self.pass_tokens)

    def step_seconds(self, card: CardUse | None, streamed: Sequence[int], rows: int | None, tokens: int) -> list[float]:
        if card is None:
            steps = [c.seconds for c in (self.decode_costs if tokens == 1 else self._prefill_costs)]
        else:
            assert self.card is not None
            steps = list(self.card.step_seconds(card, tokens))
        for i in streamed:
            steps[self.weights.uses[i][0]] += arriving_seconds(self.program.segments[i].size, self.target)
        if rows is not None:
            steps[self.weights.uses[rows][0]] += tokens * self.row_seconds(rows)
        return steps

    def row_seconds(self, rows: int) -> float:
        """Of one row of the embedding, from the disk."""
        return self.target.disk_seek_s + row_read_bytes(self.program, rows) / self.target.disk_bytes_per_s

    def _expert_reads(self, tokens: int) -> list[tuple[int, float]]:
        """First steps of experts, and the seconds that reading it takes in a pass on average if none is kept."""
        reads = []
        for i, share in self.weights.experts.items():
            size = self.program.segments[i].size
            seconds = read_seconds(size, False, self.target) + arriving_seconds(size, self.target)
            reads.append((self.weights.uses[i][0], (1 - (1 - share) ** tokens) * seconds))
        return reads

    @cached_property
    def expert_seconds(self) -> float:
        """What reading all experts that a token chooses takes."""
        return sum(seconds for _, seconds in self._expert_reads(1))

    def _reads(self, streamed: Sequence[int], leads: Sequence[int]) -> tuple[Read, ...]:
        reads = []
        for n, i in enumerate(streamed):
            contiguous = streamed[n - 1] == i - 1
            seconds = read_seconds(self.program.segments[i].size, contiguous, self.target)
            reads.append(Read(seconds, leads[n], *self.weights.uses[i]))
        return tuple(reads)

    def ring(self, choice: Choice) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        sizes = [self.program.segments[i].size for i in choice.streamed]
        return slots_and_leads(sizes, [self.weights.uses[i] for i in choice.streamed], choice.slots)

    def timeline(self, choice: Choice, tokens: int = 1) -> Timeline:
        """The simulated passes of ``tokens`` tokens each; the choice must have a ring that works."""
        key = (choice, tokens)
        if key not in self._timelines:
            ring = self.ring(choice)
            assert ring is not None
            steps = self.step_seconds(choice.card, choice.streamed, choice.rows, tokens)
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
        if timeline.waited + self.missed(choice.experts) * self.expert_seconds > timeline.period / 2:
            return "disk"
        if choice.card is not None:
            return "VRAM" if choice.card.whole else "RAM and VRAM"
        reading = sum(c.reading for c in self.decode_costs if c.reading >= c.computing)
        return "RAM" if reading > sum(c.seconds for c in self.decode_costs) / 2 else "compute"

    def disk_bytes(self, choice: Choice) -> int:
        """Bytes read from the disk for one token."""
        rows = 0 if choice.rows is None else round(row_read_bytes(self.program, choice.rows))
        experts = round(self.missed(choice.experts) * self.weights.chosen_bytes)
        return sum(self.program.segments[i].size for i in choice.streamed) + rows + experts
