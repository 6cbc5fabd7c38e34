"""Run a command in less memory than the machine has: a control group with a hard limit, page cache included."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Files:
    """Names of a version's files. ``full``: file and key that count how often the limit was met."""

    root: Path
    limit: str
    peak: str
    full: tuple[str, str]


def _files() -> Files:
    """Version 1 where the memory controller is mounted alone, otherwise version 2. Raises SystemExit without either."""
    if os.geteuid() != 0:
        raise SystemExit("only root may make control groups: run this as root")
    if (V1 / "memory.limit_in_bytes").exists():
        return Files(V1, "memory.limit_in_bytes", "memory.max_usage_in_bytes", ("memory.failcnt", ""))
    if "memory" in (V2 / "cgroup.subtree_control").read_text().split():
        return Files(V2, "memory.max", "memory.peak", ("memory.events", "max"))
    raise SystemExit(f"no memory controller: expected {V1} (version 1) or memory in {V2}/cgroup.subtree_control")


@dataclass(frozen=True)
class Capped:
    """What came of a command. ``peak_bytes``: the most that the group held; ``met``: times the limit made room."""

    done: subprocess.CompletedProcess[str]
    peak_bytes: int
    met: int


def run_capped(command: Sequence[str], cap: int, environment: Mapping[str, str] | None = None) -> Capped:
    """Run ``command`` in a new group of at most ``cap`` bytes, swap excluded, and remove the group."""
    files = _files()
    group = files.root / f"n730-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        (group / files.limit).write_text(str(cap))
        for swap, value in (("memory.memsw.limit_in_bytes", str(cap)), ("memory.swap.max", "0")):
            if (group / swap).exists():
                (group / swap).write_text(value)
        shell = shutil.which("sh") or "/bin/sh"
        enter = [shell, "-c", f'echo $$ > "{group / "cgroup.procs"}" && exec "$@"', "sh", *command]
        done = subprocess.run(enter, capture_output=True, text=True, check=False, env=environment)
        name, key = files.full
        counts = dict(line.rpartition(" ")[::2] for line in (group / name).read_text().splitlines())
        return Capped(done, int((group / files.peak).read_text()), int(counts[key]))
    finally:
        for _ in range(50):  # the kernel takes a moment to see that the group is empty
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
