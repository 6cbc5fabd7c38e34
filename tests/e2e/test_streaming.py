"""A model that does not fit is read from disk for every token, and nothing of the result depends on how."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from n730c.package import read_package
from n730c.runtime import find_runtime
from tests.e2e.conftest import n730_exec

RANDOM = ("--temperature", "1", "--seed", "3", "--ids")


def logits(package: Path, ids: Path, folder: Path, *options: str) -> bytes:
    out = folder / "logits.npy"
    done = n730_exec("score", package, "--tokens", ids, "--logits", out, *options)
    assert done.returncode == 0, done.stderr.decode()
    return out.read_bytes()


def budgets(package: Path) -> list[int]:
    """What each plan takes as a whole process, bytes."""
    return [plan.ram_bytes for plan in read_package(package).plans]


def test_every_budget_gives_the_same_bits(streamed: Path, ids: Path, tmp_path: Path) -> None:
    sizes = budgets(streamed)
    resident = logits(streamed, ids, tmp_path, "--ram", str(sizes[0]))
    for size in sizes[1:]:
        for options in (["--readers", "1"], ["--readers", "2", "--threads", "1"], ["--readers", "3", "--threads", "2"]):
            assert logits(streamed, ids, tmp_path, "--ram", str(size), *options) == resident, (size, options)


def test_the_plan_is_the_first_that_fits_and_is_named(streamed: Path) -> None:
    sizes = budgets(streamed)
    for i, size in enumerate(sizes):
        done = n730_exec(streamed, "--prompt", "the", "-n", "1", "--ram", str(size))
        assert done.returncode == 0
        named = re.findall(rf"plan (\d+) of {len(sizes)}: .* of RAM, .* read from disk a token", done.stderr.decode())
        assert named == [str(i + 1)], done.stderr.decode()
    done = n730_exec(streamed, "--prompt", "the", "-n", "1", "--ram", str(sizes[-1] - 1))
    assert done.returncode == 1 and done.stderr.startswith(b"n730-exec: error: ")


@pytest.mark.parametrize("readers", [1, 8])
def test_the_process_stays_inside_its_budget(streamed: Path, readers: int) -> None:
    for plan, size in zip(read_package(streamed).plans, budgets(streamed), strict=True):
        options = ["--json", "--prompt-tokens", "20", "--gen-tokens", "9", "--readers", str(readers)]
        done = n730_exec("bench", streamed, "--ram", str(size), *options)
        assert done.returncode == 0, done.stderr.decode()
        facts = json.loads(done.stdout)
        assert facts["peak_rss_bytes"] <= size
        assert facts["disk_bytes_per_token"] == plan.disk_bytes_per_token
        assert (facts["disk_bytes_per_s"] > 0) == (plan.disk_bytes_per_token > 0)
        assert facts["limit"] in ("disk", "compute")


def test_prompts_and_generation(streamed: Path) -> None:
    sizes = budgets(streamed)
    texts = [n730_exec(streamed, "--prompt", "to be or not to be", *RANDOM, "-n", "30", "--ram", str(s)) for s in sizes]
    assert all(done.returncode == 0 for done in texts)
    assert len(texts[0].stdout.split()) == 30
    assert {done.stdout for done in texts} == {texts[0].stdout}


def on_terminal(*command: str | Path) -> bytes:
    """What a terminal sees of stdout and stderr."""
    pid, fd = pty.fork()
    if pid == 0:  # pragma: no cover
        os.execve(command[0], list(map(str, command)), {**os.environ, "TERM": "xterm"})
    seen = b""
    try:
        while part := os.read(fd, 4096):
            seen += part
    except OSError:  # the other side is closed
        pass
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    return seen


def test_status_on_a_terminal_leaves_the_text_alone(
    streamed: Path, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--prompt", "to be", "-n", "20", *RANDOM, "--ram", str(budgets(streamed)[-1])]
    plain = n730_exec(streamed, *options).stdout.decode()
    monkeypatch.setenv("LD_PRELOAD", str(faults))
    monkeypatch.setenv("FAULT", "delay:25000")
    monkeypatch.setenv("FAULT_FROM", "0")
    monkeypatch.setenv("FAULT_END", str(streamed.stat().st_size))
    seen = on_terminal(find_runtime(), streamed, *options).decode()
    assert re.search(r"\x1b7\x1b\[\?7l  \[\d+ tokens?, .*/s, .* MB/s from disk.*\]\x1b\[K\x1b\[\?7h\x1b8", seen)
    seen = re.sub(r"\x1b7.*?\x1b8|\x1b\[K", "", seen)  # what is put behind the text and wiped again
    seen = re.sub(r"^.*\r *\r(?!\n)|^n730-exec: .*\r\n", "", seen, flags=re.MULTILINE)
    assert seen.replace("\r\n", "\n").strip() == plain.strip()


def test_two_processes_share_a_package(streamed: Path, ids: Path, tmp_path: Path) -> None:
    size = str(budgets(streamed)[-1])
    expected = logits(streamed, ids, tmp_path, "--ram", size)
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    command = [find_runtime(), "score", streamed, "--tokens", ids, "--ram", size, "--logits"]
    runs = [subprocess.Popen([*command, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for out in outs]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert [out.read_bytes() for out in outs] == [expected, expected]


def test_killing_it_leaves_nothing(streamed: Path, tmp_path: Path) -> None:
    before = sorted(streamed.parent.iterdir())
    command = [find_runtime(), streamed, "--prompt", "x", "-n", "50", "--ram", str(budgets(streamed)[-1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as run:
        assert run.stdout is not None
        run.stdout.read(1)
        run.send_signal(signal.SIGKILL)
        began = time.monotonic()
        run.wait(30)
    assert time.monotonic() - began < 10
    assert sorted(streamed.parent.iterdir()) == before and not list(tmp_path.iterdir())
