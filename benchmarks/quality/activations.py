"""What 8-bit activations lose: KL divergence from the same quantized weights with FP32 activations.

    python benchmarks/quality/activations.py [--model examples/demo-model] [--formats int8 int4 …] [--tokens 1024]
        [--out FILE]

Integer matrices read their inputs in steps of a 127th of each group's largest (FORMAT.md, QUANTIZE). For each format a
package is built with an FP32 cache and run by n730-exec; the interpreter runs the same weights, as the package holds
them, with FP32 activations. ``weights`` is the divergence of the latter from the original, ``activations`` that of the
former from the latter: mean, 99th percentile and largest of all tokens, in nats. Behind it the inputs of one kind of
matrix alone are rounded, in the interpreter: where it hurts. ``16 bits`` is a package with ``--activations wide``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT)]

from n730c.dtypes import Format  # noqa: E402
from n730c.evaluate import compare_logits  # noqa: E402
from n730c.frontend.model import load_model  # noqa: E402
from n730c.frontend.walk import Observe, Stage, Values, load_weights, quantize_activations, run_stage, stages  # noqa: E402
from n730c.ir.core import Graph, Node  # noqa: E402
from n730c.ir.ops import Array  # noqa: E402
from n730c.package import read_package  # noqa: E402
from n730c.passes.precision import PRECISIONS  # noqa: E402
from n730c.quant import dequantize  # noqa: E402
from n730c.runtime import run_runtime  # noqa: E402

WINDOW = 256  # tokens


def kind_of(node: Node) -> str:
    """q_proj, down_proj, lm_head …"""
    parts = [part for part in str(node.param("weight")).split("|")[0].split(".") if part != "weight"]
    return parts[-1]


def stored_weights(package: Path, original: Callable[[str], Array]) -> Callable[[str], Array]:
    """The package's matrices as FP32; its vectors are the original's."""
    content = read_package(package)
    stored = {tensor.name: (i, tensor) for i, tensor in enumerate(content.program.tensors)}

    def get(name: str) -> Array:
        index, tensor = stored[name]
        if tensor.format is Format.F32:
            return original(name)
        return dequantize(tensor.format, content.tensor_bytes(index), tensor.rows, tensor.cols)

    return get


class Walk:
    """All windows through the graph, with one set of weights."""

    def __init__(self, graph: Graph, windows: np.ndarray, weights: Callable[[str], Array]) -> None:
        self.graph, self.windows = graph, windows
        self.stages: list[tuple[Stage, Values]] = [(s, load_weights(graph, s, weights)) for s in stages(graph)]

    def logits(self, observe: Observe | None = None) -> list[Array]:
        """[windows] of [tokens, vocab]; ``observe`` says what linear layers read."""
        found = []
        for window in self.windows:
            values: Values = dict.fromkeys(self.graph.inputs, window)
            for stage, weights in self.stages:
                computed = run_stage(stage, values, weights, observe)
                values = {**dict.fromkeys(self.graph.inputs, window), **{n: computed[n] for n in stage.writes}}
                last = computed
            found.append(last[self.graph.output])
        return found


def only(kind: str) -> Observe:
    """Round the inputs of one kind of matrix ("" for all)."""
    return lambda node, x: quantize_activations(x) if kind in ("", kind_of(node)) else x


def divergence(reference: list[Array], tested: list[Array]) -> np.ndarray:
    return np.concatenate([compare_logits(a, b)[0] for a, b in zip(reference, tested, strict=True)])


def by_runtime(package: Path, windows: np.ndarray, folder: Path) -> list[Array]:
    """The runtime's logits, as ``Walk.logits``."""
    file, out = folder / "ids.txt", folder / "logits.npy"
    rows = []
    for window in windows:
        file.write_text(" ".join(map(str, window)))
        run_runtime("score", package, "--tokens", file, "--logits", out)
        rows.append(np.load(out))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "demo-model")
    parser.add_argument("--text", type=Path, help="default: the model's heldout.txt")
    parser.add_argument("--formats", nargs="+", default=[k for k, fmt in PRECISIONS.items() if fmt.is_integer])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    from tokenizers import Tokenizer

    text = (options.text or options.model / "heldout.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(options.model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    count = min(options.tokens, len(ids)) // WINDOW
    windows = np.array(ids[: count * WINDOW], dtype=np.int64).reshape(count, WINDOW)
    graph, checkpoint = load_model(options.model)
    original = Walk(graph, windows, checkpoint.tensor).logits()
    kinds = list(dict.fromkeys(kind_of(n) for s in stages(graph) for n in s.nodes if n.op.name == "LINEAR"))
    lines = [
        f"| format | weights | activations: mean | p99 | most | {' | '.join(kinds)} | 16 bits |",
        "|---" * (len(kinds) + 6) + "|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for precision in options.formats:
            package, wide = folder / f"{precision}.n730", folder / f"{precision}-wide.n730"
            for output, bits in ((package, "int8"), (wide, "wide")):
                command = ["build", options.model, "--target", "gt730", "--precision", precision, "--kv", "fp32"]
                command += ["--activations", bits, "--no-tune", "-o", output]
                subprocess.run(
                    [sys.executable, "-m", "n730c", *map(str, command)], check=True, capture_output=True, cwd=ROOT
                )
            walk = Walk(graph, windows, stored_weights(package, checkpoint.tensor))
            exact = walk.logits()
            kl = divergence(exact, by_runtime(package, windows, folder))
            numbers = [divergence(original, exact).mean(), kl.mean(), float(np.quantile(kl, 0.99)), kl.max()]
            numbers += [divergence(exact, walk.logits(only(kind))).mean() for kind in kinds]
            numbers.append(divergence(exact, by_runtime(wide, windows, folder)).mean())
            lines.append(f"| {precision} | " + " | ".join(f"{number:.1e}" for number in numbers) + " |")
            print(lines[-1], flush=True)
            package.unlink()
            wide.unlink()
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
