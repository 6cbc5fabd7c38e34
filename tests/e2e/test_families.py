"""Every family of the table, built at FP16 and run by the runtime: logits and greedy tokens of transformers in FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from n730c.cli import run
from n730c.families import FAMILIES, Family
from tests.e2e.conftest import generate, n730_exec
from tests.models import make_family

TOKENS = 70  # beyond the windows, a batch of prompt tokens and one block of positions
PROMPTS = (3, 30)
NEW_TOKENS = 12


def known(family: Family) -> str:
    return family.name


@pytest.mark.parametrize("family", FAMILIES, ids=known)
def test_logits_and_tokens_equal_transformers(family: Family, tmp_path: Path) -> None:
    folder, package = make_family(tmp_path / "model", family), tmp_path / "p.n730"
    context = ["--context", str(TOKENS)] if family.depends_on_context else []
    run(["build", str(folder), "--target", "gt730", "--precision", "fp16", "-o", str(package), "--no-tune", *context])
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(1, family.config["vocab_size"], TOKENS)
    (tmp_path / "ids").write_text(" ".join(map(str, ids)))
    done = n730_exec("score", package, "--tokens", tmp_path / "ids", "--logits", tmp_path / "logits.npy", "--trust")
    assert done.returncode == 0, done.stderr.decode()
    with torch.no_grad():
        expected = reference(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    found = np.load(tmp_path / "logits.npy")
    assert np.abs(found - expected).max() <= 2e-3 * np.abs(expected).max()
    assert expected.std() > 0.01, "logits that are all alike would prove nothing"
    for length in () if family.depends_on_context else PROMPTS:
        prompt = torch.tensor(ids[:length])[None]
        out = reference.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        made = generate(package, ids[:length].tolist(), NEW_TOKENS, tmp_path)
        wanted = out[0, length:].tolist()
        wanted = wanted[: wanted.index(0)] if 0 in wanted else wanted
        assert made == wanted
