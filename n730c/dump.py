"""Text forms of what follows the IR (formats, program, plan) for ``build --dump``, to be read by people only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from n730c.artifacts import NONE
from n730c.files import dump_text


def dump_value(folder: Path | None, name: str, value: Any) -> None:
    """Write a dataclass or a mapping to ``folder`` (made if need be) as ``name.txt``; with None write nothing."""
    if folder is not None:
        dump_text(folder, f"{name}.txt", "\n".join(_lines(value)) + "\n")


def _lines(value: Any) -> Iterator[str]:
    """One line a field; a field that holds records or pairs becomes a heading and one numbered line each."""
    pairs = value.items() if isinstance(value, Mapping) else ((f.name, getattr(value, f.name)) for f in fields(value))
    for name, entry in pairs:
        if isinstance(entry, tuple) and entry and is_dataclass(entry[0]):
            yield f"{name}:"
            yield from (f"  {i}: {_word(record)}" for i, record in enumerate(entry))
        else:
            yield f"{name}: {_word(entry)}"


def _word(value: Any) -> str:
    """A value in one line: records as ``op=LINEAR inputs=[3] …``, without what is empty or NONE."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value):
        shown = ((f.name, getattr(value, f.name)) for f in fields(value))
        return " ".join(f"{name}={_word(v)}" for name, v in shown if v != NONE and v != ())
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_word, value))}]"
    return str(value)
