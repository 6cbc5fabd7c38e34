"""Random-weight Llama models for the streaming benchmark: Hugging Face folders, packages of them, the peer's GGUFs.

Speed does not depend on the weights' values, so all layers hold the same random blocks: 7 billion weights are
written in the time the disk needs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
DEMO = HERE.parent.parent / "examples" / "demo-model"
CONTEXT = 256  # tokens that both sides' KV caches hold
GGUF_TYPES = {"nl4": "Q4_0", "int4": "Q4_0", "int8": "Q8_0", "fp16": "F16"}


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int


SHAPES = {
    "tinyllama": Shape(2048, 5632, 22, 32, 4, 32000),
    "llama2-7b": Shape(4096, 11008, 32, 32, 32, 32000),
    "small": Shape(512, 1408, 8, 8, 4, 8192),
}


def make_checkpoint(folder: Path, shape: Shape) -> None:
    """A BF16 Llama of this shape as a Hugging Face folder, one shard a layer, with the demo's tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    torch.manual_seed(0)

    def matrix(rows: int, cols: int) -> torch.Tensor:
        return (torch.randn(rows, cols) * 0.02).to(torch.bfloat16)

    kv = shape.hidden // shape.heads * shape.kv_heads
    layer = {
        "self_attn.q_proj": matrix(shape.hidden, shape.hidden),
        "self_attn.k_proj": matrix(kv, shape.hidden),
        "self_attn.v_proj": matrix(kv, shape.hidden),
        "self_attn.o_proj": matrix(shape.hidden, shape.hidden),
        "mlp.gate_proj": matrix(shape.ffn, shape.hidden),
        "mlp.up_proj": matrix(shape.ffn, shape.hidden),
        "mlp.down_proj": matrix(shape.hidden, shape.ffn),
        "input_layernorm": torch.ones(shape.hidden, dtype=torch.bfloat16),
        "post_attention_layernorm": torch.ones(shape.hidden, dtype=torch.bfloat16),
    }
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        {f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()} for i in range(shape.layers)
    ]
    shards.append(
        {
            "model.embed_tokens.weight": matrix(shape.vocab, shape.hidden),
            "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16),
            "lm_head.weight": matrix(shape.vocab, shape.hidden),
        }
    )
    where, size = {}, 0
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name)
        where |= dict.fromkeys(shard, name)
        size += sum(t.numel() * 2 for t in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    LlamaConfig(  # last: a folder with it is whole
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        dtype="bfloat16",
    ).save_pretrained(folder)


def checkpoint(work: Path, name: str) -> Path:
    """The folder of this shape, made on the first call."""
    folder = work / name
    if not (folder / "config.json").exists():
        print(f"making {folder} …", file=sys.stderr)
        make_checkpoint(folder, SHAPES[name])
    return folder


def package(work: Path, name: str, precision: str, target: str, *options: str) -> Path:
    """Build the package anew: its plans depend on the target, which was just measured."""
    path = work / f"{name}-{precision}.n730"
    command = [sys.executable, "-m", "n730c", "build", str(checkpoint(work, name)), "--target", target]
    command += ["--precision", precision, "--context", str(CONTEXT), "-o", str(path), *options]
    subprocess.run(command, check=True)
    return path


def gguf(work: Path, name: str, precision: str, peer_python: str) -> Path:
    """The peer's file of the same shape and bits, made on the first call."""
    kind = GGUF_TYPES[precision]
    path = work / f"{name}-{kind}.gguf"
    if not path.exists():
        print(f"making {path} …", file=sys.stderr)
        unfinished = path.with_suffix(".unfinished")
        sizes = [str(v) for v in asdict(SHAPES[name]).values()]
        subprocess.run(
            [peer_python, str(HERE / "peer_llama_cpp.py"), "make", str(unfinished), kind, *sizes], check=True
        )
        unfinished.rename(path)
    return path


if __name__ == "__main__":  # models.py WORK PEER_PYTHON SHAPE:PRECISION …: makes the large files ahead of a run
    for item in sys.argv[3:]:
        shape_name, bits = item.split(":")
        checkpoint(Path(sys.argv[1]), shape_name)
        gguf(Path(sys.argv[1]), shape_name, bits, sys.argv[2])
