"""Sliding-window attention: the cache keeps the window only, and the logits are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from n730c.package import read_package
from tests.e2e.conftest import Built, n730_exec

TOKENS = 300  # more than the rows of the caches, which are used in turn


def test_a_window_is_all_that_is_kept(built: Built, models: Callable[[str], Path], tmp_path: Path) -> None:
    package = built("qwen2_window", "bf16")
    content = read_package(package)
    plan = content.plans[0]
    rows = [cache.positions(plan.context, plan.batch) for cache in content.program.caches]
    assert rows == [512, 512, 128, 128]  # 24 and a batch of 64, in whole blocks
    ids = np.random.default_rng(0).integers(1, content.program.vocab, TOKENS)
    (tmp_path / "ids").write_text(" ".join(map(str, ids)))
    reference = AutoModelForCausalLM.from_pretrained(models("qwen2_window"), dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(torch.tensor(ids)[None]).logits[0].numpy()
    for threads in ("1", "2"):
        done = n730_exec(
            "score", package, "--tokens", tmp_path / "ids", "--logits", tmp_path / "l.npy", "--threads", threads
        )
        assert done.returncode == 0, done.stderr.decode()
        found = np.load(tmp_path / "l.npy")
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    settings = {**reference.config.to_dict(), "use_sliding_window": False, "layer_types": None}
    unlike = reference.__class__(reference.config.__class__(**settings))
    unlike.load_state_dict(reference.state_dict())
    with torch.no_grad():  # and the window matters: without it the logits are others
        assert np.abs(unlike.eval()(torch.tensor(ids)[None]).logits[0].numpy() - expected).max() > 0.01


@pytest.mark.parametrize("count", [100, 200])
def test_decoding_goes_on_where_prefill_ended(count: int, built: Built, tmp_path: Path) -> None:
    """Greedy decoding token by token equals scoring the whole text at once."""
    package = built("qwen2_window", "bf16")
    ids = np.random.default_rng(count).integers(1, 2048, count)
    (tmp_path / "ids").write_text(" ".join(map(str, ids)))
    done = n730_exec(package, "--tokens", tmp_path / "ids", "-n", "60", "--temperature", "0", "--ids")
    made = [int(token) for token in done.stdout.split()]
    (tmp_path / "all").write_text(" ".join(map(str, [*ids, *made])))
    assert n730_exec("score", package, "--tokens", tmp_path / "all", "--logits", tmp_path / "l.npy").returncode == 0
    logits = np.load(tmp_path / "l.npy")
    assert logits[count - 1 : count - 1 + len(made)].argmax(axis=1).tolist() == made
