"""config.json becomes a transformers configuration, or one line that says which setting is wrong.

transformers validates too, but late, in words of its own, or by dividing by zero; the sizes that every model is built
from are therefore looked at here first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import transformers
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from n730c.errors import UnsupportedModel

MAX_LAYERS = 4096
MAX_SIZE = 2**24
MAX_ERROR = 240  # characters of a library's own message
_ROPE_TYPES = ("default", *sorted(set(ROPE_INIT_FUNCTIONS) - {"default"}))
_SIZES = {
    **{"num_hidden_layers": MAX_LAYERS, "vocab_size": MAX_SIZE, "max_position_embeddings": MAX_SIZE},
    **{"hidden_size": MAX_SIZE, "intermediate_size": MAX_SIZE, "head_dim": MAX_SIZE},
    **{"num_attention_heads": MAX_SIZE, "num_key_value_heads": MAX_SIZE},
}
_NEEDED = ("num_hidden_layers", "vocab_size")
_POSITIVE = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta")
_HINT = "Use the config.json that came with the weights."


def read_config(settings: Mapping[str, Any]) -> Any:
    """The transformers configuration that config.json's ``settings`` describe; no code of the folder is executed.

    Raises UnsupportedModel for an architecture that transformers does not know, weights that are quantized already
    and settings that contradict each other.
    """
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedModel(
            f"unknown architecture {model_type!r} (model_type in config.json)",
            expected="one that transformers knows, such as llama or qwen2",
            found="code of its own, which is never executed" if "auto_map" in settings else "an unknown name",
            hint="Run n730c models to see what works.",
        )
    if settings.get("quantization_config"):
        raise UnsupportedModel(
            "the weights are quantized already (quantization_config)",
            expected="BF16, FP16 or FP32 weights",
            found="a quantization_config in config.json",
            hint="Give the original model.",
        )
    config_class = transformers.CONFIG_MAPPING[model_type]
    if config_class not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(
            f"architecture {model_type}",
            expected="a causal language model",
            found="another kind",
            hint="Use a model that generates text.",
        )
    _check_settings(settings)
    try:
        config = config_class.from_dict(copy.deepcopy(dict(settings)))
        sizes = {key: getattr(config, key, None) for key in (*_SIZES, *_POSITIVE) if key in settings or key in _NEEDED}
    except Exception as error:  # transformers validates with many exception types of its own
        raise not_a_model(model_type, error) from None
    _check_settings(sizes, needed=_NEEDED)
    _check_rope(getattr(config, "rope_parameters", None))
    return config


def not_a_model(model_type: str, error: Exception) -> UnsupportedModel:
    """The refusal for whatever a configuration or a model's constructor raised."""
    return UnsupportedModel(
        f"config.json does not describe a {model_type} model",
        expected="settings that agree with each other",
        found=error_text(error),
        hint=_HINT,
    )


def error_text(error: Exception) -> str:
    """A library's message in one line: headings that only announce what follows are left out."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    headed = len(lines) > 1 and lines[0].endswith(":")
    text = " ".join(lines[1:] if headed else lines).rstrip(".")
    if not headed:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= MAX_ERROR else text[:MAX_ERROR] + " …"


def _check_settings(settings: Mapping[str, Any], needed: tuple[str, ...] = ()) -> None:
    for key, limit in _SIZES.items():
        size = settings.get(key)
        if size is None and key not in needed:
            continue
        per_layer = size if isinstance(size, list) and key not in needed else [size]  # some families list them by layer
        if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= limit for n in per_layer):
            raise _wrong(key, f"a whole number, 1 ... {limit}", size)
    for key in _POSITIVE:
        value = settings.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise _wrong(key, "a number above 0", value)
    heads, kv_heads = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
        raise _wrong("num_key_value_heads", f"a divisor of num_attention_heads ({heads})", kv_heads)
    activation = settings.get("hidden_act")
    if isinstance(activation, str) and activation not in ACT2FN:
        raise _wrong("hidden_act", "an activation that transformers knows, such as silu", activation)
    if settings.get("alibi"):  # Falcon's own attention adds it where the trace cannot see it
        raise _wrong("alibi", "false: attention biases by distance are not known", settings["alibi"])
    for key in ("rope_scaling", "rope_parameters"):
        _check_rope(settings.get(key))


def _check_rope(parameters: object) -> None:
    """``parameters`` is one set of them, or one set for each type of layer."""
    if not isinstance(parameters, Mapping):
        return
    kind = parameters.get("rope_type", parameters.get("type"))
    if isinstance(kind, str) and kind not in (*_ROPE_TYPES, "mrope", "su"):  # the last two: older names, renamed later
        raise _wrong("rope_type", f"one of {', '.join(_ROPE_TYPES)}", kind)
    factor = parameters.get("factor")
    if factor is not None and (not isinstance(factor, int | float) or not factor > 0):
        raise _wrong("factor of RoPE", "a number above 0", factor)
    for nested in parameters.values():
        _check_rope(nested)


def _wrong(key: str, expected: str, found: object) -> UnsupportedModel:
    shown = repr(found)
    return UnsupportedModel(f"{key} in config.json", expected=expected, found=shown[:80], hint=_HINT)
