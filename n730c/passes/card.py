"""What a graphics card can take over, and what that gains. Pure.

Two ways beside the CPU alone. *Whole*: the program runs on the card, which must hold all of it. *Split*: of the rows
of a matrix the first tiles lie in VRAM and the rest in RAM, and card and CPU compute at the same time, so that both
memories are read at once; everything else stays on the CPU. Activations cross the bus each way, weights only when they
are loaded. Where RAM is short, segments of which the card computes everything are not in RAM at all.

Matrices that read the same activations one after the other (queries, keys and values; gate and up) are one *round*: the
activations go up once, the results come back once, and both sides meet at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from n730c.artifacts import NONE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes, round_up
from n730c.passes.cost import StepCost, expert_shares, step_costs
from n730c.target import Gpu, Target

VRAM_ALIGN = 256  # bytes; what lies in VRAM is aligned to it, as cuMemAlloc does
MOST_OFFLOADS = 12  # numbers of segments in VRAM only that are looked at
LEAST_GAIN = 1.05  # a card that gains less is left out: it may fail, and it takes power


Taken = Mapping[int, int]  # tiles of LINEAR steps that the card has, none of them 0


def rounds_of(program: Program) -> tuple[tuple[int, ...], ...]:
    """LINEAR steps that follow each other at once with the same input, outside experts (FORMAT.md, SCHEDULE)."""
    experts = expert_shares(program)
    found: list[list[int]] = []
    for i, step in enumerate(program.steps):
        if step.op is not StepOp.LINEAR or i in experts:
            continue
        last = found[-1][-1] if found else NONE
        if last == i - 1 != program.head_first - 1 and program.steps[last].inputs == step.inputs:
            found[-1].append(i)
        else:
            found.append([i])
    return tuple(map(tuple, found))


def rows_bytes(program: Program, taken: Taken) -> int:
    """What tiles and biases take in VRAM."""
    total = 0
    for i, tiles in taken.items():
        step = program.steps[i]
        weight = program.tensors[step.weight]
        total += round_up(tiles * matrix_bytes(weight.format, TILE_ROWS, weight.cols), VRAM_ALIGN)
        total += 0 if step.bias == NONE else round_up(program.tensors[step.bias].size, VRAM_ALIGN)
    return total


def staging_bytes(program: Program, taken: Taken, batch: int, head_batch: int) -> int:
    """VRAM for the activations that go up and the results that come back, of the largest round each."""
    up = down = 0
    for steps in rounds_of(program):
        tiles = sum(taken.get(i, 0) for i in steps)
        if tiles:
            tokens = batch if steps[0] < program.head_first else head_batch
            up = max(up, tokens * program.buffers[program.steps[steps[0]].inputs[0]].token_bytes)
            down = max(down, tokens * tiles * TILE_ROWS * 4)
    return round_up(up, VRAM_ALIGN) + round_up(down, VRAM_ALIGN)


@dataclass(frozen=True)
class CardUse:
    """One way to use the card. ``tiles``: steps and the tiles of each that are in VRAM; empty: the whole program is.

    ``segments``: those that are in VRAM only.
    """

    tiles: tuple[tuple[int, int], ...]
    vram_bytes: int
    segments: tuple[int, ...] = ()

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
        return max(tiles * self._tile_bytes(step) / self.target.vram_bytes_per_s, computing)

    def round_cost(self, steps: tuple[int, ...], taken: dict[int, int], tokens: int) -> RoundCost:
        """``taken``: tiles of each step that the card computes, none of them 0. ``tokens`` reach these steps."""
        costs = self._step_costs(tokens)
        cpu = card = 0.0
        for i in steps:
            share = 1 - taken.get(i, 0) / self._tiles(i)
            cpu += costs[i].fixed + share * max(costs[i].reading, costs[i].computing)
        if taken:
            calls = len(taken) + 2
            cpu += calls * self._gpu.launch_s  # one thread asks for the work before it begins with its own
            up = tokens * self.program.buffers[self._input(steps[0])].token_bytes
            down = tokens * sum(taken.values()) * TILE_ROWS * 4
            card = 2 * self._gpu.copy_s + (up + down) / self.target.pcie_bytes_per_s
            for i, tiles in taken.items():
                card += self._gpu.launch_s + self._kernel_seconds(i, tiles, tokens)
        return RoundCost(cpu, card)

    def step_seconds(self, use: CardUse, tokens: int) -> tuple[float, ...]:
        """Seconds of each step of a pass; a round's are its first step's."""
        seconds = [cost.seconds for cost in self._step_costs(tokens)]
        if use.whole:
            return tuple(self._whole_step(i, tokens) for i in range(len(seconds)))
        costs = self.round_costs(use, tokens)
        for steps in self.rounds:
            if steps[0] in costs:
                for i in steps:
                    seconds[i] = 0.0
                seconds[steps[0]] = costs[steps[0]].seconds
        return tuple(seconds)

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
        tiles = dict(use.tiles)
        costs = {}
        for steps in self.rounds:
            taken = {i: tiles[i] for i in steps if i in tiles}
            if taken:
                costs[steps[0]] = self.round_cost(steps, taken, self._tokens(steps[0], tokens))
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
            chosen = (s for j, s in enumerate(self.offloadable) if (j + 1) * count // total > j * count // total)
            use = self._split(tuple(chosen))
            if use is not None:
                yield use

    @cached_property
    def _shares(self) -> Mapping[int, float]:
        return expert_shares(self.program)

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
        forced = {}
        for i in (i for steps in self.rounds for i in steps):
            step = self.program.steps[i]
            if any(self._segment_of[tensor] in segments for tensor in {step.weight, step.bias} - {NONE}):
                forced[i] = self._tiles(i)
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
        used = self._staging(chosen) + rows_bytes(self.program, chosen)
        return CardUse(tuple(sorted(chosen.items())), used, segments)

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

    def _gain(self, steps: tuple[int, ...], taken: dict[int, int]) -> float:
        return self.round_cost(steps, {}, 1).seconds - self.round_cost(steps, taken, 1).seconds


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
