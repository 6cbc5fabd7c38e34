"""Find and run n730-exec from the compiler: the tokenizer's check at build time and ``eval`` use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from n730c.errors import N730Error, ToolchainError


def find_runtime() -> Path:
    """The runtime: $N730_EXEC, or beside this Python, or on PATH. Raises ToolchainError."""
    chosen = os.environ.get("N730_EXEC")
    if chosen:
        return Path(chosen)
    name = "n730-exec.exe" if sys.platform == "win32" else "n730-exec"
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found:
        return Path(found)
    raise ToolchainError(
        "n730-exec not found",
        expected=f"{beside} or n730-exec on PATH",
        hint="`pip install .` builds it; or set N730_EXEC to its path.",
    )


def run_runtime(*arguments: str | Path, watched: bool = False) -> bytes:
    """Run n730-exec and return its stdout. Raises N730Error with the runtime's own line if it fails.

    ``watched``: its progress is shown if stderr is a terminal; then its error line is on the screen already.
    """
    command = [str(find_runtime()), *map(str, arguments)]
    stderr = None if watched and sys.stderr.isatty() else subprocess.PIPE
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, check=False)
    except OSError as error:
        raise ToolchainError(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or b"").decode("utf-8", "replace").strip()
        lines = said.splitlines() or [f"exit code {done.returncode}"]
        raise N730Error(f"n730-exec failed: {lines[-1]}")
    return done.stdout
