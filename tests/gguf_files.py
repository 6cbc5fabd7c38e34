"""GGUF files made from Hugging Face folders with the ``gguf`` package, as llama.cpp's converter lays them out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
BEHIND = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
BETWEEN = {**BEHIND, "pre_feedforward_layernorm": "ffn_norm"}
OWN_NAMES = {"olmo2": BEHIND, "gemma2": BETWEEN, "gemma3_text": BETWEEN}  # where a kind means something else by a name
PAIRED = ("llama", "mixtral", "granite", "smollm3")
EXPERT = re.compile(r"model\.layers\.(\d+)\.\w+\.experts\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight")
PARTS = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
ARCHITECTURES = {"mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
CAN_QUANTIZE = (Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q8_0)


def file_name(name: str, kind: str) -> str:
    """``blk.0.attn_q.weight`` for ``model.layers.0.self_attn.q_proj.weight``."""
    stem, _, ending = name.rpartition(".")
    if stem in ENDS:
        return f"{ENDS[stem]}.{ending}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{({**LAYER, **OWN_NAMES.get(kind, {})})[part]}.{ending}"


def paired(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (i, i + head_dim/2) side by side, as the ``llama`` architecture stores Q and K."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def random_blocks(shape: tuple[int, ...], kind: Type, seed: int) -> np.ndarray:
    """Bytes of a tensor of a type that the package reads but does not write: random, with scales of a weight's size."""
    random = np.random.default_rng(seed)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // block
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    small = np.full((count, 1), 2e-5 if kind is Type.Q6_K else 5e-5, dtype=np.float16).view(np.uint8)
    if kind is Type.Q6_K:
        blocks[:, -2:] = small
    else:  # Q4_K, Q5_K: d, then the minimum's
        blocks[:, :2] = small
        blocks[:, 2:4] = (small.view(np.float16) * np.float16(10)).view(np.uint8)
    return blocks.reshape(*shape[:-1], shape[-1] // block * size)


def write_gguf(
    folder: Path,
    path: Path,
    type_of: Callable[[str], Type],
    metadata: dict[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Write ``folder``'s model to ``path``; matrices get ``type_of`` their own name, vectors F32.

    ``metadata`` replaces values of the tokenizer. Returns the weights that the file stands for, dequantized by the
    package, by the model's own names.
    """
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    writer = gguf.GGUFWriter(path, ARCHITECTURES.get(kind, kind))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"].get("full_attention", config["rope_parameters"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    _add_further(writer, config, rope)
    _add_tokenizer(writer, folder, config["vocab_size"], metadata or {})
    tensors = {n: t.float().numpy() for n, t in sorted(load_file(folder / "model.safetensors").items())}
    stands_for = _add_experts(writer, config, tensors, type_of)
    for number, (name, values) in enumerate(tensors.items()):
        stored = Type.F32 if values.ndim == 1 else type_of(name)
        part = next((p for p in ("q", "k") if f"self_attn.{p}_proj" in name), None)
        order = np.arange(len(values))
        plus_one = kind.startswith("gemma") and values.ndim == 1
        values = values + np.float32(plus_one)
        if kind in PAIRED and part:
            order = paired(order, heads if part == "q" else kv_heads)
        if stored in CAN_QUANTIZE:
            content = gguf.quants.quantize(np.ascontiguousarray(values[order]), stored)
        else:
            content = random_blocks(values.shape, stored, number)
        writer.add_tensor(file_name(name, kind), content, raw_dtype=stored)
        read = gguf.quants.dequantize(content, stored) - np.float32(plus_one)
        name = name.replace("block_sparse_moe", "mlp")
        stands_for[name] = np.empty_like(values)
        stands_for[name][order] = read
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(rope, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def _add_further(writer: gguf.GGUFWriter, config: dict[str, Any], rope: dict[str, Any]) -> None:
    """What only some kinds have."""
    adders: dict[str, Callable[[Any], None]] = {
        "sliding_window": writer.add_sliding_window,
        "attn_logit_softcapping": writer.add_attn_logit_softcapping,
        "final_logit_softcapping": writer.add_final_logit_softcapping,
        "embedding_multiplier": writer.add_embedding_scale,
        "residual_multiplier": writer.add_residual_scale,
        "attention_multiplier": writer.add_attention_scale,
        "logits_scaling": writer.add_logit_scale,
        "moe_intermediate_size": writer.add_expert_feed_forward_length,
        "shared_expert_intermediate_size": writer.add_expert_shared_feed_forward_length,
    }
    for key, add in adders.items():
        if config.get(key) is not None:
            add(config[key])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.asarray(rope[f"{kind}_factor"], dtype=np.float32))


def _add_experts(
    writer: gguf.GGUFWriter, config: dict[str, Any], tensors: dict[str, np.ndarray], type_of: Callable[[str], Type]
) -> dict[str, np.ndarray]:
    """Take the experts out of ``tensors`` and write them as stacks; what they stand for by the model's names."""
    stacks: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for name in list(tensors):
        if match := EXPERT.fullmatch(name):
            stacks.setdefault((match[1], PARTS[match[3]]), {})[int(match[2])] = tensors.pop(name)
    if stacks:
        writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    read = {}
    for (layer, part), experts in stacks.items():
        values = np.stack([experts[i] for i in range(len(experts))])
        stored = type_of(f"model.layers.{layer}.mlp.experts.{part}_proj")
        content = gguf.quants.quantize(values, stored)
        writer.add_tensor(f"blk.{layer}.ffn_{part}_exps.weight", content, raw_dtype=stored)
        read[layer, part] = gguf.quants.dequantize(content, stored)
    stands_for = {}
    for layer, _ in read:
        name = f"model.layers.{layer}.mlp.experts"
        stands_for[f"{name}.down_proj"] = read[layer, "down"]
        stands_for[f"{name}.gate_up_proj"] = np.concatenate((read[layer, "gate"], read[layer, "up"]), axis=1)
    return stands_for


def _llama3_divisors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """As the converter computes them, frequency by frequency (Llama 3.1's model card)."""
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original, divisors = rope["original_max_position_embeddings"], []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(rope["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.asarray(divisors, dtype=np.float32)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab: int, replaced: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    by_id = {i: text for text, i in tokenizer["model"]["vocab"].items()}
    ids = range(vocab)
    values: dict[str, Any] = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": [by_id.get(i, f"[PAD{i}]") for i in ids],
        "token_type": [3 if i in special else 1 if i in by_id else 5 for i in ids],
        "merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "add_bos_token": False,
        **replaced,
    }
    adders: dict[str, Callable[..., None]] = {
        "model": writer.add_tokenizer_model,
        "pre": writer.add_tokenizer_pre,
        "tokens": writer.add_token_list,
        "token_type": writer.add_token_types,
        "merges": writer.add_token_merges,
        "scores": writer.add_token_scores,
        "bos_token_id": writer.add_bos_token_id,
        "eos_token_id": writer.add_eos_token_id,
        "add_bos_token": writer.add_add_bos_token,
    }
    for key, value in values.items():
        if value is not None:
            adders[key](value)
    if (folder / "chat_template.jinja").is_file():
        writer.add_chat_template((folder / "chat_template.jinja").read_text())
