"""The families of models that are known to work: one row each, and the tests run over the rows.

A row holds the settings of a small model that has everything that is peculiar to the family. What is not in the table
may work all the same: a model is judged by its graph, not by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A small model. Rows change what they must; None leaves a setting out.
_SMALL: Mapping[str, Any] = {
    **{"vocab_size": 2048, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256},
    **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
}
_GPT2: Mapping[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size")),
    **{"intermediate_size": None, "max_position_embeddings": None},
    **{"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
}
_ROPE = {"rope_theta": 10000.0}


@dataclass(frozen=True)
class Family:
    """``model_type`` as in config.json; ``settings`` beside those of a small model; ``exercises``: what is peculiar."""

    name: str
    model_type: str
    exercises: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def depends_on_context(self) -> bool:
        """Whether RoPE is made for the package's context, so that only texts of that length are as the original's."""
        return self.config.get("rope_parameters", {}).get("rope_type") in ("dynamic", "longrope")

    @property
    def config(self) -> dict[str, Any]:
        """What config.json would say."""
        settings = {**_SMALL, **self.settings, "model_type": self.model_type}
        return {key: value for key, value in settings.items() if value is not None}


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {**_ROPE, **parameters}}


FAMILIES: tuple[Family, ...] = (
    Family("Llama 1, 2", "llama", "RMSNorm, RoPE, SwiGLU", {"num_key_value_heads": 4}),
    Family(
        "Llama 3", "llama", "grouped queries, RoPE scaled as in Llama 3.1, tied embedding",
        {"tie_word_embeddings": True, **_rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                               original_max_position_embeddings=32)},
    ),
    Family("Llama, linear RoPE", "llama", "RoPE scaled linearly", _rope(rope_type="linear", factor=4.0)),
    Family(
        "Llama, YaRN", "llama", "RoPE scaled by YaRN, with its attention factor",
        _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
    ),
    Family(
        "Llama, dynamic RoPE", "llama", "RoPE whose base grows with the context of the package",
        {"max_position_embeddings": 48, **_rope(rope_type="dynamic", factor=2.0)},
    ),
    Family("Mistral", "mistral", "a sliding window in all layers", {"sliding_window": 24}),
    Family("Ministral", "ministral", "sliding and full attention in turn", {"sliding_window": 24, "head_dim": 24}),
    Family("Qwen2, Qwen2.5", "qwen2", "biases on queries, keys and values"),
    Family("Qwen3", "qwen3", "norms of queries and keys, heads wider than their share", {"head_dim": 32}),
    Family("Gemma", "gemma", "norms that multiply by 1 + w, GeGLU, scaled embedding", {"head_dim": 24}),
    Family(
        "Gemma 2", "gemma2", "capped scores and logits, norms before and after, windows in every other layer",
        {"head_dim": 24, "sliding_window": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
         "query_pre_attn_scalar": 24},
    ),
    Family(
        "Gemma 3 (text)", "gemma3_text", "two RoPE bases, windows in most layers, norms of queries and keys",
        {"head_dim": 24, "sliding_window": 24, "num_hidden_layers": 6, "query_pre_attn_scalar": 24},
    ),
    Family("Phi-1.5, Phi-2", "phi", "partial RoPE, one norm for two branches, biases", {"partial_rotary_factor": 0.5}),
    Family("Phi-3, Phi-4", "phi3", "fused projections", {"sliding_window": 24}),
    Family(
        "Phi-3, long context", "phi3", "LongRoPE, the factors chosen by the context of the package",
        {"original_max_position_embeddings": 48,
         **_rope(rope_type="longrope", original_max_position_embeddings=48, short_factor=[1.0, 1.1] * 4,
                 long_factor=[1.5, 4.0] * 4)},
    ),
    Family("GPT-2", "gpt2", "learned positions, LayerNorm, GELU, weights the other way round", _GPT2),
    Family("StarCoder (GPT BigCode)", "gpt_bigcode", "one head of keys and values for all, learned positions", _GPT2),
    Family(
        "GPT-NeoX, Pythia", "gpt_neox", "partial RoPE, parallel branches, queries, keys and values interleaved",
        {"num_key_value_heads": None, "rotary_pct": 0.25},
    ),
    Family(
        "GPT-NeoX, serial", "gpt_neox", "one branch after the other",
        {"num_key_value_heads": None, "rotary_pct": 1.0, "use_parallel_residual": False},
    ),
    Family(
        "Falcon 7B", "falcon", "one head of keys and values, parallel branches, attention of its own",
        {"num_key_value_heads": None, "intermediate_size": None, "multi_query": True, "bias": False},
    ),
    Family(
        "Falcon 40B", "falcon", "groups of queries, keys and values, two norms side by side",
        {"num_key_value_heads": None, "num_kv_heads": 2, "intermediate_size": None, "new_decoder_architecture": True,
         "bias": False},
    ),
    Family("StarCoder2", "starcoder2", "LayerNorm, GELU and biases with RoPE and a window", {"sliding_window": 24}),
    Family("OLMo", "olmo", "norms without weights", {"clip_qkv": None}),
    Family("OLMo 2", "olmo2", "norms behind the branches, norms of whole queries and keys"),
    Family("OLMo 3", "olmo3", "the same with windows", {"sliding_window": 24, "num_hidden_layers": 4}),
    Family("StableLM", "stablelm", "LayerNorm with partial RoPE", {"partial_rotary_factor": 0.25}),
    Family(
        "Granite", "granite", "scaled embedding, branches, scores and logits",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 8.0},
    ),
    Family("SmolLM3", "smollm3", "every fourth layer without RoPE", {"num_hidden_layers": 4}),
    Family("Cohere Command R", "cohere", "RoPE by pairs, parallel branches, scaled logits", {"logit_scale": 0.5}),
    Family("Cohere Command R7B", "cohere2", "the same with windows", {"sliding_window": 24, "num_hidden_layers": 4}),
    Family("GLM-4 9B", "glm", "RoPE by pairs on half of each head, fused gate and up", {"head_dim": 16}),
    Family("GLM-4 0414", "glm4", "the same with norms behind the branches", {"head_dim": 16}),
    Family("Nemotron", "nemotron", "squared ReLU, LayerNorm with 1 + w, partial RoPE"),
    Family("EXAONE 4", "exaone4", "norms of queries and keys, RoPE in windowed layers only",
           {"sliding_window": 24, "num_hidden_layers": 4, "sliding_window_pattern": 4}),
    Family("Mixtral", "mixtral", "experts, two for each token, gates normalized",
           {"num_local_experts": 8, "num_experts_per_tok": 2}),
    Family(
        "Qwen2-MoE", "qwen2_moe", "a shared expert behind a gate, a dense layer between, gates as they come",
        {"num_hidden_layers": 3, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 64,
         "num_experts": 12, "num_experts_per_tok": 4, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    Family(
        "Qwen3-MoE", "qwen3_moe", "many small experts, norms of queries and keys",
        {"head_dim": 32, "moe_intermediate_size": 24, "num_experts": 32, "num_experts_per_tok": 8,
         "norm_topk_prob": True},
    ),
    Family("OLMoE", "olmoe", "norms of whole queries and keys, gates as they come",
           {"intermediate_size": 40, "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": False}),
)  # fmt: skip
