"""What a graphics card can take over, and what that gains. Pure.

Two ways beside the CPU alone. *Whole*: the program runs on the card, which must hold all of it. *Split*: of the rows
of a matrix the first tiles lie in VRAM and the rest in RAM, and card and CPU compute at the same time, so that both
memories are read at once; everything else stays on the CPU. Activations cross the bus each way, weights when they are
loaded, and for batches of prompt tokens, which share the way: where the card multiplies a batch so much faster than
the CPU, rows that are in RAM only are brought to it, too. Where RAM is short, segments of which the card computes
everything are not in RAM at all, and where even that is not enough, others are read from the disk (``plan.py``).

Matrices that read the same activations one after the other (queries, keys and values; gate and up) are one *round*: the
activations go up once, the results come back once, and both sides meet at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from n730c.artifacts import NONE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes
from n730c.passes.card_memory import Taken, rounds_of, rows_bytes, staging_bytes, vram_bytes
from n730c.passes.cost import StepCost, expert_shares, step_costs
from n730c.passes.ring import spread
from n730c.target import Gpu, Target

WIDEST = 8  # tokens that a kernel multiplies with one weight that it read
MOST_OFFLOADS = 12  # numbers of segments in VRAM only that are looked at
CALLS = 5  # of the driver, for tiles that come over the bus: a copy, a launch, and what keeps them in order
RESERVE = 16  # of VRAM that part is at most kept free for such tiles
MOST_PARTS = 32  # the same where others are read from the disk: there every byte counts
LEAST_GAIN = 1.05  # a card that gains less is left out: it may fail, and it takes power


@dataclass(frozen=True)
class CardUse:
    """One way to use the card. ``tiles``: steps and the tiles of each that are in VRAM; empty: the whole program is.

    ``segments``: those that are in VRAM only. ``crossing``: steps and the further tiles of each that come over the bus
    for batches of at least ``card_batch`` tokens.
    """

    tiles: tuple[tuple[int, int], ...]
    vram_bytes: int
    segments: tuple[int, ...] = ()
    crossing: tuple[tuple[int, int], ...] = ()
    card_batch: int = 0

    @property
    def whole(self) -> bool:
        return not self.tiles


@dataclass(frozen=True)
class RoundCost:
    """Seconds of one round on both sides; they meet at its end."""

    cpu: float
    card: float

    @property
    def seconds(self) -> float:
        return max(self.cpu, self.card)


@dataclass(frozen=True)
class CardModel:
    """Costs of one program on a target with a card. ``steps``: those for which the card has kernels; sizes in bytes."""

    program: Program
    target: Target
    context: int
    batch: int
    head_batch: int
    steps: frozenset[int]
    _costs: dict[int, tuple[StepCost, ...]] = field(default_factory=dict, compare=False, repr=False)
    _seconds: dict[tuple[CardUse, int], tuple[float, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def _gpu(self) -> Gpu:
        assert self.target.gpu is not None
        return self.target.gpu

    # ---- the program in rounds ----

    @cached_property
    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """Those of which the card can compute some."""
        return tuple(steps for steps in rounds_of(self.program) if self.steps.intersection(steps))

    def _input(self, step: int) -> int:
        return self.program.steps[step].inputs[0]

    def _tiles(self, step: int) -> int:
        return -(-self.program.tensors[self.program.steps[step].weight].rows // TILE_ROWS)

    def _tile_bytes(self, step: int) -> int:
        tensor = self.program.tensors[self.program.steps[step].weight]
        return matrix_bytes(tensor.format, TILE_ROWS, tensor.cols)

    def bytes_of(self, tiles: tuple[tuple[int, int], ...]) -> int:
        """What so many tiles of each step take."""
        return sum(count * self._tile_bytes(step) for step, count in tiles)

    def _tokens(self, step: int, tokens: int) -> int:
        """Of a pass over ``tokens`` tokens, how many reach this step: the head runs for one."""
        return 1 if step >= self.program.head_first else tokens

    # ---- time ----

    def _step_costs(self, tokens: int) -> tuple[StepCost, ...]:
        if tokens not in self._costs:
            self._costs[tokens] = step_costs(self.program, self.target, self.context, tokens)
        return self._costs[tokens]

    def _kernel_seconds(self, step: int, tiles: int, tokens: int) -> float:
        tensor = self.program.tensors[self.program.steps[step].weight]
        rates = self._gpu.kernel_rates if tokens == 1 else self._gpu.batch_rates
        rate: float = getattr(rates, tensor.format.name.lower())
        computing = tokens * tiles * TILE_ROWS * tensor.cols / rate
        reads = -(-tokens // WIDEST)  # of every weight: a block of the grid has so many tokens
        return max(reads * tiles * self._tile_bytes(step) / self.target.vram_bytes_per_s, computing)

    def round_cost(
        self, steps: tuple[int, ...], taken: dict[int, int], tokens: int, crossing: Taken | None = None
    ) -> RoundCost:
        """``taken``: tiles of each step that the card has, ``crossing``: that come over the bus; none of them 0.

        ``tokens`` reach these steps.
        """
        crossing = crossing or {}
        both = {i: taken.get(i, 0) + crossing.get(i, 0) for i in steps if i in taken or i in crossing}
        cpu = sum(self._cpu_seconds(i, both.get(i, 0), tokens) for i in steps)
        card = 0.0
        if both:
            cpu += self._asking(taken, crossing)
            up = tokens * self.program.buffers[self._input(steps[0])].token_bytes
            down = tokens * sum(both.values()) * TILE_ROWS * 4
            card = 2 * self._gpu.copy_s + (up + down) / self.target.pcie_bytes_per_s
            for i, tiles in both.items():
                launches = (i in taken) + (i in crossing)
                seconds = launches * self._gpu.launch_s + self._kernel_seconds(i, tiles, tokens)
                if i in crossing:  # while another step's tiles are multiplied
                    bus = self._gpu.copy_s + crossing[i] * self._tile_bytes(i) / self.target.pcie_bytes_per_s
                    seconds = max(seconds, bus)
                card += seconds
        return RoundCost(cpu, card)

    def _cpu_seconds(self, step: int, taken: int, tokens: int) -> float:
        """What is left of a step for the CPU when the card has ``taken`` tiles of it."""
        cost = self._step_costs(tokens)[step]
        return cost.fixed + (1 - taken / self._tiles(step)) * max(cost.reading, cost.computing)

    def _asking(self, taken: Collection[int], crossing: Collection[int] = ()) -> float:
        """What one thread spends on the driver before it begins with its own rows."""
        return (len(taken) + 2 + CALLS * len(crossing)) * self._gpu.launch_s

    def step_seconds(self, use: CardUse, tokens: int) -> tuple[float, ...]:
        """Seconds of each step of a pass; the CPU waits for the card at the end of a round."""
        if (use, tokens) not in self._seconds:
            self._seconds[use, tokens] = tuple(self._steps(use, tokens))
        return self._seconds[use, tokens]

    def _steps(self, use: CardUse, tokens: int) -> list[float]:
        seconds = [cost.seconds for cost in self._step_costs(tokens)]
        if use.whole:
            return [self._whole_step(i, tokens) for i in range(len(seconds))]
        costs = self.round_costs(use, tokens)
        tiles, crossing = dict(use.tiles), _crossing(use, tokens)
        for steps in self.rounds:
            if steps[0] in costs:
                cost = costs[steps[0]]
                for i in steps:
                    both = tiles.get(i, 0) + crossing.get(i, 0)
                    seconds[i] = self._cpu_seconds(i, both, self._tokens(i, tokens))
                seconds[steps[0]] += self._asking(tiles.keys() & set(steps), crossing.keys() & set(steps))
                seconds[steps[-1]] += cost.seconds - cost.cpu
        return seconds

    def _whole_step(self, i: int, tokens: int) -> float:
        step = self.program.steps[i]
        share = self._shares.get(i, 1.0)  # of the tokens, where the step is an expert's
        runs = 1 - (1 - share) ** tokens
        seconds = runs * self._gpu.launch_s
        if step.op is StepOp.LINEAR:
            reach = max(1, round(share * self._tokens(i, tokens)))
            seconds += runs * self._kernel_seconds(i, self._tiles(i), reach)
        elif step.op is StepOp.ROUTE:  # the gates come to the CPU, which launches what was chosen
            seconds += self._gpu.copy_s
        elif step.op is StepOp.ATTENTION:
            cache = self.program.caches[step.ints[0]]
            seen = min(self.context / 2, cache.window or self.context)
            seconds += seen * cache.position_bytes / self.target.vram_bytes_per_s
        if i == 0:
            seconds += self._gpu.copy_s
        if i == len(self.program.steps) - 1:  # the logits come back
            seconds += self._gpu.copy_s + 4 * self.program.vocab / self.target.pcie_bytes_per_s
        return seconds

    def round_costs(self, use: CardUse, tokens: int) -> dict[int, RoundCost]:
        """What each round that the card takes part in costs, by its first step."""
        tiles, crossing = dict(use.tiles), _crossing(use, tokens)
        costs = {}
        for steps in self.rounds:
            taken = {i: tiles[i] for i in steps if i in tiles}
            brought = {i: crossing[i] for i in steps if i in crossing}
            if taken or brought:
                costs[steps[0]] = self.round_cost(steps, taken, self._tokens(steps[0], tokens), brought)
        return costs

    def busy(self, use: CardUse) -> tuple[float, float]:
        """The shares of a token's time in which CPU and card are at work."""
        if use.whole:
            return 0.0, 1.0
        total = sum(self.step_seconds(use, 1))
        costs = self.round_costs(use, 1).values()
        waiting = sum(cost.seconds - cost.cpu for cost in costs)
        return 1 - waiting / total, sum(cost.card for cost in costs) / total

    # ---- choosing ----

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
    def _shares(self) -> Mapping[int, float]:
        return expert_shares(self.program)

    @cached_property
    def parts(self) -> tuple[CardUse, ...]:
        """Ever more segments in VRAM only, as far as they fit, and no other rows: beside a disk that is read."""
        total = len(self.offloadable)
        found = []
        for count in sorted({total * k // MOST_PARTS for k in range(1, MOST_PARTS + 1)} - {0}):
            segments = spread(self.offloadable, count)
            taken = self._forced(segments)
            used = self._used(taken)
            if used <= self.target.vram_bytes:
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
                (used if i in ours else barred).add(self._segment_of[tensor])
        return tuple(sorted(used - barred))

    @cached_property
    def _segment_of(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.program.segments) for _ in range(s.tensor_count))

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
            taken = self._balanced(steps, sum(map(self._tiles, steps)))
            gain = self._gain(steps, taken)
            if gain > 0:
                wanted.append((-gain / rows_bytes(self.program, taken), steps, taken))
                everything |= taken
        room = self.target.vram_bytes - self._staging(everything) - rows_bytes(self.program, forced)
        if room < 0 and segments:
            return None
        room -= min(self.reserve, self.target.vram_bytes // RESERVE)
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
        return CardUse(tuple(sorted(chosen.items())), self._used(chosen), segments)

    def _forced(self, segments: tuple[int, ...]) -> dict[int, int]:
        """All tiles of the steps that use ``segments``."""
        held = set(segments)
        forced = {}
        for i in (i for steps in self.rounds for i in steps):
            step = self.program.steps[i]
            if any(self._segment_of[tensor] in held for tensor in {step.weight, step.bias} - {NONE}):
                forced[i] = self._tiles(i)
        return forced

    def _used(self, taken: Taken, crossing: Taken | None = None) -> int:
        return vram_bytes(self.program, taken, self.batch, self.head_batch, crossing)

    def _staging(self, taken: Taken) -> int:
        return staging_bytes(self.program, taken, self.batch, self.head_batch)

    def _fill(self, steps: tuple[int, ...], count: int) -> dict[int, int]:
        """``count`` tiles of a round: whole matrices first, the largest first, so that the launches are few."""
        taken = {}
        for i in sorted((i for i in steps if i in self.steps), key=lambda i: (-self._tiles(i), i)):
            if count > 0:
                taken[i] = min(count, self._tiles(i))
                count -= taken[i]
        return taken

    def _balanced(self, steps: tuple[int, ...], most: int) -> dict[int, int]:
        """The tiles at which the round is over soonest: where both sides end together, or all."""

        def cost(count: int) -> RoundCost:
            return self.round_cost(steps, self._fill(steps, count), 1)

        count = _last(most, lambda n: n == 0 or cost(n).card <= cost(n).cpu)
        best = min((n for n in (count, count + 1) if n <= most), key=lambda n: (cost(n).seconds, n))
        return self._fill(steps, best)

    def _fitting(self, steps: tuple[int, ...], most: int, room: int) -> dict[int, int]:
        """As many tiles of a round as ``room`` bytes hold."""
        return self._fill(steps, _last(most, lambda n: rows_bytes(self.program, self._fill(steps, n)) <= room))

    # ---- what comes over the bus for batches ----

    @cached_property
    def reserve(self) -> int:
        """VRAM that would do for whatever may come over the bus, if it pays at all; 0: it does not."""
        wide = [steps for steps in self.rounds if steps[0] < self.program.head_first]
        if not wide:
            return 0
        largest = max(wide, key=lambda steps: sum(self._tiles(i) * self._tile_bytes(i) for i in steps))
        all_of = {i: self._tiles(i) for i in largest if i in self.steps}
        if not self._crossed(largest, {}, all_of):
            return 0
        places = 2 * max(self._tiles(i) * self._tile_bytes(i) for steps in wide for i in steps)
        return places + 4 * TILE_ROWS * self.batch * max(sum(map(self._tiles, steps)) for steps in wide)

    def with_crossing(self, use: CardUse, in_ram: Collection[int]) -> CardUse:
        """``use`` with the tiles that are worth bringing to the card for a whole batch, as far as its memory goes.

        ``in_ram``: segments from which they may come. What is done for one token stays the same.
        """
        if use.whole or not self.reserve:
            return use
        taken = dict(use.tiles)
        free: dict[int, int] = {}  # tiles that the card has not
        for i in (i for steps in self.rounds for i in steps if i in self.steps and i < self.program.head_first):
            step = self.program.steps[i]
            if all(self._segment_of[tensor] in in_ram for tensor in {step.weight, step.bias} - {NONE}):
                free[i] = self._tiles(i) - taken.get(i, 0)
        place = max((n * self._tile_bytes(i) for i, n in free.items()), default=0)
        while place > 0:
            crossing: dict[int, int] = {}
            for steps in self.rounds:
                held = {i: taken[i] for i in steps if i in taken}
                crossing |= self._crossed(
                    steps, held, {i: min(free[i], place // self._tile_bytes(i)) for i in steps if i in free}
                )
            used = self._used(taken, crossing)
            if used <= self.target.vram_bytes:
                return self._from_batch(replace(use, vram_bytes=used, crossing=tuple(sorted(crossing.items()))))
            place //= 2
        return use

    def _crossed(self, steps: tuple[int, ...], taken: dict[int, int], most: Taken) -> dict[int, int]:
        """Of up to ``most`` tiles of each step, those with which a round of a whole batch is over soonest."""

        def fill(count: int) -> dict[int, int]:
            given = {}
            for i in sorted(most, key=lambda i: (-most[i], i)):
                if count > 0 and most[i] > 0:
                    given[i] = min(count, most[i])
                    count -= given[i]
            return given

        def cost(count: int) -> RoundCost:
            return self.round_cost(steps, taken, self.batch, fill(count))

        total = sum(most.values())
        count = _last(total, lambda n: n == 0 or cost(n).card <= cost(n).cpu)
        return fill(min((n for n in (0, count, count + 1) if n <= total), key=lambda n: (cost(n).seconds, n)))

    def _from_batch(self, use: CardUse) -> CardUse:
        """``use`` with the fewest tokens for which its crossing pays; without it if that is not even a whole batch."""
        without = replace(use, vram_bytes=self._used(dict(use.tiles)), crossing=())
        for tokens in sorted({8, 16, 32, self.batch}):
            made = replace(use, card_batch=tokens)
            if 1 < tokens <= self.batch and use.crossing:
                seconds, before = (sum(self.step_seconds(way, tokens)) for way in (made, without))
                if seconds * LEAST_GAIN <= before:
                    return made
        return without

    def _gain(self, steps: tuple[int, ...], taken: dict[int, int]) -> float:
        return self.round_cost(steps, {}, 1).seconds - self.round_cost(steps, taken, 1).seconds


def _crossing(use: CardUse, tokens: int) -> dict[int, int]:
    """The tiles that come over the bus for so many tokens."""
    return dict(use.crossing) if use.card_batch and tokens >= use.card_batch else {}


def _last(most: int, holds: Callable[[int], bool]) -> int:
    """The largest n ≤ ``most`` with ``holds(n)``, which is true of 0 and, once false, stays so."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
