"""What `n730-exec chat` keeps in the KV cache: where windows go round, and while weights stream from a slow disk."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from n730c.artifacts import Tier
from n730c.cli import run
from n730c.package import read_package
from tests.chat.test_session import PROMPT, cached, interrupted_after, talk, terminal
from tests.e2e.conftest import n730_exec
from tests.e2e.test_streaming_faults import environment
from tests.models import DEMO

COUNT = 12  # tokens of an answer


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, each of whose tokens sees 24: its caches have 128 rows, which are used in turn."""
    folder = tmp_path_factory.mktemp("windowed")
    shutil.copytree(DEMO, folder / "model")
    config = json.loads((DEMO / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 24}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    package = folder / "windowed.n730"
    run(["build", str(folder / "model"), "--target", "gt730", "--precision", "int8", "--no-tune", "-o", str(package)])
    plan, (cache, *_) = read_package(package).plans[0], read_package(package).program.caches
    assert cache.positions(plan.context, plan.batch) == 128
    return package


def answers(package: Path, messages: list[str]) -> tuple[list[str], list[tuple[int, int, int]]]:
    """What a session says to each message, and of each what ``cached`` gives."""
    texts, before = [], ""
    for i in range(len(messages)):
        done = talk(package, "\n".join(messages[: i + 1]) + "\n", "-n", str(COUNT), "--stats")
        assert done.returncode == 0, done.stderr.decode()
        texts.append(done.stdout.decode().removeprefix(before)[:-1])
        before = done.stdout.decode()
    return texts, cached(done.stderr)


def whole(package: Path, messages: list[str], said: list[str], folder: Path) -> str:
    """The answer to the last message where the conversation is read from its beginning."""
    turns = [
        turn
        for message, answer in zip(messages, [*said, ""], strict=False)
        for turn in ({"role": "user", "content": message}, {"role": "assistant", "content": answer})
    ][:-1]
    (folder / "m.jsonl").write_text(json.dumps({"messages": turns, "add_generation_prompt": True}))
    text = json.loads(n730_exec("render", package, "--messages", folder / "m.jsonl").stdout)["text"]
    (folder / "text").write_text(text)
    ids = json.loads(n730_exec("tokenize", package, "--text", folder / "text").stdout)
    (folder / "ids").write_text(" ".join(map(str, ids)))
    return n730_exec(package, "--tokens", folder / "ids", "-n", str(COUNT), "--temperature", "0").stdout.decode()


def test_nothing_is_computed_twice_within_a_window(windowed: Path, tmp_path: Path) -> None:
    messages = ["What is a list?", "And a dictionary?", "word " * 60, "Go on."]
    texts, numbers = answers(windowed, messages)
    for (kept, read, made), (next_kept, _, _) in pairwise(numbers):
        assert next_kept >= kept + read + made - 1  # the last token of an answer is read with what follows
    assert sum(numbers[-1]) > 128  # the caches have gone round
    for i in range(1, len(messages)):
        assert texts[i] == whole(windowed, messages[: i + 1], texts[:i], tmp_path), i


def test_what_a_window_has_lost_is_computed_anew(windowed: Path) -> None:
    messages = ["What is a list?", "word " * 100, "Go on."]
    alone, _ = answers(windowed, messages[:1])
    done = talk(windowed, "\n".join([*messages, "/reset", messages[0]]) + "\n", "-n", str(COUNT), "--stats")
    (_, first, _), *_, (kept, read, _) = cached(done.stderr)
    assert (kept, read) == (0, first)
    assert done.stdout.decode().endswith(alone[0] + "\n")


def test_ctrl_c_while_weights_are_read(demo: Path, faults: Path) -> None:
    """The pass over the weights is finished, and what the cache holds then serves what comes next."""
    plan = read_package(demo).plans[-1]
    assert sum(p.tier is Tier.STREAM for p in plan.placements) > 1
    slow = environment(demo, faults, f"slow:{plan.disk_bytes_per_token * 5}")  # a token: 1/5 s, by one reader
    # The first answer is so long that a machine that stands still for seconds does not end it; the second stops early.
    options = ["--logit-bias", "0=-100", "-n", "400", "--stop", "isinstance"]
    expected = n730_exec(demo, "--chat", "--prompt", "Hi", *options).stdout.replace(b"\n", b"\r\n")
    with terminal("chat", demo, "--stats", "--ram", str(plan.ram_bytes), *options, environment=slow) as it:
        assert interrupted_after(it, 3) < 400
        it.wait_for(PROMPT)
        it.type(b"/reset\r")
        it.wait_for(PROMPT)
        it.type(b"Hi\r")
        shown = it.wait_for(rb"(\d+) tokens were in the cache")
        assert expected in re.sub(rb"\x1b7.*?\x1b8\x1b\[K", b"", shown)  # without the line of progress
        assert int(re.findall(rb"(\d+) tokens were in the cache", shown)[0]) > 0  # how a message begins
        it.wait_for(PROMPT)
        it.type(b"\x04")
        assert it.exit_code() == 0
