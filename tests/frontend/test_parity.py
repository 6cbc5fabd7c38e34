"""The interpreter on the traced graph gives the logits that transformers gives in FP32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from n730c.frontend.model import load_model
from n730c.ir.interpret import interpret
from n730c.ir.text import parse, to_text
from n730c.passes import run_passes
from n730c.passes.fuse_silu_mul import FuseSiluMul
from tests.frontend.conftest import CONFIGS, save

LENGTHS = (1, 7, 33)


def assert_parity(folder: Path) -> None:
    graph, checkpoint = load_model(folder)
    fused = run_passes(graph, [FuseSiluMul()])
    assert parse(to_text(fused)) == fused
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for length in LENGTHS:
        ids = np.random.default_rng(length).integers(0, graph.vocab, length)
        with torch.no_grad():
            expected = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
        found = interpret(graph, ids, checkpoint.tensor)
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
        assert np.array_equal(interpret(fused, ids, checkpoint.tensor), found)


@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_equal_transformers(kind: str, models: Callable[[str], Path]) -> None:
    assert_parity(models(kind))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    assert_parity(save(tmp_path, CONFIGS["llama31"](), dtype))


def test_sharded_weights(tmp_path: Path) -> None:
    assert_parity(save(tmp_path, CONFIGS["qwen2"](), torch.bfloat16, max_shard_size="30KB"))
    assert len(list(tmp_path.glob("*.safetensors"))) > 2


def test_demo_model_when_it_is_there() -> None:
    folder = Path(__file__).parents[2] / "examples" / "demo-model"
    if not (folder / "model.safetensors").exists():
        pytest.skip("examples/demo-model/model.safetensors has not been trained yet")
    assert_parity(folder)
