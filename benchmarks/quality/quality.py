"""What quantization loses beside llama.cpp: mean KL divergence from the original at the peer's own sizes.

    python benchmarks/quality/quality.py --peer-python /path/to/venv/bin/python [--model examples/demo-model]
        [--types Q2_K Q3_K_M …] [--tokens 8192] [--out benchmarks/quality/results.md]

Both sides are calibrated on the same token windows (n730c's own text, or ``--calibration FILE``), the peer through an
importance matrix; both are run by their own runtime on the same windows of the model's ``heldout.txt`` and compared
with transformers in FP32. A package is given exactly the bytes that the peer's tensors take, embedding, head and norms
included. Then: mixed INT2/4/8 against the best uniform of them, and what the profile predicted against what came out
for random assignments.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT)]

from n730c.evaluate import compare_logits  # noqa: E402
from n730c.frontend.calibration_text import read_text, token_windows  # noqa: E402
from n730c.frontend.chat_template import read_chat_template  # noqa: E402
from n730c.frontend.model import load_model  # noqa: E402
from n730c.frontend.reference import Reference  # noqa: E402
from n730c.runtime import run_runtime  # noqa: E402

TYPES = ("IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K")
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
        template = read_chat_template(self.model)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "demo-model")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks" / "quality")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    subject = Subject(args.model, args.folder / args.model.name, args.tokens, args.calibration, args.calibration_tokens)
    command = (args.peer_python, str(HERE / "peer_llama_cpp.py"))
    lines = beside_the_peer(subject, command, args.types)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
