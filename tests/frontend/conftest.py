"""Tiny models with random weights, saved as Hugging Face folders once a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, SmolLM3Config

TINY: Mapping[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 97,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

ONE_LAYER = {**TINY, "num_hidden_layers": 1}  # where how layers are repeated is not the question

CONFIGS: Mapping[str, Callable[[], PretrainedConfig]] = {
    "llama1": lambda: LlamaConfig(**{**ONE_LAYER, "num_key_value_heads": 4}, rms_norm_eps=1e-6),
    "llama2": lambda: LlamaConfig(**{**TINY, "num_key_value_heads": 4}, rms_norm_eps=1e-5),
    "llama31": lambda: LlamaConfig(**TINY, rope_parameters=LLAMA3_ROPE, rms_norm_eps=1e-5),
    "llama32_tied": lambda: LlamaConfig(**TINY, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    "llama_linear": lambda: LlamaConfig(
        **ONE_LAYER, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "llama_yarn": lambda: LlamaConfig(**ONE_LAYER, rope_parameters=YARN),  # scales cos and sin too
    "wide_heads": lambda: LlamaConfig(**ONE_LAYER, head_dim=20),
    "llama_biases": lambda: LlamaConfig(**ONE_LAYER, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**TINY, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    "qwen2_tied": lambda: Qwen2Config(**ONE_LAYER, tie_word_embeddings=True),
    "mistral_window": lambda: MistralConfig(**ONE_LAYER, sliding_window=9),
    # Two kinds of layer: every fourth one has no RoPE.
    "two_kinds": lambda: SmolLM3Config(**{**TINY, "num_hidden_layers": 6}),
}

Save = Callable[..., Path]


def save(folder: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Write a model with lively random weights (norms near 1, biases not 0) to ``folder``."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") or "layernorm" in name else 0.0
            weight.copy_(centre + 0.2 * torch.randn_like(weight))
    model.to(dtype).save_pretrained(folder, **options)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model by its key in CONFIGS; float32."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = save(tmp_path_factory.mktemp(kind), CONFIGS[kind]())
        return made[kind]

    return get
