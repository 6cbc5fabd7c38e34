"""Disks that fail, lie, stall and interrupt: one clear line that names the segment, or the right result."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from n730c.package import read_package
from n730c.runtime import find_runtime
from tests.e2e.test_streaming import budgets, logits

TIMEOUT = 60  # seconds: what hangs is found by it


def environment(
    package: Path, faults: Path, fault: str, seed: int = 0, segments: slice = slice(None)
) -> dict[str, str]:
    """For ``fault`` in reads of those segments."""
    sizes = [segment.size for segment in read_package(package).program.segments]
    start = package.stat().st_size - sum(sizes)
    first, end, _ = segments.indices(len(sizes))
    shim = {"FAULT": fault, "FAULT_FROM": start + sum(sizes[:first]), "FAULT_END": start + sum(sizes[:end])}
    shim |= {"LD_PRELOAD": faults, "FAULT_SEED": seed}
    return {**os.environ, **{name: str(value) for name, value in shim.items()}}


def score(package: Path, ids: Path, out: Path, env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [find_runtime(), "score", package, "--tokens", ids, "--logits", out, *options]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=TIMEOUT, check=False)


def names_a_segment(stderr: str) -> None:
    """One error, in one line, about a segment."""
    lines = [line for line in stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and stderr.splitlines()[-1] == lines[0], stderr
    assert re.match(r"n730-exec: error: .*segment \d+ \(\S+\)", lines[0]), stderr


@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.parametrize("fault", ["short", "eintr", "delay:3000", "slow:60e6", "nodirect", "einval"])
def test_what_can_be_borne_changes_nothing(
    fault: str, readers: int, streamed: Path, ids: Path, faults: Path, tmp_path: Path
) -> None:
    expected = logits(streamed, ids, tmp_path)
    out = tmp_path / "faulty.npy"
    for seed, size in enumerate(budgets(streamed)[1:]):
        env = environment(streamed, faults, fault, seed)
        done = score(streamed, ids, out, env, "--ram", str(size), "--readers", str(readers))
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == expected
        assert ("does not allow direct reads" in done.stderr) == (fault in ("nodirect", "einval"))
        assert done.stderr.count("\n") <= 2


@pytest.mark.parametrize("fault", ["eio", "corrupt"])
@pytest.mark.parametrize("read", [1, 4, 17, 60])
def test_a_read_that_fails_is_reported(
    fault: str, read: int, streamed: Path, ids: Path, faults: Path, tmp_path: Path
) -> None:
    """The first reads load what stays in memory, the others belong to the first or a later pass."""
    out = tmp_path / "faulty.npy"
    for readers in (1, 3):
        env = environment(streamed, faults, f"{fault}:{read}")
        done = score(streamed, ids, out, env, "--ram", str(budgets(streamed)[-1]), "--readers", str(readers))
        assert done.returncode == 1
        names_a_segment(done.stderr)
        assert ("E_SEGMENT_CHECKSUM" in done.stderr) == (fault == "corrupt")
        assert not out.exists()


@pytest.mark.parametrize("fault", ["eio:1", "corrupt:1", "eio:3"])
def test_a_row_that_cannot_be_read_is_reported(
    fault: str, streamed: Path, ids: Path, faults: Path, tmp_path: Path
) -> None:
    """The embedding is read by a thread that computes: the others must not wait for it forever."""
    env = environment(streamed, faults, fault, segments=slice(1))
    for threads in ("1", "2", "3"):
        done = score(streamed, ids, tmp_path / "x.npy", env, "--ram", str(budgets(streamed)[-1]), "--threads", threads)
        assert done.returncode == 1
        assert "segment 0 (embed_tokens.weight)" in done.stderr
        names_a_segment(done.stderr)


def run_and(package: Path, faults: Path, change: str) -> tuple[int, bytes, str]:
    """Generate slowly, and ``change`` the file after the first token: exit code, stdout, stderr."""
    command = [find_runtime(), package, "--prompt", "to be", "-n", "40", "--temperature", "1", "--seed", "3", "--ids"]
    command += ["--ram", str(budgets(package)[-1])]
    env = environment(package, faults, "delay:4000" if change != "slow" else "slow:5e6")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as run:
        assert run.stdout is not None and run.stderr is not None
        first = run.stdout.read(1)
        if change == "truncate":
            os.truncate(package, package.stat().st_size // 4096 // 2 * 4096)
        elif change == "replace":
            other = package.with_name("other")
            other.write_bytes(b"something else")
            other.replace(package)
        elif change == "overwrite":
            with package.open("r+b") as file:
                file.seek(package.stat().st_size // 2)
                file.write(os.urandom(65536))
        elif change == "interrupt":
            run.send_signal(signal.SIGINT)
        rest, errors = run.communicate(timeout=TIMEOUT)
        return run.returncode, first + rest, errors.decode()


def test_a_file_that_changes_while_it_is_read(streamed: Path, faults: Path, tmp_path: Path) -> None:
    def fresh() -> Path:
        return Path(shutil.copy(streamed, tmp_path / "package.n730"))

    code, expected, _ = run_and(fresh(), faults, "nothing")
    assert code == 0 and len(expected.split()) == 40
    assert run_and(fresh(), faults, "replace")[:2] == (0, expected)
    for change, words in (("truncate", "has become shorter"), ("overwrite", "E_SEGMENT_CHECKSUM")):
        code, text, errors = run_and(fresh(), faults, change)
        assert code == 1
        names_a_segment(errors)
        assert words in errors
        assert expected.startswith(text.rstrip())  # what came before was right


def test_ctrl_c_does_not_wait_for_a_slow_disk(streamed: Path, faults: Path) -> None:
    began = time.monotonic()
    code, _, errors = run_and(streamed, faults, "interrupt")
    assert code == 130 and "error" not in errors
    assert time.monotonic() - began < TIMEOUT / 2
