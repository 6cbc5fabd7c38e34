"""The disk's own limit: a file read in order past the page cache, and a file put out of that cache."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "raw_read.c"


def drop_cache(path: Path) -> None:
    """Take the file's pages out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # pages that are not written yet would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def raw_bandwidth(work: Path, path: Path, read_bytes: int, in_flight: int, seconds: float) -> float:
    """Bytes a second of O_DIRECT reads in order, ``in_flight`` at once. ``work``: where the reader is compiled."""
    program = work / "raw_read"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-pthread", "-o", str(program), str(SOURCE)], check=True)
    command = [str(program.resolve()), str(path), str(read_bytes), str(in_flight), str(seconds)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
