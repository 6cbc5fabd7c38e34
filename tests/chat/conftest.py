"""Chat templates run by the real runtime: compiled, put into a tiny package, and rendered by n730-exec."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from n730c.chat_format import write_chat
from n730c.frontend.chat_compiler import compile_chat
from n730c.runtime import run_runtime
from tests.e2e.conftest import Built
from tests.e2e.conftest import built as built  # fixtures
from tests.e2e.conftest import faults as faults
from tests.e2e.conftest import models as models
from tests.tiny_package import Shape, tiny

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
SMALL = Shape(layers=1, hidden=16, heads=2, kv_heads=1, head_dim=8, ffn=8, vocab=260, context=8, batch=2, bias=False)

Conversation = Mapping[str, Any]
Renderer = Callable[[str, Sequence[Conversation]], list[dict[str, str]]]


@pytest.fixture(scope="session")
def demo(built: Built) -> Path:
    """The demo model with its chat template."""
    return built("demo", "int8")


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """(template, conversations as the template's variables) → {"text"} or {"error"} of each."""
    folder = tmp_path_factory.mktemp("chat")

    def render(template: str, conversations: Sequence[Conversation]) -> list[dict[str, str]]:
        section = write_chat(compile_chat(template, SPECIAL, "the test"))
        package = replace(tiny(SMALL), chat=section).write(folder / "chat.n730")
        messages = folder / "messages.jsonl"
        messages.write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in conversations), encoding="utf-8")
        return [json.loads(line) for line in run_runtime("render", package, "--messages", messages).splitlines()]

    return render
