"""Random-weight models in the shapes of real families, saved as ordinary Hugging Face folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from n730c.families import Family

DEMO = Path(__file__).parent.parent / "examples" / "demo-model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
VOCAB = 2048  # the demo tokenizer's

_COMMON: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0}

CONFIGS: dict[str, PretrainedConfig] = {
    # Llama 2: every query head has its own key and value, theta 10 000.
    "llama2": LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=512, rope_theta=10000.0, tie_word_embeddings=False, **_COMMON,
    ),
    # Llama 3.1: grouped queries, theta 500 000 with the "llama3" frequency scaling.
    "llama31": LlamaConfig(
        hidden_size=256, intermediate_size=896, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        max_position_embeddings=1024, tie_word_embeddings=False,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
        **_COMMON,
    ),
    # Qwen2: biases on q, k and v, tied embedding, theta 1 000 000; an uneven width.
    "qwen2": Qwen2Config(
        hidden_size=224, intermediate_size=608, num_hidden_layers=4, num_attention_heads=7, num_key_value_heads=1,
        max_position_embeddings=512, rope_theta=1000000.0, tie_word_embeddings=True, **_COMMON,
    ),
    # Windows of 24 tokens in the upper half of the layers.
    "qwen2_window": Qwen2Config(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, tie_word_embeddings=True, use_sliding_window=True, max_window_layers=2,
        sliding_window=24, **_COMMON,
    ),
    # Mixtral: eight experts, two a token, gates normalized.
    "mixtral": MixtralConfig(
        hidden_size=128, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, num_local_experts=8, num_experts_per_tok=2, tie_word_embeddings=False, **_COMMON,
    ),
    # Qwen2-MoE: a shared expert behind a sigmoid gate, a dense layer between, gates not normalized.
    "qwen2_moe": Qwen2MoeConfig(
        hidden_size=128, intermediate_size=192, moe_intermediate_size=72, shared_expert_intermediate_size=96,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, num_experts=12, num_experts_per_tok=4,
        mlp_only_layers=[1], norm_topk_prob=False, max_position_embeddings=256, tie_word_embeddings=True, **_COMMON,
    ),
    # Qwen3-MoE: many small experts, norms on q and k.
    "qwen3_moe": Qwen3MoeConfig(
        hidden_size=128, intermediate_size=192, moe_intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, num_experts=32, num_experts_per_tok=8, norm_topk_prob=True,
        max_position_embeddings=256, tie_word_embeddings=False, **_COMMON,
    ),
    "olmoe": OlmoeConfig(
        hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        num_experts=16, num_experts_per_tok=4, norm_topk_prob=False, max_position_embeddings=256, **_COMMON,
    ),
}  # fmt: skip


def make_family(folder: Path, family: Family, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Write a small model of ``family`` with lively random weights and the demo's tokenizer to ``folder``."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**family.config), dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1:  # outputs as large as inputs, so that every layer counts
                tensor.normal_(std=0.7 / tensor.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                tensor.normal_(std=0.1)
            else:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.to(dtype).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, folder / name)
    return folder


def make_model(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write the model ``kind`` (a key of CONFIGS) with random BF16 weights and the demo's tokenizer to ``folder``."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(std=0.2)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO / name, folder / name)
    return folder
