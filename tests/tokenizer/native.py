"""The runtime's tokenizer, compiled on its own and called through ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "runtime/src").glob("tokenizer*.cpp")), ROOT / "runtime/src/utf8.cpp"]


def compile_library(folder: Path) -> ctypes.CDLL:
    """Builds the runtime's tokenizer and the harness into a shared library in ``folder``."""
    library = folder / "tokenizer.so"
    sources = [*SOURCES, Path(__file__).with_name("harness.cpp")]
    command = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, f"-I{ROOT / 'runtime/src'}", *map(str, sources)], check=True)
    found = ctypes.CDLL(str(library))
    for name in ("encode", "piece", "words", "decode"):
        getattr(found, name).restype = ctypes.c_size_t
    return found


class Native:
    """One compiled tokenizer in the hands of the native code."""

    def __init__(self, library: ctypes.CDLL, compiled: bytes) -> None:
        self._library = library
        self.compiled = compiled
        self._ids = (ctypes.c_int32 * 1024)()

    def _head(self) -> tuple[bytes, ctypes.c_size_t]:
        return self.compiled, ctypes.c_size_t(len(self.compiled))

    def validate(self, vocab: int) -> str | None:
        why = ctypes.create_string_buffer(256)
        wrong = self._library.validate(*self._head(), ctypes.c_uint32(vocab), why)
        return why.value.decode() if wrong else None

    def encode(self, text: str | bytes, add_special: bool = False) -> list[int]:
        data = text.encode() if isinstance(text, str) else text
        arguments = (*self._head(), data, ctypes.c_size_t(len(data)), int(add_special))
        count = self._library.encode(*arguments, self._ids, ctypes.c_size_t(len(self._ids)))
        if count > len(self._ids):
            self._ids = (ctypes.c_int32 * count)()
            self._library.encode(*arguments, self._ids, ctypes.c_size_t(count))
        return list(self._ids[:count])

    def words(self, text: str) -> list[int]:
        """Bytes of each word that the pattern cuts the text into; added tokens and normalization play no part."""
        data = text.encode()
        lengths = (ctypes.c_uint32 * (2 * len(data) + 1))()
        count = self._library.words(self.compiled, data, ctypes.c_size_t(len(data)), lengths)
        return list(lengths[:count])

    def decode(self, ids: list[int], skip_special: bool = False, continues: bool = False) -> str:
        """The texts that a stream gives for each id and at its end, put together."""
        numbers = (ctypes.c_int32 * len(ids))(*ids)
        size = ctypes.c_size_t(64 + 64 * len(ids))
        while True:
            text = ctypes.create_string_buffer(size.value)
            options = int(skip_special), int(continues), text, size
            count = self._library.decode(*self._head(), numbers, ctypes.c_size_t(len(ids)), *options)
            if count <= size.value:
                return text.raw[:count].decode()
            size = ctypes.c_size_t(count)

    def piece(self, token: int) -> bytes:
        bytes_ = ctypes.c_void_p()
        count = self._library.piece(*self._head(), ctypes.c_int32(token), ctypes.byref(bytes_))
        return ctypes.string_at(bytes_, count)

    def flags(self, token: int) -> int:
        found: int = self._library.flags(*self._head(), ctypes.c_int32(token))
        return found
