"""What a model would do on a target, said before anything is built: from its configuration alone, or from a package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from n730c.artifacts import OVERHEAD, Plan, Program
from n730c.budget import nominal_formats, room_for_weights, rooms
from n730c.codegen import computable, nvrtc_missing
from n730c.draft import PASSES, choose_context, choose_formats, smallest
from n730c.dtypes import Format
from n730c.errors import N730Error, UsageError
from n730c.frontend.gguf_file import is_gguf
from n730c.frontend.model import load_graph
from n730c.frontend.source import open_source, text_folder
from n730c.frontend.tokenizer import compile_tokenizer
from n730c.host import find_target
from n730c.ir.core import Graph
from n730c.package import read_package
from n730c.passes import run_passes
from n730c.passes.explain import explain_card
from n730c.passes.lower import lower
from n730c.passes.plan import Planner
from n730c.passes.precision import AS_STORED, MIXED, PRECISIONS, kv_format
from n730c.passes.ways import Choice
from n730c.target import Target

TOKENIZER_BYTES = 8 << 20  # assumed where there is no tokenizer.json yet: about what 128 000 tokens take
SHORTER = 4  # the shorter context that is offered: a quarter


@dataclass(frozen=True)
class Forecast:
    """One way to build the model. ``choice`` is None where it does not fit; then ``least_bytes`` says what would."""

    precision: str
    context: int
    planner: Planner
    choice: Choice | None

    @property
    def plan(self) -> Plan | None:
        return None if self.choice is None else self.planner.plan(self.choice)

    @property
    def least_bytes(self) -> int:
        return self.planner.least_arena + OVERHEAD

    @property
    def _device_reason(self) -> str:
        if self.choice is None:
            return ""
        reason, missing = explain_card(self.planner, self.choice), nvrtc_missing() if self.choice.card else ""
        return reason + (f" No kernels for it can be made here: {missing}" if missing else "")

    def facts(self) -> dict[str, Any]:
        """``plan --json``: sizes in bytes, speeds in tokens a second, times in seconds; zeros where it does not fit."""
        plan = self.plan
        program = self.planner.program
        return {
            "fits": plan is not None,
            "precision": self.precision,
            "context": self.context,
            "ram_bytes": plan.ram_bytes if plan else self.least_bytes,
            "vram_bytes": plan.vram_bytes if plan else 0,
            "driver_ram_bytes": self.planner.ram_taken(self.choice) - self.planner.arena_bytes(self.choice)
            if self.choice
            else 0,  # beside ram_bytes, of the card's driver
            "disk_bytes_per_token": plan.disk_bytes_per_token if plan else 0,
            "decode_tokens_per_s": plan.decode_tokens_per_s if plan else 0.0,
            "prefill_tokens_per_s": plan.prefill_tokens_per_s if plan else 0.0,
            "first_token_s": plan.first_token_s if plan else 0.0,
            "limit": self.planner.limit(self.choice) if self.choice else "memory",
            "weights_bytes": sum(s.size for s in program.segments),
            "kv_bytes": sum(c.size(self.context, self.planner.batch) for c in program.caches),
            "bits_per_weight": program.bits_per_weight,
            "expert_hit_rate": 1 - self.planner.missed(self.choice.experts)
            if self.choice
            else 0.0,  # that is counted on
            "device": self.choice.device if self.choice else "cpu",
            "device_reason": self._device_reason,
            "devices": self.planner.devices(self.choice) if self.choice else {},  # tokens/s
        }


def forecast(
    source: Path,
    target_name: str,
    precision: str | None = None,
    kv: str | None = None,
    context: int | None = None,
    ram_bytes: int | None = None,
    vram_bytes: int | None = None,
) -> tuple[Forecast, tuple[Forecast, ...], Target]:
    """The forecast for a model's folder, a GGUF file or a package, others that would suit too, and the target.

    A folder needs nothing but config.json. Raises N730Error for what cannot be read or is not understood.
    """
    target = find_target(target_name).with_vram(vram_bytes)
    ram = ram_bytes or target.ram_bytes
    if source.is_file() and not is_gguf(source):
        if precision or kv:
            raise UsageError(
                "--precision and --kv are for model folders", found=f"the package {source}", hint="Leave them out."
            )
        return _of_package(source, target, context, ram), (), target
    graph = run_passes(load_graph(source), PASSES, None)
    tokenizer = _tokenizer_bytes(source, graph)

    checkpoint = open_source(source, weights=False)

    def with_formats(name: str, formats: Mapping[str, Format], cache: Format, asked: int | None) -> Forecast:
        program = lower(graph, formats, cache)
        return _forecast(name, program, target, tokenizer, choose_context(asked, graph, program, ram), ram)

    def of(asked_for: str | None, asked: int | None) -> Forecast:
        if asked_for != MIXED and (asked_for is not None or checkpoint.stored_formats() is not None):
            name, formats, cache = choose_formats(graph, checkpoint, asked_for, kv)
            return with_formats(name, formats, cache, asked)
        cache = kv_format(kv, MIXED)
        room = room_for_weights(smallest(graph, target, tokenizer, asked, cache, ram), ram)
        several = [nominal_formats(graph, some) for some in rooms(room, target)]
        for formats, next_formats in pairwise(several):
            if formats != next_formats:
                made = with_formats(MIXED, formats, cache, asked)
                if made.choice is not None and not made.planner.disk_bytes(made.choice):
                    return made  # the most bits of which none are on the disk
        return with_formats(MIXED, several[-1], cache, asked)

    chosen = of(precision, context)
    return chosen, tuple(_others(chosen, of, context)), target


def _others(
    chosen: Forecast, of: Callable[[str | None, int | None], Forecast], asked: int | None
) -> Iterator[Forecast]:
    for name in ("fp16", "int8", "int4", "int2"):
        if name != chosen.precision and name in PRECISIONS:
            yield of(name, asked)
    shorter = chosen.context // SHORTER
    if shorter >= 1 and chosen.choice != chosen.planner.resident:
        yield of(None if chosen.precision == AS_STORED else chosen.precision, shorter)


def _forecast(name: str, program: Program, target: Target, tokenizer: int, context: int, ram_bytes: int) -> Forecast:
    planner = Planner(program, target, tokenizer, context, card_steps=computable(program))
    return Forecast(name, context, planner, planner.best(max(0, ram_bytes - OVERHEAD)))


def _of_package(path: Path, target: Target, context: int | None, ram_bytes: int) -> Forecast:
    package = read_package(path)
    options = package.meta.get("options")
    name = options.get("precision") if isinstance(options, dict) else None
    context = context or package.plans[0].context
    if context > package.plans[0].context:
        raise UsageError(
            "the package holds less context",
            expected=f"at most {package.plans[0].context} tokens",
            found=str(context),
            hint="Build it again with a larger --context.",
        )
    return _forecast(str(name or "as built"), package.program, target, len(package.tokenizer), context, ram_bytes)


def _tokenizer_bytes(folder: Path, graph: Graph) -> int:
    if folder.is_dir() and not (folder / "tokenizer.json").is_file():
        return TOKENIZER_BYTES
    try:
        with text_folder(folder) as texts:
            return len(compile_tokenizer(texts, graph.vocab, ()))
    except N730Error:  # the build will say so; a plan can do without
        return TOKENIZER_BYTES
