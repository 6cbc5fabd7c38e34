"""The chat of a model folder: its template, compiled, and the proof that the compiled one says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from n730c.chat_format import ChatProgram, validate_chat, write_chat
from n730c.errors import UnsupportedModel
from n730c.frontend.chat_code import NO_CHAT
from n730c.frontend.chat_compiler import compile_chat
from n730c.frontend.chat_template import chat_environment, read_chat_template, read_special_tokens

Conversation = Mapping[str, Any]  # the template's variables: messages, add_generation_prompt …


@dataclass(frozen=True)
class Chat:
    """A compiled template. ``section``: the bytes of CHAT."""

    template: str
    special_tokens: Mapping[str, str]
    program: ChatProgram
    section: bytes


def read_chat(folder: Path) -> Chat | None:
    """The chat of a Hugging Face folder, None if the model has no template. Raises UnsupportedModel."""
    template, path = read_chat_template(folder)
    if not template:
        return None
    tokens = read_special_tokens(folder)
    program = compile_chat(template, tokens, str(path))
    section = write_chat(program)
    fault = validate_chat(section)
    if fault is not None or len(section) > 1 << 20:
        raise UnsupportedModel(
            f"the chat template in {path} is beyond the limits of a package", found=fault or "1 MiB", hint=NO_CHAT
        )
    return Chat(template, tokens, program, section)


def sample_conversations() -> Iterator[Conversation]:
    """Conversations on which a compiled template shows its faults; some of them many templates refuse."""
    texts = (
        "Hello",
        " two\n\nlines \n",
        "Größe <b> \"x\" 'y' \\ {{ z }} 漢字 👍🏽\t",
        "",
        "<think>\nhm\n</think>\n\nYes.",
    )
    shapes = ("u", "su", "uau", "suau", "uaua", "suauau", "us", "uu", "au", "ua", "s", "sua", "")
    roles = {"s": "system", "u": "user", "a": "assistant"}
    for number, (shape, prompt) in enumerate(product(shapes, (True, False))):
        messages = [
            {"role": roles[role], "content": texts[(number * at + at) % len(texts)]} for at, role in enumerate(shape)
        ]
        yield {"messages": messages, "add_generation_prompt": prompt}
    for text in texts:
        yield {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
        answer = {"role": "assistant", "content": text}
        yield {"messages": [{"role": "user", "content": "?"}, answer], "add_generation_prompt": False}


def check_chat(chat: Chat, render: Callable[[Sequence[Conversation]], list[dict[str, str]]]) -> None:
    """Compare ``render``, the runtime's own, with jinja2. Raises UnsupportedModel at the first difference.

    It is asked first, and jinja2 only where it has an answer: its time and memory are bounded, those of jinja2 are not.
    """
    conversations = list(sample_conversations())
    answers = render(conversations)
    if "error" in answers[0]:
        raise UnsupportedModel(
            "the chat template cannot even render one message of a user",
            expected="a text",
            found=answers[0]["error"],
            hint=NO_CHAT,
        )
    template = chat_environment().from_string(chat.template)
    for conversation, answer in zip(conversations, answers, strict=True):
        if "it takes " in answer.get("error", ""):
            raise UnsupportedModel("the chat template is too much to render", found=answer["error"], hint=NO_CHAT)
        try:
            expected = template.render(**chat.special_tokens, tools=None, documents=None, **conversation)
        except Exception as error:  # whatever a template does wrong
            if "error" in answer:
                continue
            expected = f"{type(error).__name__}: {error}"
        if answer.get("text") != expected:
            raise UnsupportedModel(
                f"the compiled chat template differs from the original on {len(conversation['messages'])} messages",
                expected=repr(expected[-80:]),
                found=repr(answer.get("text", answer.get("error", ""))[-80:]),
                hint=f"Please report this template. {NO_CHAT}",
            )
