"""What a user may name as a model: a Hugging Face folder or a GGUF file, seen as one kind of thing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import Checkpoint, open_checkpoint
from n730c.frontend.gguf_checkpoint import open_gguf_checkpoint
from n730c.frontend.gguf_config import read_settings
from n730c.frontend.gguf_file import is_gguf, open_gguf
from n730c.frontend.gguf_tokenizer import write_text_files


def open_source(model: Path, weights: bool = True) -> Checkpoint:
    """Configuration and headers of ``model``; without ``weights`` a folder's configuration alone.

    Raises UnsupportedModel, in one line, for anything missing, damaged or not understood.
    """
    return open_gguf_checkpoint(model) if is_gguf(model) else open_checkpoint(model, weights)


@contextmanager
def text_folder(model: Path) -> Iterator[Path]:
    """A folder with the configuration, tokenizer and chat template of ``model``: itself, or a GGUF file's written out
    for as long as the context lasts. Raises UnsupportedModel."""
    if not is_gguf(model):
        yield model
        return
    file = open_gguf(model)
    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        try:
            write_text_files(file, read_settings(file), Path(folder))
        except OSError as error:
            raise UnsupportedModel(f"cannot write {folder}: {error.strerror}") from None
        yield Path(folder)
