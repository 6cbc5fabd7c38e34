"""The runtime's own files compile for Windows, where the cross compiler is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = "x86_64-w64-mingw32-g++-posix"
RUNTIME = Path(__file__).parents[1] / "runtime"
FILES = ("platform_windows", "reader", "rows", "status", "model", "executor", "threads", "package_schedule")


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER} (Debian: g++-mingw-w64-x86-64-posix)")
def test_it_compiles_for_windows() -> None:
    folders = [f"-I{RUNTIME}/{name}" for name in ("include", "src", "../templates/cpu")]
    files = [RUNTIME / f"src/{name}.cpp" for name in FILES]
    command = [COMPILER, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *folders, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
