"""Both validators behind one question: which code, or OK, for these bytes?"""

from __future__ import annotations

import fcntl
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
    """Compile the harness against the runtime built with the sanitizers; both are kept under build/."""
    folder = ROOT / "build/sanitize"
    folder.mkdir(parents=True, exist_ok=True)
    source, program, library = Path(__file__).with_name("harness.cpp"), folder / "judge-harness", folder / "libn730.a"
    with (folder / ".judge-lock").open("w") as lock:  # another worker may be building the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = ["cmake", "-S", RUNTIME, "-B", folder, "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DN730_SANITIZE=ON"]
        for command in (configure, ["cmake", "--build", folder, "--target", "n730"]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        made = program.stat().st_mtime if program.exists() else 0
        if made < max(path.stat().st_mtime for path in (source, library)):
            includes = [f"-I{RUNTIME}/src", f"-I{RUNTIME}/include", f"-I{ROOT}/templates/cpu", f"-I{folder}/deps"]
            options = ["-std=c++17", "-O1", "-g1", "-fsanitize=address,undefined", "-pthread"]
            compiler = os.environ.get("CXX", "g++")
            subprocess.run([compiler, *options, *includes, "-o", program, source, library], check=True)
    return program
