"""Models of real size with random weights, built at FP16: their logits beside those of transformers in FP32.

    python benchmarks/real_size.py [--only NAME …]

No weights can be had here, but configurations are known. Writes real_size.md beside this file, a row for each model;
takes about 5 GB of memory and 4 GB of disk a thousand million parameters.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from benchmarks.families import greedy_texts, logits  # noqa: E402
from n730c.cli import run  # noqa: E402
from n730c.families import Family  # noqa: E402
from n730c.frontend.trace import quiet  # noqa: E402
from tests.e2e.conftest import generate  # noqa: E402
from tests.models import make_family  # noqa: E402

TOKENS, NEW_TOKENS = 32, 8
RESULTS = Path(__file__).with_suffix(".md")
TITLE = f"""# Models of real size

Written by `benchmarks/real_size.py`: the configurations of these models with random weights, FP16 packages for gt730
beside transformers in FP32. A text of {TOKENS} tokens, and a greedy one of {NEW_TOKENS} behind its first half.

| model | parameters | package, GB | max Δ of logits ÷ max | greedy text equal |
|---|---|---|---|---|
"""
_QWEN3 = {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": True,
          "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "rms_norm_eps": 1e-6}  # fmt: skip
MODELS = (
    Family(
        "Qwen3-0.6B", "qwen3", "",
        {**_QWEN3, "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
         "intermediate_size": 3072},
    ),
    Family(
        "Gemma 3 1B", "gemma3_text", "",
        {"hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
         "head_dim": 256, "intermediate_size": 6912, "vocab_size": 262144, "max_position_embeddings": 32768,
         "sliding_window": 512, "query_pre_attn_scalar": 256},
    ),
    Family(
        "Gemma 2 2B", "gemma2", "",
        {"hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
         "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000, "max_position_embeddings": 8192,
         "sliding_window": 4096, "query_pre_attn_scalar": 256},
    ),
)  # fmt: skip


def row(model: Family, folder: Path) -> str:
    source, package = make_family(folder / "model", model), folder / "p.n730"
    choices = ["--target", "gt730", "--precision", "fp16", "--ram", "12G", "--context", "128", "--no-tune"]
    run(["build", str(source), *choices, "-o", str(package)])
    ids = np.random.default_rng(0).integers(1, model.config["vocab_size"], TOKENS)
    found = logits(package, ids, folder)
    prompt = ids[: TOKENS // 2].tolist()
    made = generate(package, prompt, NEW_TOKENS, folder, "--trust")
    size = package.stat().st_size
    package.unlink()
    with quiet():
        reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    error = np.abs(found - expected).max() / np.abs(expected).max()
    same = "yes" if greedy_texts(reference, [prompt], [made], NEW_TOKENS) else "no"
    count = sum(p.numel() for p in reference.parameters()) / 1e6
    return f"| {model.name} | {count:.0f} million | {size / 1e9:.2f} | {error:.1e} | {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[m.name for m in MODELS], help="names; other rows stay")
    chosen = parser.parse_args()
    for model in MODELS:
        if model.name not in chosen.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = row(model, Path(folder))
        print(line, flush=True)
        old = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
        rows = {known.split("|")[1].strip(): known for known in [*old, line] if known.startswith("| ")}
        lines = [rows[m.name] for m in MODELS if m.name in rows]
        RESULTS.write_text(TITLE + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
