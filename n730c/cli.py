"""The command line of n730c: parses, calls the pipeline, prints. Everything a user can cause ends in one line."""

from __future__ import annotations

import json
import re
import shlex
import sys
from enum import StrEnum
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from n730c.artifacts import GpuArch
from n730c.errors import N730Error, UsageError
from n730c.files import write_page
from n730c.report import print_forecasts, print_package, show_need, show_size

app = typer.Typer(
    help="Compile Hugging Face language models for yesterday's PCs.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True)


class Precision(StrEnum):
    """Bits of the linear layers; the embedding and the head get at least 8. ``mixed``: each tensor its own."""

    mixed = "mixed"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"
    int6 = "int6"
    int5 = "int5"
    int4 = "int4"
    nl4 = "nl4"
    int3 = "int3"
    nl2 = "nl2"
    int2 = "int2"


def parse_size(text: str, least: int = 1) -> int:
    """``512M``, ``1.5G``, ``4096`` → bytes (binary units), at least ``least``. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    exact = Fraction(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ") if match else 0
    size = int(exact)
    if match is None or not least <= size < 1 << 63:
        raise typer.BadParameter(f"not a size (expected something like 512M or 1.5G, found {text!r})")
    return size


def parse_gpus(text: str) -> tuple[GpuArch, ...]:
    """``sm_35,sm_50`` → architectures, each once. Raises typer.BadParameter."""
    names = [name.strip().upper() for name in text.split(",")]
    cards = {arch.name: arch for arch in GpuArch if arch is not GpuArch.PTX}  # which comes with any of them
    for name in names:
        if name not in cards:
            known = ", ".join(cards).lower()
            raise typer.BadParameter(f"not a graphics card's architecture (expected {known}, found {name.lower()!r})")
    return tuple(dict.fromkeys(cards[name] for name in names))


class Activations(StrEnum):
    """What integer matrices read: 8 bits an element, 16, or 16 where 8 were measured to hurt."""

    auto = "auto"
    int8 = "int8"
    wide = "wide"


class KV(StrEnum):
    """Elements of the KV cache."""

    fp16 = "fp16"
    fp32 = "fp32"
    int8 = "int8"


TargetName = Annotated[str, typer.Option(help="name of a target (see `n730c targets`) or a TOML file")]
RamSize = Annotated[str | None, typer.Option(metavar="SIZE", help="memory to fit in [default: the target's]")]
VramSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="memory of the graphics card to use; 0: none [default: the target's]")
]


@app.command()
def build(
    model: Annotated[
        Path, typer.Argument(help="Hugging Face model folder (config.json, safetensors, tokenizer.json) or GGUF file")
    ],
    target: TargetName,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="package to write [default: MODEL.n730]")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="bits of the linear layers; mixed: what was measured to serve each tensor best "
            "[default: mixed; of a GGUF file: as each tensor is stored]"
        ),
    ] = None,
    bpw: Annotated[
        float | None, typer.Option(min=0.1, metavar="B", help="mixed: bits a weight, scales and embedding included")
    ] = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="mixed: size of the file")] = None,
    tokens_per_s: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="X", help="mixed: the most bits with which the target decodes so fast"),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 text to calibrate on [default: one that comes along]")
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(min=256, help="tokens of it that are used")] = 16384,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="mixed: read the sensitivity profile, or write it if there is no such file"),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="mixed: draw what was decided, and why, as an HTML page")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="which part of the calibration text is taken")] = 0,
    kv: Annotated[
        KV | None,
        typer.Option(help="KV cache [default: fp16; with --precision bf16 or fp16, which round nothing, fp32]"),
    ] = None,
    activations: Annotated[
        Activations,
        typer.Option(
            help="bits of what integer matrices read; auto: 8, and with mixed 16 where 8 were measured to hurt"
        ),
    ] = Activations.auto,
    ram: RamSize = None,
    vram: VramSize = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="tokens the KV cache holds [default: the model's, at most 4096]")
    ] = None,
    chat: Annotated[bool, typer.Option(help="compile the model's chat template")] = True,
    tune: Annotated[bool, typer.Option(help="time the kernel makers on this machine and take the faster")] = True,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            help="kernels for NVIDIA cards, sm_35 (GT 730), sm_50, sm_52, sm_61; commas [default: what the plan uses]",
        ),
    ] = None,
    dump: Annotated[Path | None, typer.Option(metavar="DIR", help="write IR, program and plan here")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a summary as JSON on stdout")] = False,
) -> None:
    """Compile MODEL into one package for the target."""
    from n730c.draft import Options
    from n730c.passes.precision import MIXED
    from n730c.pipeline import build as run

    given = {"--bpw": bpw, "--max-size": max_size, "--tokens-per-s": tokens_per_s}
    budgets = [name for name, value in given.items() if value is not None]
    mixed = [name for name, value in (given | {"--profile": profile, "--report": report}).items() if value is not None]
    if mixed and precision not in (None, Precision.mixed):
        raise UsageError(f"{mixed[0]} is for --precision mixed", found=f"--precision {precision.value}")
    if len(budgets) > 1:
        raise UsageError(
            f"{' and '.join(budgets)} are {len(budgets)} budgets",
            expected="one",
            found=str(len(budgets)),
            hint="Leave all but one out.",
        )
    options = Options(
        model=model,
        target=target,
        output=output,
        precision=precision.value if precision else MIXED if mixed else None,
        bits_per_weight=bpw,
        max_bytes=parse_size(max_size) if max_size is not None else None,
        tokens_per_s=tokens_per_s,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        profile=profile,
        report=report,
        seed=seed,
        kv=kv.value if kv else None,
        activations=activations.value,
        ram_bytes=parse_size(ram) if ram is not None else None,
        vram_bytes=parse_size(vram, 0) if vram is not None else None,
        context=context,
        chat=chat,
        tune=tune,
        dump=dump,
        gpu=parse_gpus(gpu) if gpu else (),
    )
    summary = run(options, errors)
    if as_json:
        try:
            print(json.dumps(summary, indent=2), flush=True)
        except OSError as error:
            raise N730Error(
                f"{summary['package']} was written, but its summary could not be printed",
                expected="a stdout that can be written to",
                found=error.strerror or str(error),
                hint=f"Run n730c inspect {shlex.quote(summary['package'])} --json.",
            ) from None
        return
    errors.print(f"wrote {summary['package']}  ({show_size(summary['file_bytes'])})", highlight=False, markup=False)
    plan = summary["plan"]
    errors.print(
        f"on {summary['target']}: {show_need(plan['ram_bytes'])} of RAM "
        + (f"and {show_size(plan['vram_bytes'])} of the graphics card's memory " if plan["vram_bytes"] else "")
        + f"for {plan['context']} tokens of context; "
        f"predicted {plan['decode_tokens_per_s']:.1f} tokens/s, first token after {plan['first_token_s']:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if summary["device_reason"] and not plan["vram_bytes"]:
        errors.print(summary["device_reason"], highlight=False, markup=False, soft_wrap=True)
    if "predicted_kl" in summary:
        errors.print(
            f"expected KL divergence from the original: {summary['predicted_kl']:.2g} nats a token", highlight=False
        )
    command = f'n730-exec {shlex.quote(summary["package"])} --trust --prompt "…"'
    errors.print(f"run it:  {command}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="print the list as JSON")] = False) -> None:
    """List the families of models that are known to work: the tests build and run one of each."""
    from n730c.families import FAMILIES

    if as_json:
        print(
            json.dumps([{"name": f.name, "model_type": f.model_type, "has": f.exercises} for f in FAMILIES], indent=2)
        )
        return
    table = Table("family", "model_type in config.json", "what is peculiar to it", box=None)
    for family in FAMILIES:
        table.add_row(family.name, family.model_type, family.exercises)
    Console().print(table)


@app.command("export-onnx")
def export_onnx(
    model: Annotated[Path, typer.Argument(help="a Hugging Face model folder")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write [default: MODEL.onnx]")] = None,
) -> None:
    """Write MODEL as an ONNX graph of one text: ids [s] to logits [s, vocab], in float32."""
    try:
        from n730c.onnx_export import export
    except ModuleNotFoundError as error:
        hint = "Run pip install 'n730c[onnx]'."
        raise UsageError("export-onnx needs the onnx library", found=f"no module {error.name}", hint=hint) from None
    for path in export(model, output or Path(f"{model.resolve().name}.onnx")):
        errors.print(f"wrote {path}  ({show_size(path.stat().st_size)})", highlight=False, markup=False, soft_wrap=True)


@app.command()
def plan(
    source: Annotated[
        Path, typer.Argument(help="a Hugging Face folder (config.json is enough), a GGUF file or a .n730 file")
    ],
    target: TargetName,
    precision: Annotated[
        Precision | None, typer.Option(help="bits of the linear layers [default: as build would take]")
    ] = None,
    kv: Annotated[KV | None, typer.Option(help="KV cache [default: as build would take]")] = None,
    ram: RamSize = None,
    vram: VramSize = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="tokens the KV cache holds [default: what suits the memory]")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="draw one token and the memory as an HTML page")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Say whether a model fits a target and how fast it will be, before anything is built."""
    from n730c.forecast import forecast

    chosen, others, where = forecast(
        source,
        target,
        precision.value if precision else None,
        kv.value if kv else None,
        context,
        parse_size(ram) if ram is not None else None,
        parse_size(vram, 0) if vram is not None else None,
    )
    if report is not None:
        if chosen.choice is None:
            raise UsageError("there is no plan to draw", found="a model that does not fit", hint="Leave --report out.")
        from n730c.picture import draw

        page = draw(f"{source.name} on {where.name}", chosen.planner, chosen.choice)
        write_page(report, page)
    facts = chosen.facts()
    if as_json:
        print(json.dumps({"target": where.name, **facts, "others": [o.facts() for o in others]}, indent=2))
        return
    print_forecasts(facts, [o.facts() for o in others], where.name, Console())


@app.command()
def inspect(
    package: Annotated[Path, typer.Argument(help="a .n730 file")],
    as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON on stdout")] = False,
    extract: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write every kernel image as a file of its own here")
    ] = None,
) -> None:
    """Show what is in a package."""
    from n730c.package import describe, read_package
    from n730c.package import extract as extract_images

    content = read_package(package)
    if extract is not None:
        for path in extract_images(content, extract):
            print(path)
        return
    facts = describe(content)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    print_package(facts, Console())


@app.command()
def verify(package: Annotated[Path, typer.Argument(help="a .n730 file")]) -> None:
    """Check every rule of the format and every checksum of a package."""
    from n730c.package import validate

    validate(package, full=True)
    print(f"{package}: OK")


@app.command("eval")
def evaluate(
    package: Annotated[Path, typer.Argument(help="a .n730 file")],
    model: Annotated[Path, typer.Argument(help="the original: Hugging Face folder or GGUF file")],
    text: Annotated[Path, typer.Option(help="UTF-8 text that the model is measured on")],
    tokens: Annotated[int, typer.Option(min=2, help="use at most this many tokens of the text")] = 8192,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure what the package lost: perplexity, KL divergence and agreement with the original model in FP32."""
    from n730c.evaluate import evaluate_package

    result = evaluate_package(package, model, text, tokens, errors)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        table.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.5g}")
    Console().print(table)


def _version(asked: bool) -> None:
    if asked:
        print(f"n730c {metadata.version('n730c')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    """Compile Hugging Face language models for yesterday's PCs."""


targets_app = typer.Typer(help="List the PCs that n730c knows.", invoke_without_command=True)
app.add_typer(targets_app, name="targets")


@targets_app.callback()
def list_targets(context: typer.Context) -> None:
    """List the PCs that n730c knows."""
    from n730c.host import HOST, HOST_DESCRIPTION
    from n730c.target import load_target, target_names

    if context.invoked_subcommand is None:
        for name in target_names():
            print(f"{name:16} {load_target(name).description}")
        print(f"{HOST:16} {HOST_DESCRIPTION}")


@targets_app.command("show")
def show_target(name: Annotated[str, typer.Argument(help="a target's name, `host`, or a TOML file")]) -> None:
    """Print every number of a target with its source."""
    from n730c.host import find_target

    print(json.dumps(find_target(name).model_dump(), indent=2))


def run(arguments: list[str]) -> None:
    """Run one command. Raises SystemExit for help and for a wrong command line (2), and whatever the command raises.

    Not typer's own ``app()``: that prints boxes of several lines and swallows Ctrl-C.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("n730c", arguments) as context:
            command.invoke(context)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except _WrongCommandLine as error:
        what = " ".join(error.format_message().split()).rstrip(".")
        where = error.ctx.command_path if error.ctx else "n730c"
        print(f"n730c: error: {what}. Run {where} --help.", file=sys.stderr)
        sys.exit(2)


_WrongCommandLine: Any = typer.BadParameter.__base__  # click's UsageError, of the click that this typer has inside
