"""The runtime against transformers in FP32: same tokens, same perplexity, bounded loss where bits are few."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from n730c.dtypes import Format
from n730c.evaluate import compare_logits, log_softmax
from n730c.frontend.model import load_model
from n730c.ir.interpret import interpret
from n730c.package import read_package
from n730c.quant import dequantize
from tests.e2e.conftest import Built, generate, n730_exec
from tests.models import DEMO

KINDS = ("demo", "llama2", "llama31", "qwen2")
PROMPTS = 50
NEW_TOKENS = 64
END = 0  # id of the end-of-text token of every model here


def held_out_ids(count: int) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = (DEMO / "heldout.txt").read_text(encoding="utf-8")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:count]


def prompts() -> list[list[int]]:
    """Fifty prompts from the held-out text, ten of each length, so that transformers can run ten at a time."""
    ids = held_out_ids(PROMPTS * 60)
    return [ids[60 * i : 60 * i + (1, 7, 19, 33, 50)[i // 10]] for i in range(PROMPTS)]


@torch.no_grad()
def greedy(model: torch.nn.Module, batch: list[list[int]]) -> list[list[int]]:
    """Greedy continuations of prompts of one length, up to the end-of-text token, which the runtime does not print."""
    ids = torch.tensor(batch)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    continuations: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return [tokens[: tokens.index(END)] if END in tokens else tokens for tokens in continuations]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_transformers(
    kind: str, built: Built, models: Callable[[str], Path], tmp_path: Path
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(models(kind), dtype=torch.float32).eval()
    given = prompts()
    wanted = [tokens for i in range(0, PROMPTS, 10) for tokens in greedy(reference, given[i : i + 10])]
    for precision in ("bf16", "fp16"):
        package = built(kind, precision)
        same = 0
        for ids, expected in zip(given, wanted, strict=True):
            same += generate(package, ids, NEW_TOKENS, tmp_path, "--trust") == expected
        assert same >= PROMPTS - 1, f"{kind} {precision}: {same} of {PROMPTS}"


def window_nll(logits: np.ndarray, ids: list[int]) -> float:
    return -float(log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_score_gives_the_reference_perplexity(
    kind: str, built: Built, models: Callable[[str], Path], tmp_path: Path
) -> None:
    ids = held_out_ids(1500)
    file = tmp_path / "ids.txt"
    file.write_text(" ".join(map(str, ids)))
    reference = AutoModelForCausalLM.from_pretrained(models(kind), dtype=torch.float32).eval()
    for precision in ("bf16", "fp16"):
        done = n730_exec("score", built(kind, precision), "--tokens", file, "--json", "--trust")
        assert done.returncode == 0, done.stderr.decode()
        result = json.loads(done.stdout)
        nll, scored = 0.0, 0
        for start in range(0, len(ids), result["context"]):
            window = ids[start : start + result["context"]]
            if len(window) > 1:
                with torch.no_grad():
                    nll += window_nll(reference(torch.tensor([window])).logits[0].numpy(), window)
                scored += len(window) - 1
        assert result["tokens"] == len(ids) and result["scored_tokens"] == scored
        assert result["perplexity"] == pytest.approx(math.exp(nll / scored), rel=1e-3)


def runtime_logits(package: Path, ids: list[int], folder: Path, *options: str) -> np.ndarray:
    file, out = folder / "ids.txt", folder / "logits.npy"
    file.write_text(" ".join(map(str, ids)))
    done = n730_exec("score", package, "--tokens", file, "--logits", out, *options)
    assert done.returncode == 0, done.stderr.decode()
    logits: np.ndarray = np.load(out)
    assert logits.dtype == np.float32
    return logits


def test_int8_loses_little(built: Built, tmp_path: Path) -> None:
    ids = held_out_ids(500)
    reference = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    with torch.no_grad():
        original = reference(torch.tensor([ids])).logits[0].numpy()
    kl, same = compare_logits(original, runtime_logits(built("demo", "int8"), ids, tmp_path, "--trust"))
    assert kl.mean() <= 2e-3
    assert same.mean() >= 0.97


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["int8", "int4", "int3", "int2"])
def test_only_rounding_is_lost(
    kind: str, precision: str, built: Built, models: Callable[[str], Path], tmp_path: Path
) -> None:
    """The runtime equals the interpreter run on the package's own dequantized weights (FP32 activations)."""
    package, ids = built(kind, precision), held_out_ids(301)
    kl, _ = compare_logits(
        on_stored_weights(package, models(kind), ids), runtime_logits(package, ids, tmp_path, "--trust")
    )
    assert kl.mean() <= 1e-3


def on_stored_weights(package: Path, model: Path, ids: list[int]) -> np.ndarray:
    """The interpreter's logits with FP32 activations."""
    content = read_package(package)
    graph, checkpoint = load_model(model)
    stored = {t.name: (i, t) for i, t in enumerate(content.program.tensors)}

    def weights(name: str) -> np.ndarray:
        index, tensor = stored[name]
        if tensor.format is Format.F32:
            return checkpoint.tensor(name)
        return dequantize(tensor.format, content.tensor_bytes(index), tensor.rows, tensor.cols)

    return interpret(graph, np.asarray(ids), weights)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "int6", "int5", "int4", "nl4", "int3", "nl2", "int2"])
def test_threads_makers_and_levels_give_the_same_bits(precision: str, built: Built, tmp_path: Path) -> None:
    package = built("demo", precision)
    ids = held_out_ids(133)
    first = runtime_logits(package, ids, tmp_path, "--trust", "--threads", "1")
    for options in (
        ["--trust", "--threads", "2"],
        ["--trust", "--threads", "3"],
        ["--kernels", "builtin", "--threads", "2"],
        ["--kernels", "sse2", "--threads", "3"],
    ):
        assert np.array_equal(first, runtime_logits(package, ids, tmp_path, *options)), options


def test_an_int8_cache_loses_little(built: Built, tmp_path: Path) -> None:
    ids = held_out_ids(400)
    package = built("demo", "int8", "--kv", "int8")
    assert n730_exec("verify", package).returncode == 0
    logits = runtime_logits(package, ids, tmp_path, "--trust", "--threads", "2")
    kl, same = compare_logits(runtime_logits(built("demo", "int8"), ids, tmp_path, "--trust"), logits)
    assert 0 < kl.mean() <= 5e-4
    assert same.mean() >= 0.98
    assert np.array_equal(logits, runtime_logits(package, ids, tmp_path, "--kernels", "sse2", "--threads", "3"))


def test_16_bit_activations_lose_next_to_nothing(built: Built, tmp_path: Path) -> None:
    package = built("demo", "nl4", "--activations", "wide", "--kv", "fp32")
    assert n730_exec("verify", package).returncode == 0
    ids = held_out_ids(133)
    logits = runtime_logits(package, ids, tmp_path, "--trust", "--threads", "2")
    kl, _ = compare_logits(on_stored_weights(package, DEMO, ids), logits)
    assert kl.mean() <= 1e-7
    assert np.array_equal(logits, runtime_logits(package, ids, tmp_path, "--kernels", "sse2", "--threads", "3"))


def test_bench_decodes_several_tokens_a_pass(built: Built) -> None:
    command = ["bench", built("demo", "int4"), "--json", "--prompt-tokens", "5", "--gen-tokens", "14", "--columns"]
    done = n730_exec(*command, "4")
    assert done.returncode == 0 and json.loads(done.stdout)["gen_tokens"] == 12, done.stderr.decode()
    done = n730_exec(*command, "9")
    assert done.returncode == 1 and done.stderr.startswith(b"n730-exec: error: too many columns"), done.stderr


@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_peak_memory_stays_near_the_plan(precision: str, built: Built) -> None:
    done = n730_exec("bench", built("demo", precision), "--json", "--prompt-tokens", "100", "--gen-tokens", "16")
    assert done.returncode == 0, done.stderr.decode()
    facts = json.loads(done.stdout)
    assert facts["peak_rss_bytes"] <= facts["planned_ram_bytes"]
