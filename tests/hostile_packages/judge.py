"""Both validators behind one question: which code, or OK, for these bytes?"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
from pathlib import Path

from n730c.errors import PackageError
from n730c.package import validate

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime"
SOURCES = [
    *RUNTIME.glob("src/package*.cpp"),
    RUNTIME / "src/tokenizer_validate.cpp",
    RUNTIME / "src/chat_validate.cpp",
    RUNTIME / "src/utf8.cpp",
]


def compiler_says(data: bytes | bytearray) -> str:
    """The compiler's validator, with every checksum (``n730c verify``). Anything but a PackageError is a bug."""
    try:
        validate(io.BytesIO(data), full=True)
    except PackageError as error:
        return error.code
    return "OK"


def runtime_binary() -> Path | None:
    """n730-exec: $N730_EXEC, what CMake built here, or on PATH."""
    chosen = os.environ.get("N730_EXEC") or shutil.which("n730-exec", path=RUNTIME.parent / "build/runtime")
    found = chosen or shutil.which("n730-exec")
    return Path(found) if found else None


class Harness:
    """The runtime's validator in a process of its own (harness.cpp), for questions by the thousand."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _ask(self, request: bytes) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(request)
        self.process.stdin.flush()
        answer = self.process.stdout.readline().decode().strip()
        assert answer, f"the runtime's validator crashed (exit code {self.process.wait()})"
        return answer

    def says(self, data: bytes) -> str:
        return self._ask(b"P" + struct.pack(">Q", len(data)) + data)

    def cut_everywhere(self) -> dict[str, int]:
        """How often which answer, for the package asked about last, cut at each length."""
        return _counts(self._ask(b"C"))

    def flip_every_bit(self, end: int) -> dict[str, int]:
        """The same with each bit of the first ``end`` bytes flipped, one at a time."""
        return _counts(self._ask(b"F" + struct.pack(">Q", end)))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _counts(answer: str) -> dict[str, int]:
    return {code: int(count) for code, count in (part.split(":") for part in answer.split())}


def build_harness() -> Path:
    """Compile the harness against a fresh build of the runtime, the sanitizers' if there is one, or else its sources.

    The result is kept under build/harness.
    """
    sources = sorted([*RUNTIME.rglob("src/*.h"), *RUNTIME.rglob("include/**/*.h"), *SOURCES])
    source = Path(__file__).with_name("harness.cpp")
    newest = max(path.stat().st_mtime for path in sources)
    options = [*map(str, SOURCES)]
    for build, flags in (("sanitize", ["-g1", "-fsanitize=address,undefined"]), ("runtime", ["-O2"])):
        library = ROOT / "build" / build / "libn730.a"
        if library.exists() and library.stat().st_mtime > newest:
            options = [str(library), "-pthread", *flags]
            break
    text = b"".join(path.read_bytes() for path in (*sources, source)) + " ".join(options).encode()
    program = ROOT / "build/harness" / f"harness-{hashlib.sha256(text).hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        mine = program.with_name(f"{program.name}.{os.getpid()}")
        includes = [f"-I{RUNTIME}/src", f"-I{RUNTIME}/include", f"-I{RUNTIME.parent}/templates/cpu"]
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, "-std=c++17", "-O1", *includes, "-o", str(mine), str(source), *options], check=True)
        mine.replace(program)  # another worker may be building the same
    return program
