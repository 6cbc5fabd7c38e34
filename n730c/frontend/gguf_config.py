"""From a GGUF file's metadata to a transformers configuration, and from its tensors' names to the model's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from n730c.errors import UnsupportedModel
from n730c.frontend.gguf_architectures import ARCHITECTURES, Architecture
from n730c.frontend.gguf_file import GgufFile
from n730c.frontend.gguf_metadata import Metadata

_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
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
    metadata = Metadata(file)
    heads = metadata.count("attention.head_count", 1 << 16)
    kv_heads = metadata.count("attention.head_count_kv", 1 << 16, heads)
    hidden = metadata.count("embedding_length")
    head_dim = metadata.count("attention.key_length", 1 << 16, max(1, hidden // heads))
    rotated = metadata.count("rope.dimension_count", 1 << 16, head_dim)
    partly = kind.model_type == "phi3"  # the only one of these that may rotate a part of each head
    if metadata.count("attention.value_length", 1 << 16, head_dim) != head_dim or (rotated != head_dim and not partly):
        raise metadata.wrong("attention.value_length or rope.dimension_count", f"{head_dim} (head_dim)", "another")
    settings = {
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
        "pad_token_id": None,  # some kinds' default lies beyond the tokens of a smaller model
        **kind.settings,
        **{setting: metadata.count(key) for setting, key in kind.counts.items()},
    }
    return {**settings, **kind.more(metadata, settings)}


def _rope(file: GgufFile, metadata: Metadata, head_dim: int) -> dict[str, Any]:
    """``rope_parameters`` of the configuration."""
    theta = metadata.positive("rope.freq_base", 10000.0)
    kind = metadata.get("rope.scaling.type") or "none"
    if _ROPE_FACTORS in file.tensors:
        return _llama3(metadata, theta, head_dim)
    if kind == "none" or "rope_factors_long.weight" in file.tensors:
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


def _llama3(metadata: Metadata, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3's scaling: the file has the divisors only, which must be those of the one setting ever published."""
    stored = np.asarray(metadata.vector(_ROPE_FACTORS, head_dim // 2))
    factor, low, high, original = float(stored.max()), 1.0, 4.0, 8192
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    with np.errstate(all="ignore"):  # a hostile file may hold anything here
        expected = 1 / ((1 - smooth) / factor + smooth)
        agree = factor >= 1 and bool(np.allclose(stored, expected, rtol=1e-4))
    if not agree:
        raise metadata.wrong(_ROPE_FACTORS, "Llama 3's divisors (low 1, high 4, 8192 positions)", stored[:4].tolist())
    return {
        **{"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low},
        **{"high_freq_factor": high, "original_max_position_embeddings": original},
    }
