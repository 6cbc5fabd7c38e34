"""Decode and prefill speed beside llama.cpp, same shape, same bits, in turn in one run; medians.

    python benchmarks/cpu/versus_llama_cpp.py --peer-python /path/to/venv/bin/python [--shape tinyllama] [--rounds 5]

Weights are random (speed does not depend on their values); both packages are made here, once, in --work. The peer is
llama-cpp-python built from its PyPI sdist for AVX2 only, in a virtual environment of its own, with `gguf`:

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF" \\
        pip install --no-binary llama-cpp-python llama-cpp-python gguf
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "examples" / "demo-model"

SHAPES: dict[str, dict[str, int]] = {
    "tinyllama": {"hidden": 2048, "ffn": 5632, "layers": 22, "heads": 32, "kv_heads": 4, "vocab": 32000},
    "small": {"hidden": 512, "ffn": 1408, "layers": 8, "heads": 8, "kv_heads": 4, "vocab": 8192},
}
PEER_TYPES = {"int4": "Q4_0", "int8": "Q8_0", "fp16": "F16"}


def make_checkpoint(folder: Path, shape: dict[str, int]) -> None:
    """A random BF16 Llama of this shape as a Hugging Face folder, with the demo's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)


def cpu_name() -> str:
    """The CPU's name as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(
        done.stdout.strip().splitlines()[-1] if "{" not in done.stdout[:1] else done.stdout
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python of the environment that has llama-cpp-python")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tinyllama")
    parser.add_argument("--precisions", nargs="+", choices=sorted(PEER_TYPES), default=["int4"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gen-tokens", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()

    from n730c.runtime import find_runtime

    shape = SHAPES[args.shape]
    args.work.mkdir(parents=True, exist_ok=True)
    model = args.work / args.shape
    if not (model / "config.json").exists():
        print(f"making {model} …", file=sys.stderr)
        make_checkpoint(model, shape)
    lines = [
        f"{date.today()}, {cpu_name()}: random-weight {args.shape} shape, {args.threads} threads, "
        f"medians of {args.rounds} rounds in turn, tokens a second. Load average before: {os.getloadavg()[0]:.1f}.",
        "",
        "| | n730-exec | llama.cpp | ratio |",
        "|---|---|---|---|",
    ]
    for precision in args.precisions:
        package = args.work / f"{args.shape}-{precision}.n730"
        peer = args.work / f"{args.shape}-{PEER_TYPES[precision]}.gguf"
        if not package.exists():
            compiler = [sys.executable, "-m", "n730c", "build", str(model), "--target", "gt730"]
            subprocess.run([*compiler, "--precision", precision, "--context", "1024", "-o", str(package)], check=True)
        helper = [args.peer_python, str(HERE / "peer_llama_cpp.py")]
        if not peer.exists():
            sizes = [str(v) for v in shape.values()]
            subprocess.run([*helper, "make", str(peer), PEER_TYPES[precision], *sizes], check=True)
        counts = ["--prompt-tokens", str(args.prompt_tokens), "--gen-tokens", str(args.gen_tokens)]
        ours_command = [
            str(find_runtime()),
            "bench",
            str(package),
            "--trust",
            "--json",
            "--threads",
            str(args.threads),
            *counts,
        ]
        peer_command = [*helper, "bench", str(peer), str(args.threads), str(args.prompt_tokens), str(args.gen_tokens)]
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(run(ours_command))
            theirs.append(run(peer_command))
        for key in ("decode_tokens_per_s", "prefill_tokens_per_s"):
            a = statistics.median(r[key] for r in ours)
            b = statistics.median(r[key] for r in theirs)
            what = key.removesuffix("_tokens_per_s")
            lines.append(f"| {what}, {precision} / {PEER_TYPES[precision]} | {a:.2f} | {b:.2f} | {a / b:.2f} |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
