"""The text that a model is calibrated on, as windows of token ids of one length."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from n730c.errors import UsageError

DEFAULT_TEXT = "calibration.txt"  # in n730c/data
LEAST_TOKENS = 256  # of a text: below, second moments of a few hundred inputs mean nothing
_TURN = 1500  # characters of one turn of a conversation


def read_text(file: Path | None) -> str:
    """The calibration text: ``file``, or the one that comes with the compiler. Raises UsageError in one line."""
    if file is None:
        return resources.files("n730c").joinpath("data", DEFAULT_TEXT).read_text(encoding="utf-8")
    hint = "Name a plain text with --calibration, or leave it out."
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise UsageError(f"{file} is not UTF-8 text", expected="UTF-8", found=found, hint=hint) from error
    except OSError as error:
        raise UsageError(f"cannot read {file}", found=error.strerror or str(error), hint=hint) from error
    if not text.strip():
        raise UsageError(f"{file} holds no text", expected="a text to calibrate on", found="nothing", hint=hint)
    return text


def as_conversation(text: str, template: str) -> str:
    """The text as turns of a user and an assistant, written as the model's chat template writes them.

    The text as it is when the template refuses such a conversation.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    turns = [text[at : at + _TURN] for at in range(0, len(text), _TURN)]
    try:
        compiled = environment.from_string(template)
        pairs = [turns[i : i + 2] for i in range(0, len(turns) - 1, 2)]
        conversation = "".join(
            compiled.render(
                messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": said}],
                add_generation_prompt=False,
            )
            for asked, said in pairs
        )
        return conversation or text
    except Exception:  # whatever a stranger's template may raise
        return text


def token_windows(
    folder: Path, text: str, template: str, context: int, tokens: int, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Ids i64[windows, length] of at most ``tokens`` tokens spread over the text, ``length`` at most ``context``.

    ``seed`` chooses which windows. With a chat ``template`` every second window is of the text as a conversation.
    Raises UsageError when the text is too short.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [text]
    if template:
        texts.append(as_conversation(text, template))
    length = min(context, 512, max(2, tokens // 4))
    wanted = -(-tokens // length)
    streams = [np.asarray(tokenizer.encode(t, add_special_tokens=False).ids, dtype=np.int64) for t in texts]
    if len(streams[0]) < LEAST_TOKENS:
        raise UsageError(
            "the calibration text is too short",
            expected=f"at least {LEAST_TOKENS} tokens",
            found=str(len(streams[0])),
            hint="Name a longer text with --calibration.",
        )
    length = min(length, len(streams[0]) // 4)  # of a short text, too, some windows can be set aside
    cut = [[s[at : at + length] for at in range(0, len(s) - length + 1, length)] for s in streams]
    share = -(-wanted // len(cut))
    chosen = []
    for windows in cut:
        count = min(share, len(windows))
        chosen += [
            windows[(i * len(windows) // count + seed) % len(windows)] for i in range(count)
        ]  # spread over the whole text
    return np.stack(chosen)[:wanted]
