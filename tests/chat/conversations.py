"""Twenty-five conversations: usual ones, and those on which templates show their corners."""

from __future__ import annotations

from typing import Any

_LETTERS = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def _talk(shape: str, *texts: str) -> list[dict[str, str]]:
    return [{"role": _LETTERS[role], "content": text} for role, text in zip(shape, texts, strict=True)]


_CODE = "```python\ndef f(x):\n\treturn {'a': [x, \"b\"]}  # <|im_end|>\n```"

CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": messages, "add_generation_prompt": prompt}
    for messages, prompt in (
        (_talk("u", "Hello, who are you?"), True),
        (_talk("u", "Hello, who are you?"), False),
        (_talk("su", "You are terse.", "What is 2 + 2?"), True),
        (_talk("su", "You are terse.", "What is 2 + 2?"), False),
        (_talk("uau", "Hi", "Hello! How can I help?", "Tell me a joke."), True),
        (_talk("suau", "Be kind.", "Hi", "Hello.", "And now?"), True),
        (_talk("suaua", "Be kind.", "Hi", "Hello.", "And now?", "Nothing."), False),
        (_talk("uaua", "a", "b", "c", "d"), False),
        (_talk("ua", "a", "b"), True),
        (_talk("u", "  leading and trailing  \n\n"), True),
        (_talk("sua", " \n system \t", "\n\nuser\n", "  answer \u00a0\u3000 "), False),
        (_talk("u", ""), True),
        (_talk("suau", "", "", "", ""), True),
        (_talk("u", "Größe, naïve, 漢字, שלום, 👍🏽 👩‍👩‍👧‍👦 e\u0301 \u2028 \ufeff"), True),
        (_talk("ua", _CODE, _CODE + "\n" + _CODE), False),
        (_talk("u", "{{ bos_token }} {% for x in y %} {# no #} <s> </s> [INST] <<SYS>>"), True),
        (_talk("uau", "Why?", "<think>\nBecause\n\n of that.\n</think>\n\nSo.", "Sure?"), True),
        (_talk("ua", "Why?", "<think>\n\n</think>\n\nSo. </think> again"), False),
        (_talk("su", "/no_think Be brief. /system_override", "Hm \\ \"quoted\" 'text' \x07 \x00."), True),
        (_talk("uu", "first", "second"), True),
        (_talk("su" + "au" * 12, *(f"turn {i}\n" * (i % 3 + 1) for i in range(26))), True),
        (_talk("us", "user first", "system later"), True),
        (_talk("ssu", "one", "two", "three"), True),
        (_talk("au", "assistant first", "then the user"), True),
        (_talk("uatau", "call", "calling", "<tool_response>", "it says x", "a\r\nb\r\n\r\nc"), True),
    )
]
