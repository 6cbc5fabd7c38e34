"""What a GT 730 beside a CPU would do, as the planner models it: the table in README.md. No card was at hand.

    python -m benchmarks.cuda.split [--dry]

A Qwen2-1.5B shape, from its configuration alone, at INT4 and at about 4 bits mixed: formats of 3 to 5 bits by kind of
matrix, as measured assignments spread them; which matrix has which does not matter to the speed, their bytes do.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from n730c.artifacts import OVERHEAD, Program
from n730c.draft import PASSES
from n730c.dtypes import Format
from n730c.frontend.model import load_graph
from n730c.ir.core import Graph
from n730c.passes import run_passes
from n730c.passes.lower import lower
from n730c.passes.plan import Planner
from n730c.passes.precision import assign_uniform
from n730c.target import load_target

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- split: written by benchmarks/cuda/split.py -->", "<!-- /split -->"
CONTEXT = 2048
QWEN2 = {
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-6},
    **{"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "vocab_size": 151936},
    **{"num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768},
    **{"tie_word_embeddings": True, "use_sliding_window": False, "rope_theta": 1e6},
}
MIXED = {"gate_proj": Format.INT3, "v_proj": Format.INT5, "embed_tokens": Format.INT5}  # all others: NL4
TARGETS = {"gt730-gddr5": "GT 730 GDDR5, 40 GB/s", "gt730-ddr3-64": "GT 730 DDR3 on 64 bits, 14.4 GB/s"}


def graph() -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(QWEN2))
        return run_passes(load_graph(Path(folder)), PASSES, None)


def mixed(model: Graph) -> Mapping[str, Format]:
    formats = dict(assign_uniform(model, "nl4"))
    for name, fmt in formats.items():
        if fmt.is_integer:
            formats[name] = next((of for part, of in MIXED.items() if part in name), Format.NL4)
    return formats


def row(program: Program, precision: str, target_name: str) -> str:
    target = load_target(target_name)
    steps = frozenset(range(len(program.steps)))  # every op and format counts as having a kernel
    planner = Planner(program, target, 8 << 20, CONTEXT, card_steps=steps)
    speeds = planner.devices(planner.resident)
    split = next(choice for choice in planner.card_choices if choice.device == "split")
    assert planner.card is not None and split.card is not None
    cpu, card = planner.card.busy(split.card)
    taken = planner.best(target.ram_bytes - OVERHEAD)
    assert taken is not None
    bold = {name: f"**{speed:.1f}**" if name == taken.device else f"{speed:.1f}" for name, speed in speeds.items()}
    return (
        f"| {TARGETS[target_name]} | {precision}, {program.bits_per_weight:.2f} bits a weight | {bold['cpu']} | "
        f"{bold.get('gpu', 'does not fit')} | {bold['split']} | {split.card.vram_bytes / 2**20:.0f} MiB | "
        f"{cpu:.0%}, {card:.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="print the table and leave README.md alone")
    dry = parser.parse_args().dry
    model = graph()
    programs = {
        "INT4": lower(model, assign_uniform(model, "int4")),
        "mixed": lower(model, mixed(model)),
    }
    lines = [
        BEGIN,
        "| card, beside a Core i5-4460 with DDR3-1600 | Qwen2-1.5B shape | CPU alone | card alone | split by rows | "
        "VRAM of the split | CPU, card busy |",
        "|---|---|---|---|---|---|---|",
        *(row(program, name, target) for target in TARGETS for name, program in programs.items()),
        "",
        f"**Modelled, not measured**: tokens/s in decoding with a context of {CONTEXT}, by the planner from the "
        "numbers of the targets `gt730-gddr5` and `gt730-ddr3-64` (`n730c targets show` gives each one's source); bold "
        "is what `n730c plan` would take. It counts on kernels for every format.",
        END,
    ]
    print("\n".join(lines))
    if not dry:
        readme = ROOT / "README.md"
        text = readme.read_text(encoding="utf-8")
        table = "\n".join(lines)
        text = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table, text, flags=re.S)
        readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
