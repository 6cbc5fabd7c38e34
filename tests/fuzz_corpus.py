"""Seeds for the fuzz targets: tiny valid packages, one a format, and chat programs. `python -m tests.fuzz_corpus D`"""

from __future__ import annotations

import sys
from pathlib import Path

from n730c.chat_format import write_chat
from n730c.dtypes import Format
from n730c.frontend.chat_compiler import compile_chat
from tests.tiny_package import tiny

TEMPLATES = sorted((Path(__file__).parent / "chat/templates").glob("*.jinja"))


def write_seeds(folder: Path) -> None:
    """Write the seeds of fuzz_package to ``folder/fuzz_package``."""
    seeds = folder / "fuzz_package"
    seeds.mkdir(parents=True, exist_ok=True)
    for fmt in Format:
        if fmt is not Format.F32:
            tiny(format=fmt, layers=1, hidden=32, context=16).write(seeds / f"{fmt.name.lower()}.n730")
    tiny(layers=2, hidden=32, context=16, slots=1).write(seeds / "streamed.n730")


def write_chat_seeds(folder: Path) -> None:
    """Write the seeds of fuzz_chat to ``folder/fuzz_chat``: programs of real templates."""
    seeds = folder / "fuzz_chat"
    seeds.mkdir(parents=True, exist_ok=True)
    for path in TEMPLATES:
        program = compile_chat(path.read_text(encoding="utf-8"), {"bos_token": "<s>", "eos_token": "</s>"}, path.name)
        (seeds / path.stem).write_bytes(write_chat(program))


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
    write_chat_seeds(Path(sys.argv[1]))
