"""The sampler against transformers' own processors on random logits, and its options from the command line."""

from __future__ import annotations

import json
import math
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from tests.e2e.conftest import n730_exec

ROOT = Path(__file__).parents[2]
DEFAULTS = dict(
    temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical=1.0, repetition=1.0, frequency=0.0, presence=0.0
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    program = tmp_path_factory.mktemp("sampler") / "harness"
    sources = [Path(__file__).with_name("sampler_harness.cpp"), ROOT / "runtime/src/sampler.cpp"]
    command = ["g++", "-std=c++17", "-O1", f"-I{ROOT}/runtime/src", "-o", str(program), *map(str, sources)]
    subprocess.run(command, check=True)
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.communicate()


def ask(
    process: subprocess.Popen[bytes],
    logits: np.ndarray,
    prompt: list[int],
    generated: list[int],
    bias: dict[int, float],
    **options: float,
) -> tuple[int, dict[int, float]]:
    """The token chosen, and the probabilities of all that could have been."""
    chosen = {**DEFAULTS, **options}
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(struct.pack("4i8d", len(logits), len(prompt), len(generated), len(bias), *chosen.values()))
    process.stdin.write(np.array(prompt + generated, np.int32).tobytes())
    process.stdin.write(b"".join(struct.pack("if", *item) for item in bias.items()))
    process.stdin.write(logits.astype(np.float32).tobytes())
    process.stdin.flush()
    token, *kept = process.stdout.readline().split()
    return int(token), {int(pair.split(b":")[0]): float(pair.split(b":")[1]) for pair in kept}


def expected(
    logits: np.ndarray, prompt: list[int], generated: list[int], bias: dict[int, float], **options: float
) -> dict[int, float]:
    """The same by transformers, and by the formulas of the penalties that it does not have."""
    chosen = {**DEFAULTS, **options}
    scores = torch.tensor(logits, dtype=torch.float32)[None].clone()
    for token, value in bias.items():
        scores[0, token] += value
    ids = torch.tensor([prompt + generated], dtype=torch.long)
    if chosen["repetition"] != 1:
        scores = RepetitionPenaltyLogitsProcessor(chosen["repetition"])(ids, scores)
    for token in set(generated):
        scores[0, token] -= generated.count(token) * chosen["frequency"] + chosen["presence"]
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(chosen["temperature"]))]
    if chosen["top_k"]:
        warpers.append(TopKLogitsWarper(int(chosen["top_k"])))
    if chosen["top_p"] < 1:
        warpers.append(TopPLogitsWarper(chosen["top_p"]))
    if chosen["min_p"]:
        warpers.append(MinPLogitsWarper(chosen["min_p"]))
    if chosen["typical"] < 1:
        warpers.append(TypicalLogitsWarper(chosen["typical"]))
    probabilities = torch.softmax(LogitsProcessorList(warpers)(ids, scores)[0].double(), dim=-1)
    return {token: float(p) for token, p in enumerate(probabilities) if p > 0}


CASES: list[dict[str, float]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"typical": 0.8},
    {"typical": 0.2},
    {"repetition": 1.3},
    {"frequency": 0.4, "presence": 0.3},
    {"frequency": -0.4, "presence": -1.0},
    {"temperature": 1.5, "top_k": 100, "top_p": 0.95, "min_p": 0.02, "typical": 0.9, "repetition": 1.1},
    {"temperature": 0.6, "top_p": 0.8, "typical": 0.5, "repetition": 0.8, "presence": 0.5},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case) or "plain")
def test_the_same_tokens_with_the_same_probabilities(case: dict[str, float], harness: subprocess.Popen[bytes]) -> None:
    rng = np.random.default_rng(len(case) + int(sum(case.values()) * 1000) % 9973)
    for round_ in range(12):
        vocab = int(rng.integers(5, 3000))
        logits = rng.normal(0, rng.uniform(0.5, 5), vocab).astype(np.float32)
        prompt = rng.integers(0, vocab, 20).tolist()
        generated = rng.integers(0, min(vocab, 9), 15).tolist()
        bias = {int(t): float(np.float32(b)) for t, b in zip(rng.integers(0, vocab, 3), (2.5, -3, 1), strict=True)}
        bias = bias if round_ % 2 else {}
        token, found = ask(harness, logits, prompt, generated, bias, **case)
        want = expected(logits, prompt, generated, bias, **case)
        odd = found.keys() ^ want.keys()  # sums in another order may put a token at the very limit on the other side
        assert len(odd) <= 1 and all(found.get(t, 0) + want.get(t, 0) < 0.05 for t in odd)
        assert token in found
        if not odd:
            assert all(math.isclose(found[t], p, rel_tol=1e-4, abs_tol=1e-9) for t, p in want.items())


def test_greedy_follows_bias_and_penalties(harness: subprocess.Popen[bytes]) -> None:
    logits = np.array([1, 5, 4, -1], np.float32)
    assert ask(harness, logits, [], [], {}, temperature=0)[0] == 1
    assert ask(harness, logits, [], [], {3: 7}, temperature=0)[0] == 3
    assert ask(harness, logits, [1], [], {}, temperature=0, repetition=2)[0] == 2
    assert ask(harness, logits, [], [1, 1], {}, temperature=0, frequency=0.6)[0] == 2
    assert ask(harness, logits, [1, 1], [], {}, temperature=0, frequency=9, presence=9)[0] == 1
    assert ask(harness, logits, [], [], {1: -math.inf}, temperature=0)[0] == 2


def lines_of(package: Path, *options: str) -> list[dict[str, object]]:
    done = n730_exec(package, "--prompt", "def main():\n", "-n", "24", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_tells_each_token_and_its_logarithm(demo: Path, tmp_path: Path) -> None:
    *tokens, last = lines_of(demo, "--top-logprobs", "3")
    assert last == {"finish": "length", "text": "", "tokens": 24} and len(tokens) == 24
    text = n730_exec(demo, "--prompt", "def main():\n", "-n", "24").stdout.decode()
    assert "".join(str(t["text"]) for t in tokens) == text
    (tmp_path / "prompt").write_text("def main():\n")
    prompt = json.loads(n730_exec("tokenize", demo, "--text", tmp_path / "prompt").stdout)
    ids = [int(str(t["id"])) for t in tokens]
    (tmp_path / "ids").write_text(" ".join(map(str, prompt + ids)))
    n730_exec("score", demo, "--tokens", tmp_path / "ids", "--logits", tmp_path / "l.npy")
    logits = torch.tensor(np.load(tmp_path / "l.npy"))[len(prompt) - 1 : -1].double()
    logs = torch.log_softmax(logits, dim=-1)
    for token, row in zip(tokens, logs, strict=True):
        assert math.isclose(float(str(token["logprob"])), float(row[int(str(token["id"]))]), abs_tol=1e-6)
        top = token["top"]
        assert isinstance(top, list) and [t["id"] for t in top] == torch.topk(row, 3).indices.tolist()


@pytest.mark.parametrize("stop_at", [0, 3, 11])
def test_stop_texts_across_tokens(demo: Path, stop_at: int) -> None:
    text = n730_exec(demo, "--prompt", "def main():\n", "-n", "24").stdout.decode()
    stop = text[stop_at : stop_at + 7]
    want = text[: text.index(stop)]
    done = n730_exec(demo, "--prompt", "def main():\n", "-n", "24", "--stop", "never comes", "--stop", stop)
    assert done.stdout.decode() == want
    *tokens, last = lines_of(demo, "--stop", stop)
    assert "".join(str(t["text"]) for t in tokens) + str(last["text"]) == want
    assert (last["finish"], last["stop"]) == ("stop", stop)
    # A beginning of a stop that does not come to pass is text.
    done = n730_exec(demo, "--prompt", "def main():\n", "-n", "24", "--stop", text[-5:] + "\x01")
    assert done.stdout.decode() == text


def test_the_same_seed_gives_the_same_text(demo: Path) -> None:
    options = ("--temperature", "1.2", "--min-p", "0.02", "--typical", "0.95", "--repetition-penalty", "1.2")
    first, again = (lines_of(demo, *options, "--seed", "5") for _ in range(2))
    assert first == again != lines_of(demo, *options, "--seed", "6")
    assert len({str(t["id"]) for t in lines_of(demo, "--repetition-penalty", "100")[:-1]}) == 24


@pytest.mark.parametrize(
    ("options", "status", "what"),
    [
        (("--logit-bias", "5"), 2, "expected ID=BIAS like 42=-1.5, found 5"),
        (("--logit-bias", "5=nan"), 2, "expected ID=BIAS"),
        (("--logit-bias", "99999=1"), 1, "names a token that the model does not have"),
        (("--min-p", "2"), 2, "expected a number from 0"),
        (("--repetition-penalty", "0"), 2, "expected a number from"),
        (("--stop", ""), 2, "expected some text"),
        (("--json", "--ids"), 2, "--ids"),
        (("--top-logprobs", "2"), 2, "--json"),
    ],
)
def test_wrong_options_are_one_line(demo: Path, options: tuple[str, ...], status: int, what: str) -> None:
    done = n730_exec(demo, "--prompt", "x", "-n", "1", *options)
    assert done.returncode == status and done.stdout == b""
    lines = [line for line in done.stderr.decode().splitlines() if "error" in line]
    assert len(lines) == 1 and what in lines[0]
