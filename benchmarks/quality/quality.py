"""What quantization loses beside llama.cpp: mean KL divergence from the original at the peer's own sizes.

    python benchmarks/quality/quality.py --peer-python /path/to/venv/bin/python [--model examples/demo-model]
        [--types Q2_K Q3_K_M …] [--tokens 4096] [--parts peer assignments shapes] [--out benchmarks/quality/results.md]

Both sides are calibrated on the same token windows of the first part of the model's ``heldout.txt`` (or of
``--calibration FILE``), the peer through an importance matrix; both are run by their own runtime on the same windows of
the other part, and compared with transformers in FP32. A package is given the bytes that the peer's tensors
take, embedding, head and norms included.

The part ``assignments`` compares the KL that the profile predicts with what n730-exec gives, for random assignments,
and mixed INT2/4/8 with one format for all layers at the same size; and it forces upon this model the quicker
measurement that large models get, to see what that loses. ``shapes`` weighs formats that are not there.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.quality.assignments import Assignments, assignments  # noqa: E402
from benchmarks.quality.shapes import shapes  # noqa: E402
from benchmarks.quality.subject import Subject  # noqa: E402

TYPES = ("IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K")
PARTS = ("peer", "assignments", "shapes")
LIMITS = {"Q2_K": 0.7, "Q3_K_M": 0.7, "Q4_K_M": 0.8, "Q6_K": 0.8, "IQ2_M": 1.0, "IQ3_XXS": 1.0, "IQ4_XS": 1.0}


def beside_the_peer(subject: Subject, command: tuple[str, ...], kinds: list[str]) -> list[str]:
    lines = [
        "| size of | bits a weight | llama.cpp: KL | top-1 | n730c: KL | top-1 | ours / theirs | at most "
        "| predicted / measured | by the profile alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        peer = subject.peer(command, kind)
        bpw = 8 * (peer["tensor_bytes"] - subject.vector_bytes) / subject.matrix_elements
        ours = subject.mixed(f"as-{kind}", bpw)
        ratio = ours["kl"] / peer["kl"]
        lines.append(
            f"| {kind} | {bpw:.2f} | {peer['kl']:.5f} | {peer['top1']:.3f} | {ours['kl']:.5f} | {ours['top1']:.3f} "
            f"| {ratio:.2f} | {LIMITS[kind]:.1f} | {ours['predicted_kl'] / ours['kl']:.2f} "
            f"| {ours['predicted_by_profile'] / ours['kl']:.2f} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "demo-model")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks" / "quality")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    subject = Subject(args.model, args.folder / args.model.name, args.tokens, args.calibration, args.calibration_tokens)
    command = (args.peer_python, str(HERE / "peer_llama_cpp.py"))
    lines = [subject.describe()]
    if "peer" in args.parts:
        lines += ["", *beside_the_peer(subject, command, args.types)]
    if {"assignments", "shapes"}.intersection(args.parts):
        bench = Assignments(subject)
        if "assignments" in args.parts:
            lines += ["", *assignments(bench, args.count)]
        if "shapes" in args.parts:
            lines += ["", *shapes(bench)]
        bench.calibrated.forget()
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
