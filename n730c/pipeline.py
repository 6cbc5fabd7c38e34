"""The one conductor: calls the five wings in order and hands values from one to the next."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console

from n730c.artifacts import Plan, Program, split_block_name
from n730c.draft import PASSES, Drafter, Options
from n730c.dump import dump_value
from n730c.errors import UsageError
from n730c.files import destination, dump_text, write_page
from n730c.frontend.chat import Chat, check_chat, read_chat
from n730c.frontend.checkpoint import Checkpoint
from n730c.frontend.gguf_file import is_gguf
from n730c.frontend.model import load_model
from n730c.frontend.source import text_folder
from n730c.frontend.tokenizer import check_tokenizer, compile_tokenizer
from n730c.host import find_target
from n730c.ir.core import Graph
from n730c.mixed import Basis, Calibrated, calibrate, read_basis, rounded_bytes
from n730c.package import validate, write_package
from n730c.package.layout import MAGIC
from n730c.passes import run_passes
from n730c.passes.precision import AS_STORED, MIXED
from n730c.precision_picture import draw_precision
from n730c.progress import Stages
from n730c.quant import encode, encode_vector, pack
from n730c.runtime import run_runtime
from n730c.target import Target
from n730c.verify import divergence_of_probes


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
        of_stack = len(shapes[name]) > 2
        if rounded and tensor.format.is_integer:
            some = partial(checkpoint.rows, name, rows) if of_stack else lambda: read(name)[rows]
            return rounded(name, rows, tensor.format, some)
        weight = checkpoint.rows(name, rows) if of_stack else read(name)[rows]
        return encode_vector(weight) if tensor.is_vector else encode(weight, tensor.format, tensor.name)

    return encoded


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
    options: Options, basis: Basis, precision: str, graph: Graph, checkpoint: Checkpoint, texts: Path, stages: Stages
) -> Calibrated | None:
    """The calibration, where the precision or the options ask for one. ``texts``: folder of tokenizer and template."""
    if precision != MIXED and options.calibration is None:
        return None
    return calibrate(
        graph, checkpoint, texts, basis, options.calibration_tokens, stages.begin("calibrating"),
        measured=precision == MIXED, seed=options.seed,
    )  # fmt: skip


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
    basis = read_basis(options.calibration, options.profile, options.bits_per_weight)
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
        job = Drafter(options, graph, checkpoint, target, tokenizer, chat_section, asked, ram_bytes, stages, console)
        room = job.room() if asked == MIXED else 0  # before the work begins: it may be that nothing fits
        job.check_budget()
        job.calibrated = calibrated = _calibrated(options, basis, asked or AS_STORED, graph, checkpoint, texts, stages)
        made = job.best(room)
        planned, program, plans = made.planned, made.planned.program, made.planned.plans
        later = [("precision", planned.formats), ("program", program)]
        later += [(f"plan_{i}", plan) for i, plan in enumerate(plans)]
        for number, (name, value) in enumerate(later, len(PASSES) + 1):
            dump_value(options.dump, f"{number:02}_{name}", value)
        if chat is not None and options.dump is not None:
            dump_text(options.dump, "chat.txt", chat.program.text())

        lost: list[float] = []
        advance = stages.begin("quantizing")
        encoded = _tensor_bytes(program, job.graph, checkpoint, calibrated)

        def check(written: Path) -> None:
            done = stages.begin("checking")
            validate(written, full=True)
            _check_text(written, tokenizer, texts)
            if chat is not None:
                _check_chat(written, chat)
            if calibrated is not None:
                lost.append(divergence_of_probes(written, calibrated.calibration, done))
            done(1, 1, "")

        write_package(
            output, program, plans, made.images, encoded, tokenizer, chat_section, made.meta,
            progress=lambda n, total: advance(n, total, f"{n / 2**20:.0f} / {total / 2**20:.0f} MiB"),
            check=check,
        )  # fmt: skip
    summary = summarize(output, program, plans[0], target, planned.precision) | {
        "device_reason": job.device_reason(planned)
    }
    if calibrated is not None:
        summary["predicted_kl"] = lost[0]
    if planned.mixed is not None and calibrated is not None:
        summary["predicted_by_profile"] = planned.predicted
        if options.report is not None:
            title, choice = f"{checkpoint.name} for {target.name}", planned.mixed.corrected(lost[0])
            page = draw_precision(title, job.graph, program, calibrated.profile, choice, output.stat().st_size)
            write_page(options.report, page)
    if calibrated is not None:
        calibrated.forget()
    return summary
