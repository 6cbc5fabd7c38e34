"""The disk: its own limit, a file put out of the page cache, and the disk made as slow as an old one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
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


@contextlib.contextmanager
def slowed(path: Path, bytes_per_s: int) -> Iterator[None]:
    """Within, this process and what it starts read from the disk of ``path`` at that rate at most (control groups, v1).

    Raises SystemExit where that cannot be.
    """
    root = Path("/sys/fs/cgroup/blkio")
    if not (root / "cgroup.procs").exists():
        raise SystemExit(f"no control group for disks: expected {root} (version 1)")
    group = root / f"n730-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        device = path.stat().st_dev
        limit = f"{os.major(device)}:{os.minor(device)} {bytes_per_s}"
        (group / "blkio.throttle.read_bps_device").write_text(limit)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
