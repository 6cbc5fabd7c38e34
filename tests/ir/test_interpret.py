"""The numpy references against torch's own operators, and the interpreter's manners."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from n730c.errors import InvalidIR
from n730c.ir.core import Op
from n730c.ir.interpret import interpret
from n730c.ir.ops import OPS, Array
from tests.ir.graphs import VOCAB, every_op

sizes = st.integers(1, 9)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def close(found: Array, expected: torch.Tensor) -> bool:
    assert found.dtype == np.float32
    return bool(np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5))


@given(s=sizes, kv_heads=st.integers(1, 3), group=st.integers(1, 3), head_dim=sizes, window=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_attention(s: int, kv_heads: int, group: int, head_dim: int, window: int) -> None:
    heads = kv_heads * group
    q, k, v = (
        random(s, heads * head_dim),
        random(s, kv_heads * head_dim, seed=1),
        random(s, kv_heads * head_dim, seed=2),
    )
    attrs = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "scale": 0.3, "window": window}
    found = OPS[Op.ATTENTION].reference((q, k, v), {}, attrs)
    by_head = [torch.tensor(x).reshape(s, -1, head_dim).transpose(0, 1)[None] for x in (q, k, v)]
    back = torch.arange(s)[:, None] - torch.arange(s)[None]  # positions from query back to key
    seen = (back >= 0) & (back < window)
    expected = torch.nn.functional.scaled_dot_product_attention(*by_head, attn_mask=seen, scale=0.3, enable_gqa=True)
    assert close(found, expected[0].transpose(0, 1).reshape(s, -1))


@given(s=sizes, width=sizes)
@settings(max_examples=20, deadline=None)
def test_rms_norm(s: int, width: int) -> None:
    x, weight = random(s, width), random(width, seed=1)
    found = OPS[Op.RMS_NORM].reference((x,), {"weight": weight}, {"eps": 0.01})
    expected = torch.nn.functional.rms_norm(torch.tensor(x), [width], torch.tensor(weight), 0.01)
    assert close(found, expected)


@given(s=sizes, heads=st.integers(1, 3), half=st.integers(1, 4), rest=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_rope_turns_pairs_and_leaves_the_rest(s: int, heads: int, half: int, rest: int) -> None:
    """As complex numbers: z_i = x_i + i·x_(i+n) is multiplied by scaling · exp(i · position · inv_freq)."""
    head_dim = 2 * half + rest
    x = random(s, heads * head_dim)
    inv_freq = np.abs(random(half, seed=1))
    attrs = {"heads": heads, "head_dim": head_dim, "rotary_dim": 2 * half, "scaling": 0.5}
    found = OPS[Op.ROPE].reference((x,), {"inv_freq": inv_freq}, attrs).reshape(s, heads, head_dim)
    x = x.reshape(s, heads, head_dim)
    z = x[..., :half] + 1j * x[..., half : 2 * half]
    turned = z * 0.5 * np.exp(1j * np.arange(s)[:, None] * inv_freq)[:, None, :]
    assert np.allclose(found[..., :half], turned.real, atol=1e-5)
    assert np.allclose(found[..., half : 2 * half], turned.imag, atol=1e-5)
    assert np.array_equal(found[..., 2 * half :], x[..., 2 * half :])


def test_silu_far_from_zero() -> None:
    x = np.array([[-1e4, -88.0, -1.0, 0.0, 1.0, 88.0, 1e4]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = OPS[Op.SILU].reference((x,), {}, {})
    assert close(found, torch.nn.functional.silu(torch.tensor(x)))


def test_values_and_weights_are_freed_after_their_last_use() -> None:
    graph = every_op()
    shapes = {param.name: param.shape for param in graph.params}
    alive: list[weakref.ref[Array]] = []

    def weights(name: str) -> Array:
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1  # a bias beside its weight
        tensor = random(*shapes[name])
        alive.append(weakref.ref(tensor))
        return tensor

    logits = interpret(graph, np.array([3, 1, 4]), weights)
    assert logits.shape == (3, VOCAB)


def test_a_longer_text_does_not_change_earlier_logits() -> None:
    graph = every_op()
    shapes = {param.name: param.shape for param in graph.params}
    long = interpret(graph, [3, 1, 4, 1, 5, 9], lambda name: random(*shapes[name]))
    short = interpret(graph, [3, 1, 4], lambda name: random(*shapes[name]))
    assert np.allclose(long[:3], short, atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], r"expected integers \[s\], s >= 1"),
        ([[1]], r"expected integers \[s\]"),
        ([1.5], r"found float64 \[1\]"),
        ([VOCAB], "expected 0 ... 10, found 11 ... 11"),
        ([-1], "expected 0 ... 10, found -1"),
    ],
)
def test_wrong_ids(ids: list[int], expected: str) -> None:
    with pytest.raises(InvalidIR, match=expected):
        interpret(every_op(), ids, lambda name: random(1))


def test_a_tensor_of_the_wrong_shape() -> None:
    with pytest.raises(InvalidIR, match=r"tensor embed \(expected \(11, 6\), found \(1,\)\)"):
        interpret(every_op(), [1], lambda name: random(1))


@pytest.mark.parametrize("normalized", [True, False])
def test_experts_are_those_of_qwen2_moe(normalized: bool) -> None:
    config = Qwen2MoeConfig(
        hidden_size=12, moe_intermediate_size=10, num_experts=6, num_experts_per_tok=3, norm_topk_prob=normalized,
        shared_expert_intermediate_size=8,
    )  # fmt: skip
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    block = Qwen2MoeSparseMoeBlock(config)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    of = {name: tensor.detach().numpy() for name, tensor in block.named_parameters()}
    x = random(9, 12)
    gates = OPS[Op.ROUTE].reference((x @ of["gate.weight"].T,), {}, {"top_k": 3, "normalized": normalized})
    weights = {"gate_up": of["experts.gate_up_proj"], "down": of["experts.down_proj"]}
    y = OPS[Op.EXPERTS].reference((x, gates), weights, {})
    both = [x @ of[f"shared_expert.{name}_proj.weight"].T for name in ("gate", "up")]
    shared = OPS[Op.SILU_MUL].reference(tuple(both), {}, {}) @ of["shared_expert.down_proj.weight"].T
    found = y + OPS[Op.GATE].reference((shared, x @ of["shared_expert_gate.weight"].T), {}, {})
    with torch.no_grad():
        expected = block(torch.tensor(x)[None])[0]
    assert np.allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_of_equal_chances_the_first_experts_are_taken() -> None:
    gates = OPS[Op.ROUTE].reference((np.zeros((1, 5), np.float32),), {}, {"top_k": 2, "normalized": True})
    assert gates.tolist() == [[0.5, 0.5, 0, 0, 0]]
