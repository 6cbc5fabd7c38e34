"""The disk's own limit: a file read in order past the page cache, and a file put out of that cache."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path


def drop_cache(path: Path) -> None:
    """Take the file's pages out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # pages that are not written yet would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def raw_bandwidth(path: Path, read_bytes: int, in_flight: int, seconds: float) -> float:
    """Bytes a second of O_DIRECT reads in order, ``in_flight`` at once, for about ``seconds``."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    places = os.fstat(fd).st_size // read_bytes
    lock = threading.Lock()
    reads = 0
    began = time.perf_counter()

    def work() -> None:
        nonlocal reads
        memory = mmap.mmap(-1, read_bytes)  # page-aligned, as O_DIRECT wants it
        while time.perf_counter() - began < seconds:
            with lock:
                place = reads % places
                reads += 1
            if os.preadv(fd, [memory], place * read_bytes) != read_bytes:
                raise SystemExit(f"short read of {path}")

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.close(fd)
    return reads * read_bytes / (time.perf_counter() - began)
