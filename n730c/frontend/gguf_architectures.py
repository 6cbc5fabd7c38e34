"""The kinds of GGUF files: one row of ``ARCHITECTURES`` each.

What a row does not say is refused by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from n730c.frontend.gguf_metadata import Metadata

_QKV = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
_OUTPUT = {"attn_output": "self_attn.o_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_NORMS_BEHIND = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_ATTENTION = {**_QKV, **_OUTPUT, **_NORMS}
_GATED = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA2 = {
    **{**_QKV, **_OUTPUT, **_GATED, **_NORMS_BEHIND},
    **{"attn_norm": "input_layernorm", "ffn_norm": "pre_feedforward_layernorm"},
}
_EXPERTS = {
    **{"ffn_gate_inp": "mlp.gate", "ffn_down_exps": "mlp.experts.down_proj"},
    **{"ffn_gate_exps": "mlp.experts.gate_up_proj", "ffn_up_exps": "mlp.experts.gate_up_proj"},
}
_SHARED = {
    **{"ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj"},
    **{"ffn_down_shexp": "mlp.shared_expert.down_proj", "ffn_gate_inp_shexp": "mlp.shared_expert_gate"},
}
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
_MOE_COUNTS = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """How one kind of GGUF file is read.

    ``layer``: names of a layer's tensors, without ``blk.N.`` and ending, by the model's own. ``paired_rows``: whether
    the rows of Q and K are stored in pairs (i, i + head_dim/2), as llama.cpp's converter does where it rotates so.
    ``norms_plus_one``: whether norms are stored as 1 + w where the model stores w.
    """

    model_type: str
    layer: Mapping[str, str]
    paired_rows: bool = False
    norms_plus_one: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the configuration, that no metadata says
    counts: Mapping[str, str] = field(default_factory=dict)  # further settings, by the metadata that say them
    more: Callable[[Metadata, Settings], Settings] = lambda _, __: {}  # and what takes more: of the settings so far


def _gemma2(metadata: Metadata, settings: Settings) -> Settings:
    return {
        "sliding_window": metadata.count("attention.sliding_window", default=4096),
        "attn_logit_softcapping": metadata.positive("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.positive("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _query_scale(settings, 46),
    }


def _gemma3(metadata: Metadata, settings: Settings) -> Settings:
    """RoPE of layers with a window is not scaled and has a base of its own, which files do not always say."""
    windows = metadata.get("attention.sliding_window") is not None
    pattern = metadata.count("attention.sliding_window_pattern", 4096, 6)
    kinds = [
        "sliding_attention" if windows and (i + 1) % pattern else "full_attention"
        for i in range(settings["num_hidden_layers"])
    ]
    capped = metadata.get("final_logit_softcapping")
    theta = metadata.positive("rope.freq_base_swa", 10000.0)
    return {
        "layer_types": kinds,
        "sliding_window": metadata.count("attention.sliding_window", default=4096),
        "final_logit_softcapping": metadata.positive("final_logit_softcapping") if capped else None,
        "query_pre_attn_scalar": _query_scale(settings, 62),
        "rope_parameters": {
            "full_attention": settings["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        },
    }


def _query_scale(settings: Settings, largest: int) -> int:
    """No file says it: head_dim, but in the model of ``largest`` layers each head's share of the width."""
    if settings["num_hidden_layers"] == largest:
        return max(1, int(settings["hidden_size"] // settings["num_attention_heads"]))
    return int(settings["head_dim"])


def _phi3(metadata: Metadata, settings: Settings) -> Settings:
    """Phi-3 and Phi-4; with LongRoPE its divisors are tensors."""
    window = metadata.get("attention.sliding_window")
    more: Settings = {"sliding_window": metadata.count("attention.sliding_window") if window else None}
    rotated = metadata.count("rope.dimension_count", 1 << 16, settings["head_dim"])
    rope = {**settings["rope_parameters"], "partial_rotary_factor": rotated / settings["head_dim"]}
    if "rope_factors_long.weight" in metadata.file.tensors:
        original = metadata.count("rope.scaling.original_context_length")
        rope |= {"rope_type": "longrope", "original_max_position_embeddings": original}
        for kind in ("short", "long"):
            name = f"rope_factors_{kind}.weight"
            if name not in metadata.file.tensors:
                raise metadata.wrong(name, "a tensor", None)
            rope[f"{kind}_factor"] = list(metadata.vector(name, rotated // 2))
        more["original_max_position_embeddings"] = original
    return {**more, "rope_parameters": rope}


def _granite(metadata: Metadata, settings: Settings) -> Settings:
    return {
        "embedding_multiplier": metadata.positive("embedding_scale", 1.0),
        "residual_multiplier": metadata.positive("residual_scale", 1.0),
        "attention_multiplier": metadata.positive("attention.scale", settings["head_dim"] ** -0.5),
        "logits_scaling": metadata.positive("logit_scale", 1.0),
    }


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", {**_ATTENTION, **_GATED}, paired_rows=True),  # and Mistral
    # The same name with experts: Mixtral.
    "llama (experts)": Architecture(
        "mixtral",
        {**_ATTENTION, **_EXPERTS},
        paired_rows=True,
        counts={"num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"},
    ),
    "qwen2moe": Architecture(
        "qwen2_moe",
        {**_ATTENTION, **_EXPERTS, **_SHARED},
        settings={"norm_topk_prob": False, "decoder_sparse_step": 1},
        counts={
            **_MOE_COUNTS,
            "moe_intermediate_size": "expert_feed_forward_length",
            "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
        },
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        {**_ATTENTION, **_QK_NORM, **_EXPERTS},
        settings={"norm_topk_prob": True, "decoder_sparse_step": 1},
        counts={**_MOE_COUNTS, "moe_intermediate_size": "expert_feed_forward_length"},
    ),
    "olmoe": Architecture(
        "olmoe", {**_ATTENTION, **_QK_NORM, **_EXPERTS}, settings={"norm_topk_prob": False}, counts=_MOE_COUNTS
    ),
    "qwen2": Architecture("qwen2", {**_ATTENTION, **_GATED}),
    "qwen3": Architecture("qwen3", {**_ATTENTION, **_GATED, **_QK_NORM}),
    "gemma": Architecture("gemma", {**_ATTENTION, **_GATED}, norms_plus_one=True),
    "gemma2": Architecture("gemma2", _GEMMA2, norms_plus_one=True, more=_gemma2),
    "gemma3": Architecture("gemma3_text", {**_GEMMA2, **_QK_NORM}, norms_plus_one=True, more=_gemma3),
    "phi3": Architecture("phi3", {**_OUTPUT, **_NORMS, **_FUSED}, more=_phi3),
    "olmo2": Architecture("olmo2", {**_QKV, **_OUTPUT, **_QK_NORM, **_NORMS_BEHIND, **_GATED}),
    "granite": Architecture("granite", {**_ATTENTION, **_GATED}, paired_rows=True, more=_granite),
    "smollm3": Architecture("smollm3", {**_ATTENTION, **_GATED}, paired_rows=True),
}
