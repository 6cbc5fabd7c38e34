"""The native tokenizer as a shared library, and the small tokenizers that it is compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from n730c.frontend.tokenizer import compile_tokenizer
from tests.tokenizer.native import Native, compile_library
from tests.tokenizer.toys import VOCAB, end_of_text, make_tokenizer, save


@dataclass(frozen=True)
class Toy:
    """A trained tokenizer, its folder, and the native encoder on its compiled form."""

    original: Tokenizer
    folder: Path
    native: Native


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="session")
def toy(library: ctypes.CDLL, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Toy]:
    """By kind (``toys.KINDS``). Trained once a session; the first special token ends generation."""

    @cache
    def make(kind: str) -> Toy:
        original = make_tokenizer(kind)
        folder = save(original, tmp_path_factory.mktemp(kind))
        return Toy(original, folder, Native(library, compile_tokenizer(folder, VOCAB, [end_of_text(original)])))

    return make
