"""What quantization loses beside llama.cpp: mean KL divergence from the original at the peer's own sizes.

    python benchmarks/quality/quality.py --peer-python /path/to/venv/bin/python [--model examples/demo-model]
        [--types Q2_K Q3_K_M …] [--tokens 8192] [--out benchmarks/quality/results.md]

Both sides are calibrated on the same token windows of the first part of the model's ``heldout.txt`` (or of
``--calibration FILE``), the peer through an importance matrix; both are run by their own runtime on the same windows of
the other part, and compared with transformers in FP32. A package is given the bytes that the peer's tensors
take, embedding, head and norms included.

``--part assignments`` compares the KL that the profile predicts with what n730-exec gives, for random assignments, and
mixed INT2/4/8 with one format for all layers at the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT)]

from n730c.draft import PASSES  # noqa: E402
from n730c.dtypes import Format, matrix_bytes  # noqa: E402
from n730c.evaluate import compare_logits  # noqa: E402
from n730c.frontend.calibrate import linear_inputs  # noqa: E402
from n730c.frontend.calibration_text import read_text, token_windows  # noqa: E402
from n730c.frontend.chat_template import read_chat_template  # noqa: E402
from n730c.frontend.model import load_model  # noqa: E402
from n730c.frontend.reference import Reference  # noqa: E402
from n730c.frontend.tokenizer import compile_tokenizer  # noqa: E402
from n730c.measure import measure  # noqa: E402
from n730c.mixed import CANDIDATES, assignable, calibrate, items  # noqa: E402
from n730c.package import write_package  # noqa: E402
from n730c.passes import run_passes  # noqa: E402
from n730c.passes.assign import Item, assign  # noqa: E402
from n730c.passes.lower import lower  # noqa: E402
from n730c.passes.plan import Planner  # noqa: E402
from n730c.passes.precision import assign_uniform  # noqa: E402
from n730c.pipeline import _tensor_bytes  # noqa: E402
from n730c.quant.calibrated import Rounder  # noqa: E402
from n730c.runtime import run_runtime  # noqa: E402
from n730c.target import load_target  # noqa: E402

TYPES = ("IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K")
CALIBRATED = 0.42  # of the held-out text; the rest is what is measured
LIMITS = {"Q2_K": 0.7, "Q3_K_M": 0.7, "Q4_K_M": 0.8, "Q6_K": 0.8, "IQ2_M": 1.0, "IQ3_XXS": 1.0, "IQ4_XS": 1.0}


def run(command: list[str | Path]) -> str:
    """stdout of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:6]))} …: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass
class Subject:
    """One model, its held-out windows and what the original says about them."""

    model: Path
    folder: Path
    tokens: int
    calibration: Path | None
    calibration_tokens: int

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.graph, self.checkpoint = load_model(self.model)
        self.reference = Reference(self.model)
        from tokenizers import Tokenizer

        text = (self.model / "heldout.txt").read_text(encoding="utf-8")
        cut = int(CALIBRATED * len(text))
        if self.calibration is None:
            self.calibration = self.folder / "calibration.txt"
            self.calibration.write_text(text[:cut], encoding="utf-8")
        text = text[cut:]
        ids = Tokenizer.from_file(str(self.model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        length = min(512, self.graph.context)
        count = min(len(ids) // length, self.tokens // length)
        every = len(ids) // length / count
        starts = [int(i * every) * length for i in range(count)]
        self.ids = np.array([ids[at : at + length] for at in starts], dtype=np.int64)
        self.original = [self.reference.logits(window) for window in self.ids]

    def divergence(self, logits: list[np.ndarray]) -> tuple[float, float]:
        """Mean KL (nats) and top-1 agreement over all windows."""
        pairs = [compare_logits(a, b) for a, b in zip(self.original, logits, strict=True)]
        kl, same = (np.concatenate(column) for column in zip(*pairs, strict=True))
        return float(kl.mean()), float(same.mean())

    # ---- the peer ----

    def arrays(self) -> Path:
        """Weights and importance matrix for the peer."""
        import torch

        path = self.folder / "subject.npz"
        if path.exists():
            return path
        content = read_text(self.calibration)
        template = read_chat_template(self.model)[0]
        windows = token_windows(self.model, content, template, self.graph.context, self.calibration_tokens)
        model = self.reference._model
        squares: dict[str, Any] = {}
        hooks = []
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):

                def see(_: Any, inputs: Any, __: Any, name: str = name) -> None:
                    x = inputs[0].reshape(-1, inputs[0].shape[-1])
                    squares[name] = squares.get(name, 0) + (x * x).sum(0)

                hooks.append(module.register_forward_hook(see))
        for window in windows:
            self.reference.logits(window.tolist())
        for hook in hooks:
            hook.remove()
        found: dict[str, Any] = {"config": (self.model / "config.json").read_text()}
        tied = model.config.tie_word_embeddings
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and tied:
                continue
            found[f"weight:{name}"] = tensor.numpy()
            module = "lm_head" if tied and "embed_tokens" in name else name.removesuffix(".weight")
            if module in squares:
                found[f"importance:{name}"] = (squares[module] / windows.size).numpy()
        np.savez(path, **found)
        return path

    def peer(self, command: tuple[str, ...], kind: str) -> dict[str, Any]:
        """Size and loss of one of the peer's types."""
        source, path, out = self.folder / "f32.gguf", self.folder / f"{kind}.gguf", self.folder / "peer.npy"
        if not source.exists():
            run([*command, "make", self.arrays(), source])
        if not path.exists():
            run([*command, "quantize", self.arrays(), source, path, kind])
        np.save(self.folder / "ids.npy", self.ids)
        run([*command, "logits", path, self.folder / "ids.npy", out])
        kl, top1 = self.divergence(list(np.load(out)))
        return {"kl": kl, "top1": top1, **json.loads(run([*command, "size", path]))}

    # ---- ourselves ----

    def build(self, name: str, *options: str) -> Path:
        path = self.folder / f"{name}.n730"
        choices: list[str | Path] = [
            "--target",
            "gt730",
            "--no-tune",
            "--calibration-tokens",
            str(self.calibration_tokens),
        ]
        if self.calibration is not None:
            choices += ["--calibration", self.calibration]
        run([sys.executable, "-m", "n730c", "build", self.model, *choices, *options, "-o", path])
        return path

    def measured(self, package: Path) -> tuple[float, float]:
        """KL and agreement by n730-exec itself."""
        file, out = self.folder / "ids.txt", self.folder / "ours.npy"
        rows = []
        for window in self.ids:
            file.write_text(" ".join(map(str, window)))
            run_runtime("score", package, "--tokens", file, "--logits", out)
            rows.append(np.load(out))
        return self.divergence(rows)

    def mixed(self, name: str, bpw: float) -> dict[str, Any]:
        path = self.build(name, "--bpw", f"{bpw:.4f}", "--profile", str(self.folder / "profile.json"))
        kl, top1 = self.measured(path)
        return {"kl": kl, "top1": top1, "file_bytes": path.stat().st_size}

    @property
    def matrix_elements(self) -> int:
        return sum(int(np.prod(p.shape)) for p in self.graph.params if len(p.shape) == 2)

    @property
    def vector_bytes(self) -> int:
        return sum(4 * int(np.prod(p.shape)) for p in self.graph.params if len(p.shape) == 1)


def beside_the_peer(subject: Subject, command: tuple[str, ...], kinds: list[str]) -> list[str]:
    lines = [
        "| size of | bits a weight | llama.cpp: KL | top-1 | n730c: KL | top-1 | KL, ours / theirs | at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        peer = subject.peer(command, kind)
        bpw = 8 * (peer["tensor_bytes"] - subject.vector_bytes) / subject.matrix_elements
        ours = subject.mixed(f"as-{kind}", bpw)
        ratio = ours["kl"] / peer["kl"]
        lines.append(
            f"| {kind} | {bpw:.2f} | {peer['kl']:.5f} | {peer['top1']:.3f} | {ours['kl']:.5f} | {ours['top1']:.3f} "
            f"| {ratio:.2f} | {LIMITS[kind]:.1f} |"
        )
        print(lines[-1], flush=True)
    return lines


def assignments(subject: Subject, count: int) -> list[str]:
    """Predicted against measured KL of random assignments, then mixed INT2/4/8 against uniform INT2."""
    bench = Assignments(subject)
    random = np.random.default_rng(0)
    names = sorted(bench.profile.divergence)
    known = set.intersection(*(set(by) for by in bench.profile.divergence.values()))  # an older profile may lack some
    ladder = sorted(known, key=lambda fmt: (fmt.bits, fmt))
    pairs, drawn = [], []
    for i in range(count):
        low = int(random.integers(0, len(ladder) - 2))  # a few neighbouring formats, so that all sizes occur
        some = ladder[low : low + int(random.integers(2, 5))]
        formats = {name: some[int(random.integers(len(some)))] for name in names}
        predicted = bench.profile.predicted(formats)
        measured = bench.measured(formats)[0]
        pairs.append((predicted, measured))
        drawn.append(formats)
        print(f"assignment {i}: predicted {predicted:.5f}, measured {measured:.5f}", flush=True)
    predicted, measured = np.array(pairs).T
    lines = [
        f"{count} random assignments: what each method predicts, against the KL measured. Errors have no unit of their",
        "own: they are multiplied by whatever makes their median right.",
        "",
        "| method | rank correlation | predicted / measured: median | from | to |",
        "|---|---|---|---|---|",
    ]
    for method, by in {"the profile": bench.profile.divergence, **bench.other_methods()}.items():
        if method != "the profile":
            predicted = np.array([sum(by[name][fmt] for name, fmt in formats.items()) for formats in drawn])
        ranks = np.corrcoef(predicted.argsort().argsort(), measured.argsort().argsort())[0, 1]
        ratio = predicted / measured
        middle = float(np.median(ratio))
        if "error" in method:
            ratio, middle = ratio / middle, 1.0
        lines.append(f"| {method} | {ranks:.3f} | {middle:.2f} | {ratio.min():.2f} | {ratio.max():.2f} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "| | bits a weight | KL predicted | KL measured |",
        "|---|---|---|---|",
    ]
    three = (Format.INT2, Format.INT4, Format.INT8)
    for end in (Format.INT4, Format.INT8):
        uniform = {name: end if bench.is_end(name) else Format.INT2 for name in names}
        size = bench.size(uniform)
        found = {**uniform, **bench.best(three, size)}
        for title, formats in ((f"INT2, ends {end.name}", uniform), ("mixed INT2/4/8", found)):
            kl = bench.measured(formats)[0]
            bits = 8 * bench.size(formats) / subject.matrix_elements
            lines.append(f"| {title} | {bits:.2f} | {bench.profile.predicted(formats):.4f} | {kl:.4f} |")
            print(lines[-1], flush=True)
    return lines


class Assignments:
    """Packages with formats of our choice: built without kernels of their own, from rounded tensors that are kept."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        file = subject.folder / "profile.json"
        self.graph = run_passes(subject.graph, PASSES)
        self.calibrated = calibrate(
            self.graph, subject.checkpoint, subject.model, subject.calibration, subject.calibration_tokens, file,
            lambda done, total, note: None,
        )  # fmt: skip
        self.profile = self.calibrated.profile
        self.tokenizer = compile_tokenizer(subject.model, self.graph.vocab, subject.checkpoint.eos_ids)
        self.target = load_target("gt730")
        self.shapes = {p.name: p.shape for p in self.graph.params}
        layer = {name: node.layer for node in self.graph.nodes for _, name in node.params}
        self.ends = {name for name in self.profile.divergence if layer[name] is None}

    def is_end(self, name: str) -> bool:
        return name in self.ends

    def size(self, formats: dict[str, Format]) -> int:
        return sum(matrix_bytes(fmt, *self.shapes[name]) for name, fmt in formats.items())

    def best(self, formats: tuple[Format, ...], size: int) -> dict[str, Format]:
        def only(by: Any) -> dict[Format, float]:
            return {fmt: by[fmt] for fmt in formats}

        things = [Item(i.names, only(i.divergence), only(i.price)) for i in items(self.graph, self.profile)]
        return dict(assign(things, size).formats)

    def other_methods(self) -> dict[str, dict[str, dict[Format, float]]]:
        """What other methods than the profile's say of each tensor and format."""
        subject = self.subject
        errors: dict[str, dict[str, dict[Format, float]]] = {"error of the weights": {}, "error of the outputs": {}}
        errors["error of the outputs, relative"] = {}
        moments = {}
        known = linear_inputs(self.graph.nodes)
        for name in self.profile.divergence:
            weight, value = subject.checkpoint.tensor(name), known.get(name)
            if value is not None:
                moments = {value: self.calibrated.calibration.moment(value)}
            plain, outputs, relative = (by.setdefault(name, {}) for by in errors.values())
            for fmt, rounded, error in Rounder(moments).trials(weight, value, CANDIDATES):
                plain[fmt] = float(np.square(weight - rounded).sum())
                outputs[fmt] = error
                whole = weight if value is None else weight @ moments[value]
                relative[fmt] = error / float((whole * weight).sum())
        content = read_text(subject.calibration)
        template = read_chat_template(subject.model)[0]
        windows = token_windows(subject.model, content, template, self.graph.context, subject.calibration_tokens)
        with tempfile.TemporaryDirectory() as folder:
            quick, _ = measure(
                self.graph, subject.checkpoint.tensor, windows, CANDIDATES, assignable(self.graph), {}, Path(folder),
                lambda done, total, note: None, direct=False,
            )  # fmt: skip
        activations = {name: quick.activations / len(quick.divergence) for name in quick.divergence}
        carried = {
            name: {fmt: value + activations[name] for fmt, value in by.items()} for name, by in quick.divergence.items()
        }
        return {"noise carried from each layer (large models)": carried, **errors}

    def measured(self, formats: dict[str, Format]) -> tuple[float, float]:
        every = {**assign_uniform(self.graph, "int8"), **formats}
        program = lower(self.graph, every, Format.F16)
        plans = Planner(program, self.target, len(self.tokenizer), self.graph.context).plans(self.target.ram_bytes)
        path = self.subject.folder / "assignment.n730"
        encoded = _tensor_bytes(program, self.graph, self.subject.checkpoint, self.calibrated)
        write_package(path, program, plans, (), encoded, self.tokenizer, b"", {})
        return self.subject.measured(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "demo-model")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks" / "quality")
    parser.add_argument("--part", choices=("peer", "assignments"), default="peer")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    subject = Subject(args.model, args.folder / args.model.name, args.tokens, args.calibration, args.calibration_tokens)
    command = (args.peer_python, str(HERE / "peer_llama_cpp.py"))
    peer = args.part == "peer"
    lines = beside_the_peer(subject, command, args.types) if peer else assignments(subject, args.count)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
