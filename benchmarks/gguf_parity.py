"""Greedy tokens of our packages beside llama.cpp's on the same GGUF files, made from the demo model.

    python benchmarks/gguf_parity.py --peer-python /path/to/venv/bin/python [--out benchmarks/gguf_parity.md]

The peer is llama-cpp-python (see benchmarks/cpu/versus_llama_cpp.py) in an environment of its own. Both get the same
token ids. A prompt agrees up to the first token that differs; there the peer's logits say how near the two were.
Both quantize activations to 8 bits in front of quantized matrices, in blocks of 32, but round them differently (its
scales are FP16, ours FP32). The last columns say how often each equals transformers in FP32 on the weights that the
file stands for, dequantized by the gguf package: what differs there is the rounding of activations.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

PROMPTS = 20
PROMPT_TOKENS = 24
NEW_TOKENS = 64
END = 0
PEER = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, count = sys.argv[1], int(sys.argv[2])
llm = Llama(path, n_ctx=512, n_threads=2, verbose=False, logits_all=True)
results = []
for prompt in json.load(sys.stdin):
    llm.reset()
    llm.eval(prompt)
    tokens, gaps = [], []
    for _ in range(count):
        logits = np.asarray(llm.scores[llm.n_tokens - 1])
        first, second = np.sort(logits)[-2:][::-1]
        tokens.append(int(logits.argmax()))
        gaps.append(float(first - second))
        if tokens[-1] == 0:
            break
        llm.eval(tokens[-1:])
    results.append([tokens, gaps])
print(json.dumps(results))
"""


def peer(python: str, file: Path, prompts: list[list[int]]) -> list[tuple[list[int], list[float]]]:
    """The peer's greedy tokens and, for each, the gap between its two best logits."""
    command = [python, "-c", PEER, str(file), str(NEW_TOKENS)]
    done = subprocess.run(command, input=json.dumps(prompts), capture_output=True, text=True, check=True)
    result: list[tuple[list[int], list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return result


def ours(package: Path, prompts: list[list[int]], folder: Path) -> list[list[int]]:
    """Our greedy tokens, the end-of-text token left out."""
    from n730c.runtime import run_runtime

    results = []
    for prompt in prompts:
        file = folder / "ids.txt"
        file.write_text(" ".join(map(str, prompt)))
        options = ["--tokens", file, "-n", str(NEW_TOKENS), "--temperature", "0", "--ids", "--trust"]
        results.append([int(token) for token in run_runtime(package, *options).split()])
    return results


def reference(weights: dict[str, Any], prompts: list[list[int]]) -> list[list[int]]:
    """Greedy tokens of transformers in FP32 on these weights, the end-of-text token left out."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.models import DEMO

    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
    ids = torch.tensor(prompts)
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(END)] if END in row else row for row in rows]


def compare(kind: str, python: str, folder: Path, prompts: list[list[int]]) -> str:
    """One row of the table."""
    from gguf import GGMLQuantizationType

    from n730c.cli import run
    from tests.gguf_files import write_gguf
    from tests.models import DEMO

    file, package = folder / f"{kind}.gguf", folder / f"{kind}.n730"
    weights = write_gguf(DEMO, file, lambda _: GGMLQuantizationType[kind])
    run(["build", str(file), "--target", "gt730", "--no-tune", "-o", str(package)])
    equal, same, total, gaps = 0, 0, 0, []
    exact = [0, 0]  # ours, theirs
    results = zip(ours(package, prompts, folder), peer(python, file, prompts), reference(weights, prompts), strict=True)
    for mine, (theirs, gap), true in results:
        theirs = theirs[:-1] if theirs[-1] == END else theirs
        exact = [exact[0] + (mine == true), exact[1] + (theirs == true)]
        length = max(len(mine), len(theirs))
        at = next((i for i in range(length) if mine[i : i + 1] != theirs[i : i + 1]), length)
        equal, same, total = equal + (at == length), same + at, total + length
        if at < length:
            gaps.append(gap[at])
    near = f"{max(gaps):.4f}" if gaps else "–"
    agree = f"{equal} of {len(prompts)} | {same} of {total} ({same / total:.1%})"
    return f"| {kind} | {agree} | {near} | {exact[0]} | {exact[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="Python of the environment that has llama-cpp-python")
    parser.add_argument("--kinds", nargs="+", default=["F16", "Q8_0", "Q4_0"])
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    import tokenizers

    from tests.models import DEMO

    text = (DEMO / "heldout.txt").read_text()
    ids: Any = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    prompts = [ids[200 * i : 200 * i + PROMPT_TOKENS] for i in range(PROMPTS)]
    lines = [
        f"The demo model as GGUF, {PROMPTS} prompts of {PROMPT_TOKENS} tokens, up to {NEW_TOKENS} greedy tokens each, "
        "written by benchmarks/gguf_parity.py.",
        "",
        "| type | continuations equal llama.cpp's | tokens before the first that differs "
        "| largest gap of the peer's two best logits there | ours equal FP32 activations | llama.cpp's do |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        lines += [compare(kind, args.peer_python, Path(folder), prompts) for kind in args.kinds]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
