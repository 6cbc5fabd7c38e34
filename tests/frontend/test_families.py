"""What families are made of: functions however they are spelled, RoPE made for a length, numbers that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from n730c.errors import UnsupportedModel
from n730c.families import FAMILIES, Family
from n730c.frontend.layers import assemble
from n730c.frontend.model import load_graph, load_model
from n730c.frontend.trace import trace
from n730c.ir.core import Graph, Op
from n730c.ir.text import parse, to_text
from tests.frontend.conftest import ONE_LAYER
from tests.models import make_family


def graph_of(config: transformers.PretrainedConfig, length: int = 4096) -> Graph:
    return assemble("family", trace(config.to_dict(), length), lambda name: name)


@pytest.mark.parametrize(
    ("spelled", "ops"),
    [
        ("gelu", [Op.GELU]),
        ("gelu_python", [Op.GELU]),
        ("gelu_new", [Op.GELU_TANH]),
        ("gelu_fast", [Op.GELU_TANH]),
        ("gelu_pytorch_tanh", [Op.GELU_TANH]),
        ("quick_gelu", [Op.SCALE, Op.SILU, Op.SCALE]),
        ("relu2", [Op.RELU_SQUARED]),
    ],
)
def test_functions_are_known_by_their_values(spelled: str, ops: list[Op]) -> None:
    nodes = graph_of(transformers.LlamaConfig(**ONE_LAYER, hidden_act=spelled)).nodes
    plain = (Op.EMBEDDING, Op.RMS_NORM, Op.LINEAR, Op.ROPE, Op.ATTENTION, Op.ADD, Op.MUL)
    assert [node.op for node in nodes if node.op not in plain] == ops


def test_a_function_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"ATen op aten\.\w+.* in model\.layers\.0\.mlp"):
        graph_of(transformers.LlamaConfig(**ONE_LAYER, hidden_act="mish"))


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


@pytest.mark.parametrize("name", ["Llama, dynamic RoPE", "Phi-3, long context"])
def test_rope_that_depends_on_the_length_is_made_for_the_context(name: str) -> None:
    config = transformers.AutoConfig.for_model(**family(name).config)
    short, long, longer = (graph_of(config, length) for length in (40, 90, 10_000))
    assert [g.tables_for for g in (short, long, longer)] == [40, 90, min(longer.context, 10_000)]
    assert short.consts != long.consts
    assert parse(to_text(long)) == long
    if config.model_type == "llama":  # dynamic: the context is stretched by the factor, the base grows on the way
        assert longer.context == 96 and longer.consts != long.consts
    assert graph_of(transformers.LlamaConfig(**ONE_LAYER), 40).tables_for is None


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("Qwen3", {"head_dim": 24}, r"tensor model\.layers\.0\.self_attn\.\w+\.weight: shape \(expected"),
        (
            "Phi-3, Phi-4",
            {"num_key_value_heads": 4},
            r"qkv_proj\.weight: shape \(expected \[192, 64\], found \[128, 64\]\)",
        ),
        (
            "GPT-2",
            {"n_embd": 32},
            r"tensor transformer\.wte\.weight: shape \(expected \[2048, 32\], found \[2048, 64\]\)",
        ),
        ("GPT-2", {"n_positions": 300}, r"transformer\.wpe\.weight: shape \(expected \[300, 64\], found \[256, 64\]\)"),
        ("Gemma 2", {"num_hidden_layers": 1}, r"config\.json describes fewer layers than are stored"),
        ("Falcon 40B", {"num_kv_heads": 4}, r"query_key_value\.weight: shape"),
    ],
)
def test_numbers_that_do_not_fit_the_tensors(name: str, changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    folder = make_family(tmp_path, family(name))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_types": None, **changes}))
    with pytest.raises(UnsupportedModel, match=expected) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_the_models_prefix(tmp_path: Path) -> None:
    """GPT-2's own names its tensors h.0 … and has masks that nobody reads."""
    from safetensors.torch import load_file, save_file

    folder = make_family(tmp_path, family("GPT-2"))
    stored = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor.clone() for name, tensor in stored.items()}
    bare["h.0.attn.bias"] = bare["ln_f.bias"][:1].clone()
    save_file(bare, folder / "model.safetensors")
    graph, checkpoint = load_model(folder)
    assert "h.0.attn.c_attn.weight|transpose" in {p.name for p in graph.params}
    assert checkpoint.tensor("h.0.attn.c_attn.weight|transpose").shape == (192, 64)
    assert [n.op for n in graph.nodes] == [n.op for n in load_graph(folder).nodes]
