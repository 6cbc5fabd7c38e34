"""Every family of n730c/families.py, built and run: writes the table in README.md.

    python benchmarks/families.py [--prompts 50] [--tokens 64] [--only NAME …] [--dry]   (--only: these rows alone)

Of each family a small model with random weights is built at FP16 and INT4. FP16: the largest difference of the
runtime's logits from those of transformers in FP32, by the largest logit, over a text beyond the windows; and how many
greedy continuations are equal. INT4: the KL divergence of the package's next-token distributions, in nats.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from n730c.cli import run  # noqa: E402
from n730c.evaluate import compare_logits  # noqa: E402
from n730c.families import FAMILIES, Family  # noqa: E402
from n730c.frontend.trace import quiet  # noqa: E402
from tests.e2e.conftest import generate, n730_exec  # noqa: E402
from tests.models import make_family  # noqa: E402

LENGTHS = (3, 12, 24, 40, 60)  # of prompts; windows are 24
TEXT = 150  # tokens whose logits are compared
BEGIN, END = "<!-- families: written by benchmarks/families.py -->", "<!-- /families -->"


def logits(package: Path, ids: np.ndarray, folder: Path) -> np.ndarray:
    (folder / "ids").write_text(" ".join(map(str, ids)))
    done = n730_exec("score", package, "--tokens", folder / "ids", "--logits", folder / "logits.npy", "--trust")
    assert done.returncode == 0, done.stderr.decode()
    found: np.ndarray = np.load(folder / "logits.npy")
    return found


def greedy_texts(reference: Any, prompts: list[list[int]], made: list[list[int]], tokens: int) -> int:
    """How many of ``made`` the reference would write too: each token is its likeliest behind those before.

    That is asked in one pass over prompts of one length with what was made of them. A text shorter than ``tokens``
    ended in token 0.
    """
    size = len(prompts[0])
    ends = [[*text, 0][:tokens] for text in made]
    padded = [prompt + text + [0] * (tokens - len(text)) for prompt, text in zip(prompts, ends, strict=True)]
    with torch.no_grad():
        best = reference(torch.tensor(padded), use_cache=False).logits[:, size - 1 : -1].argmax(-1).tolist()
    return sum(likeliest[: len(text)] == text for likeliest, text in zip(best, ends, strict=True))


def row(family: Family, prompts: int, tokens: int, folder: Path) -> str:
    model = make_family(folder / "model", family)
    length = 70 if family.depends_on_context else TEXT
    context = ["--context", str(length)] if family.depends_on_context else []
    packages = {}
    for precision in ("fp16", "int4"):
        packages[precision] = folder / f"{precision}.n730"
        choices = ["--target", "gt730", "--precision", precision, "--no-tune", *context]
        run(["build", str(model), *choices, "-o", str(packages[precision])])
    with quiet():
        reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    ids = rng.integers(1, family.config["vocab_size"], length)
    with torch.no_grad():
        expected = reference(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    error = np.abs(logits(packages["fp16"], ids, folder) - expected).max() / np.abs(expected).max()
    kl, _ = compare_logits(expected, logits(packages["int4"], ids, folder))
    equal, given = 0, 0
    for size in () if family.depends_on_context else LENGTHS:
        batch = rng.integers(1, family.config["vocab_size"], (prompts // len(LENGTHS), size)).tolist()
        made = [generate(packages["fp16"], prompt, tokens, folder, "--trust") for prompt in batch]
        equal += greedy_texts(reference, batch, made, tokens)
        given += len(batch)
    greedy = f"{equal} of {given}" if given else "–"
    return f"| {family.name} | {family.exercises} | {error:.1e} | {greedy} | {kl.mean():.3f} |"


def record(family: Family, line: str, tokens: int) -> None:
    """Put a family's row into README.md, where the rows of the others stay."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {known.split("|")[1].strip(): known for known in old.splitlines() if known.startswith("| ")}
    rows[family.name] = line
    lines = [
        BEGIN,
        "| family | what is peculiar to it | FP16: max Δ of logits ÷ max | FP16: greedy texts equal | INT4: KL, nats |",
        "|---|---|---|---|---|",
        *(rows[known.name] for known in FAMILIES if known.name in rows),
        "",
        f"Small models with random weights, against transformers in FP32; texts of {tokens} greedy tokens. "
        "Random weights make logits that nearly tie, so that INT4 looks worse here than on a trained model.",
        END,
    ]
    readme.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=50, help="greedy continuations a family, a multiple of 5")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each")
    parser.add_argument("--only", nargs="*", help="names of families; the rows of others stay")
    parser.add_argument("--dry", action="store_true", help="print the table and leave README.md alone")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for family in FAMILIES:
        if chosen.only and family.name not in chosen.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = row(family, chosen.prompts, chosen.tokens, Path(folder))
        print(line, flush=True)
        if not chosen.dry:
            record(family, line, chosen.tokens)


if __name__ == "__main__":
    main()
