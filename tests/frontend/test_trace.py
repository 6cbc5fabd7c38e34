"""Tracing costs by kinds of layer, names what it refuses, and binds parameters to stored tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from n730c.errors import UnsupportedModel
from n730c.frontend.layers import assemble
from n730c.frontend.model import load_model
from n730c.frontend.trace import trace
from n730c.ir.core import Op
from n730c.ir.interpret import interpret
from tests.frontend.conftest import CONFIGS, LLAMA3_ROPE, ONE_LAYER, TINY


def refusal(config: Any) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        traced = trace(config if isinstance(config, dict) else config.to_dict())
        assemble("refused", traced, lambda name: name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_eighty_layers_trace_as_few_as_three() -> None:
    def traced_layers(count: int) -> tuple[int, int]:
        traced = trace(transformers.LlamaConfig(**{**TINY, "num_hidden_layers": count}).to_dict())
        graph = assemble("deep", traced, lambda name: name)
        assert sum(node.op is Op.ATTENTION for node in graph.nodes) == count
        assert [n.layer for n in graph.nodes if n.op is Op.ATTENTION] == list(range(count))
        return len(traced.traced), sum(str(n.target) == "n730.attention.default" for n in traced.program.graph.nodes)

    assert traced_layers(3) == traced_layers(80) == (2, 2)


def test_layers_of_two_kinds_are_told_apart_by_their_modules() -> None:
    traced = trace(CONFIGS["two_kinds"]().to_dict())
    assert traced.kinds == (0, 0, 0, 1, 0, 0)
    graph = assemble("two kinds", traced, lambda name: name)
    ropes = [sum(n.op is Op.ROPE and n.layer == i for n in graph.nodes) for i in range(6)]
    assert ropes == [2, 2, 2, 0, 2, 2]


def test_rope_as_published_configurations_spell_it() -> None:
    """Llama 3.1's config.json has rope_theta and rope_scaling where transformers now writes rope_parameters."""
    scaling = {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"}
    old = {**ONE_LAYER, "model_type": "llama", "rope_theta": 10000.0, "rope_scaling": scaling}
    new = {**ONE_LAYER, "model_type": "llama", "rope_parameters": LLAMA3_ROPE}
    plain = {**ONE_LAYER, "model_type": "llama", "rope_theta": 10000.0, "rope_scaling": None}
    first, second, third = (assemble("rope", trace(config), lambda name: name).consts for config in (old, new, plain))
    assert first == second != third


def windows(config: transformers.PretrainedConfig) -> list[object]:
    graph = assemble("windows", trace(config.to_dict()), lambda name: name)
    return [dict(node.attrs)["window"] for node in graph.nodes if node.op is Op.ATTENTION]


def test_windows_of_attention() -> None:
    """One as long as the context is none; layers may differ."""
    assert windows(transformers.MistralConfig(**ONE_LAYER, sliding_window=128)) == [128]
    assert windows(transformers.MistralConfig(**ONE_LAYER, sliding_window=16)) == [16]
    config = transformers.Qwen2Config(**TINY, use_sliding_window=True, max_window_layers=2, sliding_window=16)
    assert windows(config) == [128, 128, *[16] * (config.num_hidden_layers - 2)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.T5Config(), r"architecture t5 \(expected a causal language model, found another kind\)"),
        ({"model_type": "no_such_model"}, r"unknown architecture 'no_such_model'"),
        ({"model_type": ["llama"]}, r"unknown architecture \['llama'\]"),
        ({}, r"unknown architecture None"),
        ({"model_type": "own", "auto_map": {"AutoModel": "evil.Model"}}, r"code of its own, which is never executed"),
        (
            {**TINY, "model_type": "llama", "num_attention_heads": "four"},
            r"num_attention_heads in config\.json \(expected a whole number, 1 \.\.\. 16777216, found 'four'\)\. Use ",
        ),
        (
            {**TINY, "model_type": "llama", "num_hidden_layers": 10**9},
            r"num_hidden_layers in config\.json \(expected a whole number, 1 \.\.\. 4096",
        ),
        ({**TINY, "model_type": "llama", "num_hidden_layers": 0}, r"num_hidden_layers in config.*found 0\)"),
        ({**TINY, "model_type": "llama", "num_hidden_layers": -1}, r"num_hidden_layers in config.*found -1\)"),
        ({**TINY, "model_type": "llama", "num_attention_heads": 0}, r"num_attention_heads in config.*found 0\)"),
        ({**TINY, "model_type": "llama", "num_key_value_heads": 3}, r"expected a divisor of num_attention_heads \(4\)"),
        ({**TINY, "model_type": "llama", "hidden_size": 50}, r"hidden size \(50\) is not a multiple of .* heads \(4\)"),
        (
            {**TINY, "model_type": "llama", "head_dim": 7},
            r"requires an even rotary dimension.*\)\. Use the config\.json",
        ),
        ({**TINY, "model_type": "llama", "hidden_act": "no_such"}, r"hidden_act in config.*found 'no_such'\)"),
        ({**TINY, "model_type": "llama", "rms_norm_eps": "x"}, r"rms_norm_eps in config.*found 'x'"),
        (
            {**TINY, "model_type": "llama", "rms_norm_eps": None},
            r"found TypeError: Field 'rms_norm_eps' expected float",
        ),
        (
            {**TINY, "model_type": "llama", "rope_scaling": {"rope_type": "no_such", "factor": 2.0}},
            r"rope_type in config\.json \(expected one of default, dynamic, linear, .*found 'no_such'\)",
        ),
        (
            {"model_type": "mamba", "num_hidden_layers": 2, "vocab_size": 97, "hidden_size": 48},
            r"ATen op aten\.\w+\.int in backbone\.layers\.0\.mixer \(MambaMixer\) is not understood",
        ),
        (
            {"model_type": "xlnet", "n_layer": 2, "vocab_size": 97, "d_model": 48, "n_head": 4},
            r"aten\.\w+\.int in transformer \(XLNetModel\) is not understood",
        ),
        (
            {"model_type": "falcon", "num_hidden_layers": 2, "vocab_size": 97, "alibi": True},
            r"alibi in config\.json \(expected false",
        ),
        ({**TINY, "model_type": "llama", "quantization_config": {"bits": 4}}, r"quantized already"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(config: Any, expected: str) -> None:
    assert re.search(expected, refusal(config)), refusal(config)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    trace({**ONE_LAYER, "model_type": "llama", "eos_token_id": 10**6, "no_such_setting": 1})
    assert capfd.readouterr() == ("", "")


# --- binding to the checkpoint ---


def copy_with(source: Path, folder: Path, change: Callable[[dict[str, Any]], None], **settings: Any) -> Path:
    """A copy of a model's folder with other tensors and settings."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_tied_embeddings_are_one_tensor(models: Callable[[str], Path], tmp_path: Path) -> None:
    graph, checkpoint = load_model(models("qwen2_tied"))
    assert "lm_head.weight" not in checkpoint.names
    assert graph.node(graph.output).param("weight") == "model.embed_tokens.weight"

    def only_the_head(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    graph, _ = load_model(copy_with(models("qwen2_tied"), tmp_path, only_the_head))
    assert graph.nodes[0].param("weight") == graph.node(graph.output).param("weight") == "lm_head.weight"


def test_tied_by_configuration_but_stored_twice(models: Callable[[str], Path], tmp_path: Path) -> None:
    def twice(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    graph, _ = load_model(copy_with(models("qwen2_tied"), tmp_path, twice))
    assert graph.node(graph.output).param("weight") == "model.embed_tokens.weight"

    def different(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    graph, _ = load_model(copy_with(models("qwen2_tied"), tmp_path, different))
    assert graph.node(graph.output).param("weight") == "lm_head.weight"


def test_extra_tensors_do_no_harm(models: Callable[[str], Path], tmp_path: Path) -> None:
    def more(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(6, dtype=np.float64)

    load_model(copy_with(models("llama1"), tmp_path, more))


def test_tensors_that_the_model_never_reads_are_named(models: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"fewer layers .*expected 2 layers .*, found tensor model\.layers\.2\.input_layernorm"
    ):
        load_model(copy_with(models("llama2"), tmp_path, lambda _: None, num_hidden_layers=2))

    def more(tensors: dict[str, Any]) -> None:
        for name in ("q_proj.bias", "k_proj.bias"):
            tensors[f"model.layers.0.self_attn.{name}"] = np.ones(48, dtype=np.float32)

    with pytest.raises(
        UnsupportedModel, match=r"never reads tensor model\.layers\.0\.self_attn\.k_proj\.bias and 1 more"
    ):
        load_model(copy_with(models("llama1"), tmp_path, more))


def test_missing_and_misshapen_tensors_are_named(models: Callable[[str], Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(UnsupportedModel, match=rf"tensor {name} is missing"):
        load_model(copy_with(models("llama1"), tmp_path, lambda tensors: tensors.pop(name)))
    with pytest.raises(UnsupportedModel, match=r"tensor lm_head\.weight is missing"):
        load_model(copy_with(models("qwen2_tied"), tmp_path, lambda _: None, tie_word_embeddings=False))

    def cut(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name][:, :40].copy()

    with pytest.raises(UnsupportedModel, match=rf"tensor {name}: shape \(expected \[80, 48\], found \[80, 40\]\)"):
        load_model(copy_with(models("llama1"), tmp_path, cut))

    def integers(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].astype(np.int8)

    with pytest.raises(UnsupportedModel, match=rf"tensor {name}: dtype \(expected F32 or F16 or BF16, found I8\)"):
        load_model(copy_with(models("llama1"), tmp_path, integers))


def test_weights_are_asked_for_one_at_a_time(models: Callable[[str], Path]) -> None:
    graph, checkpoint = load_model(models("llama2"))
    asked: list[str] = []

    def weights(name: str) -> Any:
        asked.append(name)
        return checkpoint.tensor(name)

    interpret(graph, [1, 2, 3], weights)
    assert asked == [name for node in graph.nodes for role, name in node.params if role != "inv_freq"]
