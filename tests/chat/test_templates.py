"""Templates as well-known models have them: the runtime renders what transformers renders, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.chat.conftest import SPECIAL, Conversation, Renderer
from tests.chat.conversations import CONVERSATIONS

TEMPLATES = sorted(Path(__file__).with_name("templates").glob("*.jinja"))


def original(template: str, conversation: Conversation) -> dict[str, str]:
    """What transformers makes of it, or what it raises."""
    variables: dict[str, Any] = {**SPECIAL, **conversation}
    messages = variables.pop("messages")
    try:
        rendered, _ = render_jinja_template([messages], chat_template=template, **variables)
    except Exception as error:  # a template may do anything wrong
        return {"error": str(error)}
    return {"text": rendered[0]}


def test_there_are_enough() -> None:
    assert len(TEMPLATES) >= 20 and len(CONVERSATIONS) == 25


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_equal_to_jinja(path: Path, native: Renderer) -> None:
    template = path.read_text(encoding="utf-8")
    rendered = 0
    for conversation, found in zip(CONVERSATIONS, native(template, CONVERSATIONS), strict=True):
        expected = original(template, conversation)
        if "error" in expected:
            assert "error" in found, conversation
            if "must alternate" in expected["error"]:
                assert expected["error"] in found["error"]
        else:
            assert found == expected, conversation
            rendered += 1
    assert rendered >= 12


@pytest.mark.parametrize("name", ["qwen3", "smollm3", "glm4"])
def test_other_variables(name: str, native: Renderer) -> None:
    template = (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    conversations = [{**CONVERSATIONS[5], "enable_thinking": thinking} for thinking in (True, False)]
    assert native(template, conversations) == [original(template, c) for c in conversations]


def test_tools_of_templates_that_know_them(native: Renderer) -> None:
    function = {
        "name": "f",
        "description": 'say "é" \n',
        "parameters": {"type": "object", "properties": {}, "n": [1, None]},
    }
    tools = [{"type": "function", "function": function}] * 2
    for name in ("llama3.1", "mistral-v3", "qwen2.5", "qwen3", "granite3"):
        template = (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        conversation = {**CONVERSATIONS[5], "tools": tools}
        assert native(template, [conversation]) == [original(template, conversation)]
