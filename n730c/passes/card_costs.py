"""What a pass costs where a graphics card has a part of the weights. Pure.

Matrices that read the same activations one after the other (queries, keys and values; gate and up) are one *round*: the
activations go up once, the results come back once, and both sides meet at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from n730c.artifacts import NONE, Program, StepOp
from n730c.dtypes import TILE_ROWS, matrix_bytes
from n730c.passes.card_memory import Taken, rounds_of, staging_bytes, vram_bytes
from n730c.passes.cost import StepCost, attention, expert_shares, step_costs
from n730c.passes.weights import Weights
from n730c.target import Gpu, Target

WIDEST = 8  # tokens that a kernel multiplies with one weight that it read
CALLS = 5  # of the driver, for tiles that come over the bus: a copy, a launch, and what keeps them in order
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
class CardCosts:
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
    def gpu(self) -> Gpu:
        assert self.target.gpu is not None
        return self.target.gpu

    @cached_property
    def weights(self) -> Weights:
        return Weights(self.program)

    # ---- the program in rounds ----

    @cached_property
    def rounds(self) -> tuple[tuple[int, ...], ...]:
        """Those of which the card can compute some."""
        return tuple(steps for steps in rounds_of(self.program) if self.steps.intersection(steps))

    def _input(self, step: int) -> int:
        return self.program.steps[step].inputs[0]

    def tiles(self, step: int) -> int:
        """Of the whole matrix of a LINEAR step."""
        return -(-self.program.tensors[self.program.steps[step].weight].rows // TILE_ROWS)

    def tile_bytes(self, step: int) -> int:
        tensor = self.program.tensors[self.program.steps[step].weight]
        return matrix_bytes(tensor.format, TILE_ROWS, tensor.cols)

    def segments_of(self, use: CardUse) -> frozenset[int]:
        """Those with weights or biases of the steps that the card has tiles of; none of these is read from the disk."""
        steps = [self.program.steps[i] for i, _ in use.tiles]
        return frozenset(self.weights.segment_of[t] for s in steps for t in (s.weight, s.bias) if t != NONE)

    def bytes_of(self, tiles: tuple[tuple[int, int], ...]) -> int:
        """What so many tiles of each step take."""
        return sum(count * self.tile_bytes(step) for step, count in tiles)

    def _tokens(self, step: int, tokens: int) -> int:
        """Of a pass over ``tokens`` tokens, how many reach this step: the head runs for one."""
        return 1 if step >= self.program.head_first else tokens

    # ---- memory ----

    def used(self, taken: Taken, crossing: Taken | None = None) -> int:
        """Of VRAM, with all that goes with those tiles."""
        return vram_bytes(self.program, taken, self.batch, self.head_batch, crossing)

    def staging(self, taken: Taken) -> int:
        """Of VRAM, for what goes there and comes back."""
        return staging_bytes(self.program, taken, self.batch, self.head_batch)

    # ---- time ----

    def _step_costs(self, tokens: int) -> tuple[StepCost, ...]:
        if tokens not in self._costs:
            self._costs[tokens] = step_costs(self.program, self.target, self.context, tokens)
        return self._costs[tokens]

    def _kernel_seconds(self, step: int, tiles: int, tokens: int) -> float:
        tensor = self.program.tensors[self.program.steps[step].weight]
        rates = self.gpu.kernel_rates if tokens == 1 else self.gpu.batch_rates
        rate: float = getattr(rates, tensor.format.name.lower())
        computing = tokens * tiles * TILE_ROWS * tensor.cols / rate
        reads = -(-tokens // WIDEST)  # of every weight: a block of the grid has so many tokens
        return max(reads * tiles * self.tile_bytes(step) / self.target.vram_bytes_per_s, computing)

    def round_cost(self, steps: tuple[int, ...], taken: Taken, tokens: int, crossing: Taken | None = None) -> RoundCost:
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
            card = 2 * self.gpu.copy_s + (up + down) / self.target.pcie_bytes_per_s
            for i, tiles in both.items():
                launches = (i in taken) + (i in crossing)
                seconds = launches * self.gpu.launch_s + self._kernel_seconds(i, tiles, tokens)
                if i in crossing:  # while another step's tiles are multiplied
                    bus = self.gpu.copy_s + crossing[i] * self.tile_bytes(i) / self.target.pcie_bytes_per_s
                    seconds = max(seconds, bus)
                card += seconds
        return RoundCost(cpu, card)

    def _cpu_seconds(self, step: int, taken: int, tokens: int) -> float:
        """What is left of a step for the CPU when the card has ``taken`` tiles of it."""
        cost = self._step_costs(tokens)[step]
        return cost.fixed + (1 - taken / self.tiles(step)) * max(cost.reading, cost.computing)

    def _asking(self, taken: Collection[int], crossing: Collection[int] = ()) -> float:
        """What one thread spends on the driver before it begins with its own rows."""
        return (len(taken) + 2 + CALLS * len(crossing)) * self.gpu.launch_s

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
        seconds = runs * self.gpu.launch_s
        if step.op is StepOp.LINEAR:
            reach = max(1, round(share * self._tokens(i, tokens)))
            seconds += runs * self._kernel_seconds(i, self.tiles(i), reach)
        elif step.op is StepOp.ROUTE:  # the gates come to the CPU, which launches what was chosen
            seconds += self.gpu.copy_s
        elif step.op is StepOp.ATTENTION:
            reading, products = attention(self.program, step, self.context)
            seconds += max(reading / self.target.vram_bytes_per_s, tokens * products / self.gpu.kernel_rates.bf16)
        if i == 0:
            seconds += self.gpu.copy_s
        if i == len(self.program.steps) - 1:  # the logits come back
            seconds += self.gpu.copy_s + 4 * self.program.vocab / self.target.pcie_bytes_per_s
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

    @cached_property
    def _shares(self) -> Mapping[int, float]:
        return expert_shares(self.program)


def _crossing(use: CardUse, tokens: int) -> dict[int, int]:
    """The tiles that come over the bus for so many tokens."""
    return dict(use.crossing) if use.card_batch and tokens >= use.card_batch else {}


def fill(room: Taken, count: int) -> dict[int, int]:
    """``count`` of the tiles that there are of each step: whole matrices first, the largest first, for few launches."""
    given = {}
    for i in sorted(room, key=lambda i: (-room[i], i)):
        if count > 0 and room[i] > 0:
            given[i] = min(count, room[i])
            count -= given[i]
    return given


def soonest(room: Taken, cost: Callable[[dict[int, int]], RoundCost]) -> dict[int, int]:
    """Of up to ``room`` tiles of each step, those with which a round is over soonest: where both sides end together,
    or all, or none."""

    def of(count: int) -> RoundCost:
        return cost(fill(room, count))

    total = sum(room.values())
    count = last_that(total, lambda n: n == 0 or of(n).card <= of(n).cpu)
    return fill(room, min((n for n in (0, count, count + 1) if n <= total), key=lambda n: (of(n).seconds, n)))


def last_that(most: int, holds: Callable[[int], bool]) -> int:
    """The largest n ≤ ``most`` with ``holds(n)``, which is true of 0 and, once false, stays so."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
