"""From a GGUF file's metadata to a transformers configuration, and from its tensors' names to the model's.

One row of ``ARCHITECTURES`` a kind of file. What a row does not say is refused by name, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from n730c.errors import UnsupportedModel
from n730c.frontend.gguf_file import GgufFile

_MAX = 1 << 24
_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    **{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"},
    **{"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
}
_GATED = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_EXPERTS = {
    **{"ffn_gate_inp": "mlp.gate", "ffn_down_exps": "mlp.experts.down_proj"},
    **{"ffn_gate_exps": "mlp.experts.gate_up_proj", "ffn_up_exps": "mlp.experts.gate_up_proj"},
}
_SHARED = {
    **{"ffn_gate_shexp": "mlp.shared_expert.gate_proj", "ffn_up_shexp": "mlp.shared_expert.up_proj"},
    **{"ffn_down_shexp": "mlp.shared_expert.down_proj", "ffn_gate_inp_shexp": "mlp.shared_expert_gate"},
}


@dataclass(frozen=True)
class Architecture:
    """How one kind of GGUF file is read.

    ``layer``: names of a layer's tensors, without ``blk.N.`` and ending, by the model's own. ``paired_rows``: whether
    the rows of Q and K are stored in pairs (i, i + head_dim/2), as llama.cpp's converter does where it rotates so.
    """

    model_type: str
    layer: Mapping[str, str]
    paired_rows: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the configuration, that no metadata says
    counts: Mapping[str, str] = field(default_factory=dict)  # further settings, by the metadata that say them


_MOE_COUNTS = {"num_experts": "expert_count", "num_experts_per_tok": "expert_used_count"}
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
}
_ROPE_FACTORS = "rope_freqs.weight"  # what Llama 3's frequencies are divided by


def architecture(file: GgufFile) -> Architecture:
    """The row for a file. Raises UnsupportedModel."""
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES or " " in name:
        raise UnsupportedModel(
            f"{file.path}: architecture {name!a}",
            expected=f"one of {', '.join(n for n in ARCHITECTURES if ' ' not in n)}",
            found="another" if isinstance(name, str) else "none",
            hint="Take the model's Hugging Face folder instead.",
        )
    experts = f"{name} (experts)"
    return ARCHITECTURES[experts if experts in ARCHITECTURES and file.metadata.get(f"{name}.expert_count") else name]


def model_name(name: str, kind: Architecture) -> str | None:
    """The model's own name of a stored tensor, or None if the architecture has none such."""
    stem, _, ending = name.rpartition(".")
    if ending not in ("weight", "bias"):
        return None
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{ending}"
    match = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem)
    if match is None or match[2] not in kind.layer:
        return None
    own = kind.layer[match[2]]
    return f"model.layers.{int(match[1])}.{own}" + ("" if ".experts." in own else f".{ending}")


def read_settings(file: GgufFile) -> dict[str, Any]:
    """config.json as the model's own folder would have it. Raises UnsupportedModel where a number is missing or odd."""
    kind = architecture(file)
    if "token_embd.weight" not in file.tensors:
        raise UnsupportedModel(
            f"{file.path} has no embedding", expected="tensor token_embd.weight", hint="Take a file with a whole model."
        )
    metadata = _Metadata(file)
    heads = metadata.count("attention.head_count", 1 << 16)
    kv_heads = metadata.count("attention.head_count_kv", 1 << 16, heads)
    hidden = metadata.count("embedding_length")
    head_dim = metadata.count("attention.key_length", 1 << 16, max(1, hidden // heads))
    rotated = metadata.count("rope.dimension_count", 1 << 16, head_dim)
    if metadata.count("attention.value_length", 1 << 16, head_dim) != head_dim or rotated != head_dim:
        raise metadata.wrong("attention.value_length or rope.dimension_count", f"{head_dim} (head_dim)", "another")
    return {
        "model_type": kind.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": metadata.count("feed_forward_length"),
        "num_hidden_layers": metadata.count("block_count", 4096),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": metadata.count("context_length"),
        "rms_norm_eps": metadata.positive("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(file, metadata, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        **kind.settings,
        **{setting: metadata.count(key) for setting, key in kind.counts.items()},
    }


class _Metadata:
    """The numbers of the file's architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.prefix = file.metadata["general.architecture"]

    def wrong(self, key: str, expected: str, found: object) -> UnsupportedModel:
        shown = "nothing" if found is None else ascii(found)[:80]
        hint = "Convert the model again, or take its Hugging Face folder."
        return UnsupportedModel(f"{self.file.path}: {self.prefix}.{key}", expected=expected, found=shown, hint=hint)

    def get(self, key: str) -> Any:
        return self.file.metadata.get(f"{self.prefix}.{key}")

    def count(self, key: str, limit: int = _MAX, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= limit:
            raise self.wrong(key, f"a whole number, 1 ... {limit}", value)
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.wrong(key, "a number above 0", value)
        return float(value)


def _rope(file: GgufFile, metadata: _Metadata, head_dim: int) -> dict[str, Any]:
    """``rope_parameters`` of the configuration."""
    theta = metadata.positive("rope.freq_base", 10000.0)
    kind = metadata.get("rope.scaling.type") or "none"
    if _ROPE_FACTORS in file.tensors:
        return _llama3(file, metadata, theta, head_dim)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = metadata.positive("rope.scaling.factor")
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        original = metadata.count("rope.scaling.original_context_length")
        return {
            **{"rope_type": "yarn", "rope_theta": theta, "factor": factor},
            "original_max_position_embeddings": original,
        }
    raise metadata.wrong("rope.scaling.type", "none, linear or yarn", kind)


def _llama3(file: GgufFile, metadata: _Metadata, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling: the file has the divisors only, which must be those of the one setting ever published."""
    tensor = file.tensors[_ROPE_FACTORS]
    if tensor.type is not GGMLQuantizationType.F32 or tensor.shape != (head_dim // 2,):
        raise metadata.wrong(_ROPE_FACTORS, f"F32[{head_dim // 2}]", f"{tensor.type.name}{list(tensor.shape)}")
    stored = file.read(_ROPE_FACTORS).reshape(-1).view("<f4").astype(np.float64)
    factor, low, high, original = float(stored.max()), 1.0, 4.0, 8192
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    with np.errstate(all="ignore"):  # a hostile file may hold anything here
        sound = bool(np.isfinite(stored).all()) and factor >= 1
        expected = 1 / ((1 - smooth) / factor + smooth)
        agree = sound and bool(np.allclose(stored, expected, rtol=1e-4))
    if not agree:
        raise metadata.wrong(_ROPE_FACTORS, "Llama 3's divisors (low 1, high 4, 8192 positions)", stored[:4].tolist())
    return {
        **{"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low},
        **{"high_freq_factor": high, "original_max_position_embeddings": original},
    }
