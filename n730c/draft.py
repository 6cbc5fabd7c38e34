"""Drafts: everything of a package but the bytes of its tensors, made for a budget of what the matrices may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from n730c.artifacts import OVERHEAD, GpuArch, KernelImage, KernelSpec, Plan, Program
from n730c.budget import cheapest, check_asked, first_budgets, fit, least_budget, room_for_weights, rooms, seconds
from n730c.codegen import GpuImage, build_gpu_images, build_images, computable
from n730c.dtypes import Format
from n730c.errors import BudgetExceeded, ToolchainError, UsageError
from n730c.frontend.calibrate import linear_inputs
from n730c.frontend.checkpoint import DEFAULT_CONTEXT, Checkpoint
from n730c.frontend.model import load_model
from n730c.ir.core import Graph
from n730c.mixed import CALIBRATION_TOKENS, Calibrated, Prices, choose, matrices, stack_bytes
from n730c.mixed import Choice as MixedChoice
from n730c.package import package_size
from n730c.passes import Pass, run_passes
from n730c.passes.explain import explain_card
from n730c.passes.fold_slices import FoldSlices
from n730c.passes.fuse_silu_mul import FuseSiluMul
from n730c.passes.lower import lower
from n730c.passes.plan import Planner, fit_context
from n730c.passes.precision import AS_STORED, MIXED, assign_stored, assign_uniform, kv_format
from n730c.profile import SensitivityProfile
from n730c.progress import Stages
from n730c.target import Target

UNUSED = 8192  # bytes of --max-size that may stay unused

PASSES: tuple[Pass, ...] = (
    FoldSlices(),  # first: it makes the linears that later passes see
    FuseSiluMul(),  # before lowering: one pass over the widest activations instead of two
)


@dataclass(frozen=True)
class Options:
    """What the user asked ``build`` for. ``ram_bytes`` None: what the target leaves; ``context`` None: see README."""

    model: Path
    target: str
    output: Path | None = None
    precision: str | None = None  # None: mixed, or what the model is stored in if it is quantized already
    bits_per_weight: float | None = None
    max_bytes: int | None = None  # of the file
    tokens_per_s: float | None = None  # in decoding, as the planner predicts them
    calibration: Path | None = None
    calibration_tokens: int = CALIBRATION_TOKENS
    profile: Path | None = None
    report: Path | None = None
    seed: int = 0
    kv: str | None = None
    activations: str = "auto"  # or int8, wide: what integer matrices read
    ram_bytes: int | None = None
    vram_bytes: int | None = None
    context: int | None = None
    tune: bool = True
    dump: Path | None = None
    chat: bool = True
    gpu: tuple[GpuArch, ...] = ()  # cards that the package has kernels for


def choose_context(asked: int | None, graph: Graph, program: Program, ram_bytes: int) -> int:
    """Tokens of the KV cache: as asked, or what suits the memory."""
    if asked is None:
        return fit_context(program, min(graph.context, DEFAULT_CONTEXT), ram_bytes)
    if asked > graph.context:
        raise UsageError(
            "--context is longer than the model was made for",
            expected=f"at most {graph.context} tokens",
            found=str(asked),
            hint="Take a smaller --context.",
        )
    return asked


def smallest(
    graph: Graph, target: Target, tokenizer_bytes: int, asked: int | None, kv: Format, ram_bytes: int
) -> Planner:
    """Of the program with the fewest bits, with the context ``asked`` for: what memory holds beside it is for more."""
    program = lower(graph, assign_uniform(graph, "int2"), kv)
    return Planner(program, target, tokenizer_bytes, choose_context(asked, graph, program, ram_bytes))


def choose_formats(
    graph: Graph, checkpoint: Checkpoint, precision: str | None, kv: str | None
) -> tuple[str, Mapping[str, Format], Format]:
    """What the precision is called, the format of every tensor, and that of the KV cache.

    ``precision``: one for all layers; None: as a model stores them that is quantized already.
    """
    if precision is not None:
        return precision, assign_uniform(graph, precision), kv_format(kv, precision)
    formats = assign_stored(graph, checkpoint.stored_formats() or {})
    rounded = any(fmt.is_integer for fmt in formats.values())
    return AS_STORED, formats, kv_format(kv, "int8" if rounded else "fp16")


def _say_rounded(console: Console, again: Mapping[str, int]) -> None:
    if again:
        kinds = ", ".join(f"{count} of type {kind}" for kind, count in again.items())
        console.print(
            f"n730c: note: tensors that no format here holds bit for bit are decoded and rounded again: {kinds}.",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _provenance(options: Options, precision: str, checkpoint: Checkpoint, target: Target) -> dict[str, Any]:
    return {
        "model": checkpoint.name.encode("utf-8", "replace").decode("utf-8"),  # folder names may be any bytes
        "sources": dict(checkpoint.sha256()),
        "compiler": {"name": "n730c", "version": metadata.version("n730c")},
        "options": {
            "precision": precision,
            "bits_per_weight": options.bits_per_weight,
            "max_bytes": options.max_bytes,
            "tokens_per_s": options.tokens_per_s,
            "calibration": None if options.calibration is None else options.calibration.name,
            "calibration_tokens": options.calibration_tokens,
            "seed": options.seed,
            "kv": options.kv,
            "activations": options.activations,
            "context": options.context,
            "ram_bytes": options.ram_bytes,
            "vram_bytes": options.vram_bytes,
        },
        "target": target.model_dump(),
    }


def gpu_images(
    program: Program, plans: tuple[Plan, ...], target: Target, asked: tuple[GpuArch, ...], console: Console
) -> tuple[tuple[GpuImage, ...], tuple[Plan, ...]]:
    """Kernels for the cards that were asked for, and for the target's if a plan uses it.

    Where the latter cannot be made, a note says so, and the plans are those without a card.
    """
    wanted = (target.gpu_arch,) if target.gpu_arch and any(plan.vram_bytes for plan in plans) else ()
    architectures = tuple(dict.fromkeys((*asked, *wanted)))
    try:
        return (build_gpu_images(program, architectures) if architectures else ()), plans
    except ToolchainError as error:
        if asked:
            raise
        console.print(
            f"n730c: note: the graphics card is left out: {error}", markup=False, highlight=False, soft_wrap=True
        )
        return (), tuple(plan for plan in plans if not plan.vram_bytes)


def _too_large(limit: int, least: int) -> BudgetExceeded:
    return BudgetExceeded(
        "the package does not fit --max-size",
        expected=f"at least {least} bytes",
        found=f"{limit} bytes",
        hint="Give more, or take a smaller model.",
    )


@dataclass(frozen=True)
class Planned:
    """What is decided before kernels are made."""

    precision: str
    formats: Mapping[str, Format]
    mixed: MixedChoice | None
    program: Program
    plans: tuple[Plan, ...]
    planner: Planner

    @property
    def predicted(self) -> float:
        """The expected KL divergence, of mixed precision."""
        assert self.mixed is not None
        return self.mixed.predicted


@dataclass(frozen=True)
class Draft:
    """Everything of a package but the bytes of its tensors."""

    planned: Planned
    images: tuple[KernelImage, ...]
    meta: dict[str, Any]
    file_bytes: int


@dataclass
class Drafter:
    """What all drafts of one build share."""

    options: Options
    graph: Graph
    checkpoint: Checkpoint
    target: Target
    tokenizer: bytes
    chat: bytes
    asked: str | None  # precision
    ram_bytes: int
    stages: Stages
    console: Console
    calibrated: Calibrated | None = None
    _made: dict[tuple[KernelSpec, ...], tuple[tuple[KernelImage, ...], Any]] = field(default_factory=dict)

    def room(self) -> int:
        """Bytes of RAM that are left for weights, all of them in RAM.

        Raises BudgetExceeded where no plan fits the memory even with the fewest bits.
        """
        kv, context = kv_format(self.options.kv, MIXED), self.options.context
        planner = smallest(self.graph, self.target, len(self.tokenizer), context, kv, self.ram_bytes)
        planner.plans(self.ram_bytes)
        return room_for_weights(planner, self.ram_bytes)

    def check_budget(self) -> None:
        """Refuse, before anything is measured, what not even the cheapest formats keep. Raises BudgetExceeded."""
        options = self.options
        if self.asked != MIXED:
            return

        def planned(formats: Mapping[str, Format]) -> Planned:
            return self._planned(MIXED, formats, kv_format(options.kv, MIXED))

        formats, shapes = cheapest(self.graph), {p.name: p.shape for p in self.graph.params}
        least = sum(stack_bytes(formats[name], shapes[name]) for name in matrices(self.graph))
        check_asked(self.graph, least, options.bits_per_weight, options.max_bytes)
        if options.max_bytes is not None and options.max_bytes < least:
            raise _too_large(options.max_bytes, self.finished(planned(formats)).file_bytes)
        if options.tokens_per_s is not None:
            prices = [seconds(self.graph, self.target, streamed) for streamed in (False, True)]
            fastest = max(planned(cheapest(self.graph, p)).plans[0].decode_tokens_per_s for p in prices)
            if fastest < options.tokens_per_s:
                raise self._too_slow(fastest, options.tokens_per_s)

    def best(self, room: int) -> Draft:
        """The draft that the options ask for. Raises BudgetExceeded if there is none."""
        options = self.options
        if self.asked != MIXED or self.calibrated is None:
            return self.finished(self.planned(None))
        profile = self.calibrated.profile
        if options.tokens_per_s is not None:
            return self.finished(self._fast_enough(options.tokens_per_s))
        tried = rooms(room, self.target)
        budgets = first_budgets(self.graph, profile, options.bits_per_weight, options.max_bytes, tried)
        if options.max_bytes is None:
            return self._in_memory(budgets)
        (budget,), limit, least = budgets, options.max_bytes, least_budget(self.graph, profile)

        def draft(budget: float) -> Draft:
            return self.finished(self.planned(budget))

        made = fit(draft, lambda made: made.file_bytes - limit, budget, least, limit, UNUSED)
        if made.file_bytes > limit:
            raise _too_large(limit, made.file_bytes)
        return made

    def _in_memory(self, budgets: Sequence[float]) -> Draft:
        """Of the first budget whose plan reads nothing from the disk for a token, else of the last."""
        for budget in budgets[:-1]:
            planned = self.planned(budget)
            if not planned.plans[0].disk_bytes_per_token:
                made = self.finished(planned)
                if not made.planned.plans[0].disk_bytes_per_token:
                    return made
                break  # no kernels could be made for the card
        return self.finished(self.planned(budgets[-1]))

    def _fast_enough(self, wanted: float) -> Planned:
        """The most precise formats with which the planner predicts ``wanted`` tokens a second.

        A byte costs the time that it takes to read it from where it will live. If all are in RAM, that is the RAM; if
        not, every byte more is one more from the disk. What is better is found by trying both.
        """
        found: Planned | None = None
        fastest = 0.0
        for streamed in (False, True):
            prices = seconds(self.graph, self.target, streamed)

            def planned(budget: float, prices: Prices = prices) -> Planned:
                return self.planned(budget, prices)

            def excess(made: Planned) -> float:
                return 1 / made.plans[0].decode_tokens_per_s - 1 / wanted

            least = least_budget(self.graph, self._profile, prices)
            made = fit(planned, excess, 1 / wanted, least, 1 / wanted)
            speed = made.plans[0].decode_tokens_per_s
            fastest = max(fastest, speed)
            if speed >= wanted and (found is None or made.predicted < found.predicted):
                found = made
        if found is None:
            raise self._too_slow(fastest, wanted)
        return found

    def _too_slow(self, fastest: float, wanted: float) -> BudgetExceeded:
        return BudgetExceeded(
            f"{self.target.name} is too slow for --tokens-per-s",
            expected=f"at most {0.995 * fastest:.3g}, predicted with the fewest bits",
            found=f"{wanted:g}",
            hint="Ask for less, or take a smaller model or --context.",
        )

    @property
    def _profile(self) -> SensitivityProfile:
        assert self.calibrated is not None
        return self.calibrated.profile

    def planned(self, budget: float | None, prices: Prices | None = None) -> Planned:
        """With matrices of at most ``budget`` (bytes, or whatever ``prices`` are in) if the precision is mixed."""
        if budget is not None:
            mixed = choose(self.graph, self._profile, budget, prices, self.options.activations)
            return self._planned(MIXED, mixed.formats, kv_format(self.options.kv, MIXED), mixed)
        precision, formats, kv = choose_formats(self.graph, self.checkpoint, self.asked, self.options.kv)
        _say_rounded(self.console, self.checkpoint.rounded_again(formats))
        return self._planned(precision, formats, kv)

    def _planned(
        self, precision: str, formats: Mapping[str, Format], kv: Format, mixed: MixedChoice | None = None
    ) -> Planned:
        options, done = self.options, self.stages.begin("planning")
        wide = mixed.wide if mixed else frozenset[str]()
        if options.activations == "wide":
            wide = frozenset(linear_inputs(self.graph.nodes).values())
        program = lower(self.graph, formats, kv, wide=wide)
        context = choose_context(options.context, self.graph, program, self.ram_bytes)
        if self.graph.tables_for not in (None, context):  # RoPE depends on the context, which memory has made shorter
            self.graph = run_passes(load_model(options.model, context)[0], PASSES, options.dump)
        planner = Planner(program, self.target, len(self.tokenizer), context, card_steps=computable(program))
        plans = planner.plans(self.ram_bytes)
        done(1, 1, f"{plans[0].ram_bytes / 2**20:.0f} MiB of RAM")
        return Planned(precision, formats, mixed, program, plans, planner)

    def device_reason(self, planned: Planned) -> str:
        """What the plans do with the target's card and why; empty: it has none, or a note has said what is missing."""
        best = planned.planner.best(self.ram_bytes - OVERHEAD)
        if best is None or (best.card is not None and not planned.plans[0].vram_bytes):
            return ""
        return explain_card(planned.planner, best)

    def finished(self, planned: Planned) -> Draft:
        """The same with its kernels, and how large it will be."""
        options, program = self.options, planned.program
        images, kernels = self._images(program)
        gpu, plans = gpu_images(program, planned.plans, self.target, options.gpu, self.console)
        images += tuple(made.image for made in gpu)
        meta = _provenance(options, planned.precision, self.checkpoint, self.target) | {"kernels": kernels}
        if gpu:
            meta["gpu_kernels"] = {made.image.isa.name.lower(): made.manifest() for made in gpu if made.figures}
        size = package_size(program, plans, images, self.tokenizer, self.chat, meta)
        return Draft(replace(planned, plans=plans), images, meta, size)

    def _images(self, program: Program) -> tuple[tuple[KernelImage, ...], Any]:
        """The CPU's kernels; drafts that need the same share them."""
        if program.kernels not in self._made:
            done = self.stages.begin("making kernels")
            level, tune = self.target.isa_level, self.options.tune
            self._made[program.kernels] = build_images(program.kernels, level, tune=tune, progress=done)
            done(1, 1, "")
        return self._made[program.kernels]
