"""What the benchmarks run: random-weight models of well-known shapes, as packages and as the peer's files.

Speed does not depend on the values of weights. Everything is made once, in the folder of the benchmark.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "examples" / "demo-model"

SHAPES: dict[str, dict[str, int]] = {
    "tinyllama-1.1b": {"hidden": 2048, "ffn": 5632, "layers": 22, "heads": 32, "kv_heads": 4, "vocab": 32000},
    "qwen2-1.5b": {"hidden": 1536, "ffn": 8960, "layers": 28, "heads": 12, "kv_heads": 2, "vocab": 151936},
    "small": {"hidden": 512, "ffn": 1408, "layers": 8, "heads": 8, "kv_heads": 4, "vocab": 8192},
}
# Our precision and the peer's types that a user would take in its place.
RIVALS = {
    "int4": ("Q4_0", "Q4_K_M"),
    "nl4": ("Q4_0", "Q4_K_M"),
    "int8": ("Q8_0",),
    "int2": ("Q2_K",),
    "nl2": ("Q2_K",),
    "fp16": ("F16",),
}
CONTEXT = 4224  # the longest prompt that is measured, and what is generated behind it


def _run(command: list[str]) -> None:
    if code := subprocess.run(command, check=False).returncode:
        raise SystemExit(f"{' '.join(command[:4])} … failed with {code}")


@dataclass(frozen=True)
class Workshop:
    """Makes and keeps the subjects of one shape. ``peer``: command of peer_llama_cpp.py in its environment."""

    shape: str
    folder: Path
    peer: tuple[str, ...]

    def checkpoint(self) -> Path:
        """A random BF16 Llama of the shape as a Hugging Face folder, embedding and head untied, with the demo's
        tokenizer."""
        folder = self.folder / self.shape
        if (folder / "config.json").exists():
            return folder
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        numbers = SHAPES[self.shape]
        config = LlamaConfig(
            vocab_size=numbers["vocab"],
            hidden_size=numbers["hidden"],
            intermediate_size=numbers["ffn"],
            num_hidden_layers=numbers["layers"],
            num_attention_heads=numbers["heads"],
            num_key_value_heads=numbers["kv_heads"],
            max_position_embeddings=2 * CONTEXT,
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
        return folder

    def package(self, precision: str) -> Path:
        """Our package, its kernels not tuned, so that it can be made on a busy machine."""
        path = self.folder / f"{self.shape}-{precision}.n730"
        if not path.exists():
            command = [
                sys.executable,
                "-m",
                "n730c",
                "build",
                str(self.checkpoint()),
                "--target",
                "gt730",
                "--ram",
                "16G",
            ]
            command += ["--precision", precision, "--kv", "fp16", "--context", str(CONTEXT), "--no-tune"]
            command += ["-o", str(path)]
            _run(command)
        return path

    def gguf(self, kind: str) -> Path:
        """The peer's file, quantized by its own code as its tool does by default."""
        path = self.folder / f"{self.shape}-{kind}.gguf"
        if path.exists():
            return path
        beside = path.with_suffix(".unfinished")
        if kind == "F16":
            sizes = [str(value) for value in SHAPES[self.shape].values()]
            _run([*self.peer, "make", str(beside), *sizes])
        else:
            _run([*self.peer, "quantize", str(self.gguf("F16")), str(beside), kind])
        beside.rename(path)
        return path
