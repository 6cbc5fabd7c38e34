"""One model and its held-out text, as the peer and as n730c make it smaller: what the parts of quality.py share."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from n730c.evaluate import compare_logits, log_softmax
from n730c.frontend.calibration_text import read_text, token_windows
from n730c.frontend.chat_template import read_chat_template
from n730c.frontend.model import load_model
from n730c.frontend.reference import Reference
from n730c.runtime import run_runtime

CALIBRATED = 0.42  # of the held-out text; the rest is what is measured


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
        self.text_name = "the first part of `heldout.txt`"
        if self.calibration is not None:
            self.text_name = f"`{self.calibration.name}`"
        else:
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

    def build(self, name: str, *options: str) -> tuple[Path, dict[str, Any]]:
        """The package and its summary."""
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
        said = run([sys.executable, "-m", "n730c", "build", self.model, *choices, *options, "--json", "-o", path])
        return path, json.loads(said)

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
        profile = self.folder / "profile.json"
        path, summary = self.build(name, "--bpw", f"{bpw:.4f}", "--profile", str(profile))
        kl, top1 = self.measured(path)
        return {"kl": kl, "top1": top1, **summary}

    def describe(self) -> str:
        """What was measured, in one paragraph."""
        config = json.loads((self.model / "config.json").read_text())
        return (
            f"`{self.model.name}` ({config['model_type']}, {self.matrix_elements / 1e6:.1f} M weights; perplexity of "
            f"the original on what is measured: {self.perplexity():.1f}): {self.ids.size} tokens of the second part "
            f"of `heldout.txt`. Both sides are calibrated on {self.calibration_tokens} tokens of {self.text_name} "
            "and run by their own runtime. KL divergence from the original in nats a token, the mean; size: of all "
            "tensors. Written by `quality.py`."
        )

    def perplexity(self) -> float:
        rows = [log_softmax(a[:-1])[np.arange(len(a) - 1), w[1:]] for a, w in zip(self.original, self.ids, strict=True)]
        return float(np.exp(-np.concatenate(rows).mean()))

    @property
    def matrix_elements(self) -> int:
        return sum(int(np.prod(p.shape)) for p in self.graph.params if len(p.shape) == 2)

    @property
    def vector_bytes(self) -> int:
        return sum(4 * int(np.prod(p.shape)) for p in self.graph.params if len(p.shape) == 1)
