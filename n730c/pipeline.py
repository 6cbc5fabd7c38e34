"""The one conductor: calls the five wings in order and hands values from one to the next."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from n730c.artifacts import OVERHEAD, GpuArch, Plan, Program, split_block_name
from n730c.codegen import GpuImage, build_gpu_images, build_images, computable
from n730c.dtypes import Format
from n730c.dump import dump_value
from n730c.errors import BudgetExceeded, ToolchainError, UsageError
from n730c.files import destination, dump_text, write_page
from n730c.frontend.chat import Chat, check_chat, read_chat
from n730c.frontend.checkpoint import DEFAULT_CONTEXT, Checkpoint
from n730c.frontend.gguf_file import is_gguf
from n730c.frontend.model import load_model
from n730c.frontend.source import text_folder
from n730c.frontend.tokenizer import check_tokenizer, compile_tokenizer
from n730c.host import find_target
from n730c.ir.core import Graph
from n730c.mixed import (
    CALIBRATION_TOKENS,
    Calibrated,
    calibrate,
    check_inputs,
    choose,
    first_budget,
    rounded_bytes,
)
from n730c.package import package_size, validate, write_package
from n730c.package.layout import MAGIC
from n730c.passes import Pass, run_passes
from n730c.passes.fold_slices import FoldSlices
from n730c.passes.fuse_silu_mul import FuseSiluMul
from n730c.passes.lower import lower
from n730c.passes.plan import Planner, fit_context
from n730c.passes.precision import AS_STORED, MIXED, assign_stored, assign_uniform, kv_format
from n730c.precision_picture import draw_precision
from n730c.progress import Stages
from n730c.quant import encode, encode_vector, pack
from n730c.runtime import run_runtime
from n730c.target import Target

DEFAULT_PRECISION = "int4"  # where nothing can be measured: plans made from config.json alone
_TRIES = 4  # until the package fits --max-size: what is not weights depends a little on the formats

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
    calibration: Path | None = None
    calibration_tokens: int = CALIBRATION_TOKENS
    profile: Path | None = None
    report: Path | None = None
    seed: int = 0
    kv: str | None = None
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


def _tensor_bytes(
    program: Program, graph: Graph, checkpoint: Checkpoint, calibrated: Calibrated | None
) -> Callable[[int], bytes]:
    """A function that reads, checks and encodes one tensor of the program: nothing else of the model is in memory.

    With a calibration integer formats are rounded for the inputs that were seen, else to the nearest.
    """
    rounded = rounded_bytes(graph, calibrated) if calibrated else None
    consts = {c.name: c.values for c in graph.consts}
    shapes = {p.name: p.shape for p in graph.params}

    @lru_cache(maxsize=1)  # a matrix in blocks is read once
    def read(name: str) -> Any:
        return checkpoint.tensor(name)

    def encoded(index: int) -> bytes:
        tensor = program.tensors[index]
        name, rows = split_block_name(tensor.name)
        if name in consts:
            return encode_vector(consts[name])
        if not tensor.is_vector and (exact := checkpoint.fields(name, tensor.format, rows)) is not None:
            return pack(tensor.format, *exact)
        if rounded and tensor.format.is_integer and len(shapes[name]) == 2:
            return rounded(name, rows, tensor.format, lambda: read(name)[rows])
        weight = checkpoint.rows(name, rows) if len(shapes[name]) > 2 else read(name)[rows]
        return encode_vector(weight) if tensor.is_vector else encode(weight, tensor.format, tensor.name)

    return encoded


def choose_formats(
    graph: Graph, checkpoint: Checkpoint, precision: str | None, kv: str | None
) -> tuple[str, Mapping[str, Format], Format]:
    """What the precision is called, the format of every tensor, and that of the KV cache."""
    stored = checkpoint.stored_formats()
    if precision is not None or stored is None:
        precision = precision or DEFAULT_PRECISION
        return precision, assign_uniform(graph, precision), kv_format(kv, precision)
    formats = assign_stored(graph, stored)
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
            "calibration": None if options.calibration is None else options.calibration.name,
            "calibration_tokens": options.calibration_tokens,
            "seed": options.seed,
            "kv": options.kv,
            "context": options.context,
            "ram_bytes": options.ram_bytes,
            "vram_bytes": options.vram_bytes,
        },
        "target": target.model_dump(),
    }


def _check_text(package: Path, tokenizer: bytes, model: Path) -> None:
    """The runtime itself must tokenize as the original does; otherwise the build fails."""

    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        file = Path(folder) / "sample.txt"

        def native(text: str) -> list[int]:
            file.write_bytes(text.encode("utf-8"))
            ids: list[int] = json.loads(run_runtime("tokenize", package, "--text", file))
            return ids

        check_tokenizer(tokenizer, model, native)


def _check_chat(package: Path, chat: Chat) -> None:
    """The runtime itself must render conversations as jinja2 does; otherwise the build fails."""

    def native(conversations: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
            file = Path(folder) / "conversations.jsonl"
            file.write_text("".join(f"{json.dumps(c)}\n" for c in conversations), encoding="utf-8")
            return [json.loads(line) for line in run_runtime("render", package, "--messages", file).splitlines()]

    check_chat(chat, native)


def summarize(package: Path, program: Program, plan: Plan, target: Target, precision: str) -> dict[str, Any]:
    """What ``build --json`` prints."""
    return {
        "package": str(package),
        "target": target.name,
        "precision": precision,
        "file_bytes": package.stat().st_size,
        "bits_per_weight": program.bits_per_weight,
        "tensors": len(program.tensors),
        "steps": len(program.steps),
        "plan": {
            "ram_bytes": plan.ram_bytes,
            "vram_bytes": plan.vram_bytes,
            "context": plan.context,
            "disk_bytes_per_token": plan.disk_bytes_per_token,
            "decode_tokens_per_s": plan.decode_tokens_per_s,
            "prefill_tokens_per_s": plan.prefill_tokens_per_s,
            "first_token_s": plan.first_token_s,
        },
    }


def _calibrated(
    options: Options, precision: str, graph: Graph, checkpoint: Checkpoint, texts: Path, stages: Stages
) -> Calibrated | None:
    """The calibration, where the precision or the options ask for one. ``texts``: folder of tokenizer and template."""
    if precision != MIXED and options.calibration is None:
        return None
    return calibrate(
        graph, checkpoint, texts, options.calibration, options.calibration_tokens, options.profile,
        stages.begin("calibrating"), measured=precision == MIXED, seed=options.seed,
    )  # fmt: skip


def _room(graph: Graph, target: Target, tokenizer_bytes: int, options: Options, kv: Format, ram_bytes: int) -> int:
    """Bytes of RAM that are left for weights, all of them in RAM.

    Raises BudgetExceeded where no plan fits the memory even with the fewest bits: before the work begins.
    """
    program = lower(graph, assign_uniform(graph, "int2"), kv)
    planner = Planner(program, target, tokenizer_bytes, choose_context(options.context, graph, program, ram_bytes))
    planner.plans(ram_bytes)
    others = planner.arena_bytes(planner.resident) - sum(segment.size for segment in program.segments)
    return ram_bytes - OVERHEAD - others


def _gpu_images(
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


def _too_large(options: Options, excess: int) -> BudgetExceeded:
    return BudgetExceeded(
        "the package does not fit --max-size",
        expected=f"at least {(options.max_bytes or 0) + excess} bytes",
        found=str(options.max_bytes),
        hint="Give more, or take a smaller model.",
    )


def _destination(options: Options) -> Path:
    """The file to write; what stands in its way is found before the work begins. Raises UsageError."""
    name = options.model.stem if is_gguf(options.model) else options.model.name
    output = destination(options.output or Path(f"{name}.n730"), MAGIC, "package", "-o")
    if options.report is not None:
        destination(options.report, b"<!DOCTYPE html>", "page", "--report")
    if options.dump is not None and options.dump.exists() and not options.dump.is_dir():
        raise UsageError(
            f"cannot write the dump to {options.dump}",
            expected="a folder",
            found="a file",
            hint="Name another folder with --dump.",
        )
    return output


def build(options: Options, console: Console) -> dict[str, Any]:
    """Compile a folder or GGUF file to a package; returns the summary. Raises N730Error; leaves no partial file."""
    output = _destination(options)
    check_inputs(options.calibration, options.profile, options.bits_per_weight)
    target = find_target(options.target, disk=output.parent).with_vram(options.vram_bytes)
    with text_folder(options.model) as texts, Stages(console) as stages:
        done = stages.begin("tracing the model")
        graph, checkpoint = load_model(options.model, options.context)
        graph = run_passes(graph, PASSES, options.dump)
        done(1, 1, f"{len(graph.nodes)} nodes")

        tokenizer = compile_tokenizer(texts, graph.vocab, checkpoint.eos_ids)
        chat = read_chat(texts) if options.chat else None
        chat_section = chat.section if chat else b""
        ram_bytes = options.ram_bytes or target.ram_bytes
        asked = options.precision or (MIXED if checkpoint.stored_formats() is None else None)
        budget, mixed, room = None, None, 0
        if asked == MIXED:
            kv = kv_format(options.kv, MIXED)
            room = _room(graph, target, len(tokenizer), options, kv, ram_bytes)
        calibrated = _calibrated(options, asked or AS_STORED, graph, checkpoint, texts, stages)
        if asked == MIXED and calibrated is not None:
            budget = first_budget(graph, calibrated.profile, options.bits_per_weight, options.max_bytes, room)
        for _ in range(_TRIES):
            done = stages.begin("planning")
            if budget is not None and calibrated is not None:
                mixed = choose(graph, calibrated.profile, budget)
                precision, formats = MIXED, mixed.formats
            else:
                precision, formats, kv = choose_formats(graph, checkpoint, asked, options.kv)
                _say_rounded(console, checkpoint.rounded_again(formats))
            program = lower(graph, formats, kv)
            context = choose_context(options.context, graph, program, ram_bytes)
            if graph.tables_for not in (None, context):  # RoPE depends on the context, which memory has made shorter
                graph = run_passes(load_model(options.model, context)[0], PASSES, options.dump)
            planner = Planner(program, target, len(tokenizer), context, card_steps=computable(program))
            plans = planner.plans(ram_bytes)
            done(1, 1, f"{plans[0].ram_bytes / 2**20:.0f} MiB of RAM")

            done = stages.begin("making kernels")
            images, kernels = build_images(program.kernels, target.isa_level, tune=options.tune, progress=done)
            gpu, plans = _gpu_images(program, plans, target, options.gpu, console)
            images += tuple(made.image for made in gpu)
            done(1, 1, "")
            meta = _provenance(options, precision, checkpoint, target) | {"kernels": kernels}
            if gpu:
                meta["gpu_kernels"] = {made.image.isa.name.lower(): [asdict(f) for f in made.figures] for made in gpu}
            excess = package_size(program, plans, images, tokenizer, chat_section, meta) - (
                options.max_bytes or 1 << 63
            )
            if excess <= 0:
                break
            if budget is None:
                raise _too_large(options, excess)
            budget -= excess
        else:
            raise _too_large(options, excess)
        later = [("precision", formats), ("program", program), *((f"plan_{i}", plan) for i, plan in enumerate(plans))]
        for number, (name, value) in enumerate(later, len(PASSES) + 1):
            dump_value(options.dump, f"{number:02}_{name}", value)
        if chat is not None and options.dump is not None:
            dump_text(options.dump, "chat.txt", chat.program.text())

        advance = stages.begin("quantizing")
        encoded = _tensor_bytes(program, graph, checkpoint, calibrated)

        def check(written: Path) -> None:
            done = stages.begin("checking")
            validate(written, full=True)
            _check_text(written, tokenizer, texts)
            if chat is not None:
                _check_chat(written, chat)
            done(1, 1, "")

        write_package(
            output, program, plans, images, encoded, tokenizer, chat_section, meta,
            progress=lambda n, total: advance(n, total, f"{n / 2**20:.0f} / {total / 2**20:.0f} MiB"),
            check=check,
        )  # fmt: skip
    summary = summarize(output, program, plans[0], target, precision)
    if mixed is not None and calibrated is not None:
        summary["predicted_kl"] = mixed.predicted
        if options.report is not None:
            title = f"{checkpoint.name} for {target.name}"
            page = draw_precision(title, graph, program, calibrated.profile, mixed, output.stat().st_size)
            write_page(options.report, page)
    if calibrated is not None:
        calibrated.forget()
    return summary
