"""``n730-exec probe`` and ``--target host`` on the machine at hand, with a small test file so that it takes seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from n730c.host import find_target
from n730c.runtime import find_runtime
from n730c.target import load_target
from tests.e2e.conftest import n730_exec
from tests.planning.test_targets import NUMBERS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, links and preloading as on Linux")

SMALL = "16M"

# What a file system without direct reads answers.
NO_DIRECT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
static int refuse(const char *name, int fd, int command, long argument) {
    if (command == F_SETFL && (argument & O_DIRECT)) { errno = EINVAL; return -1; }
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    return real(fd, command, argument);
}
#define SHIM(name) int name(int fd, int command, ...) { va_list rest; va_start(rest, command); \\
    long argument = va_arg(rest, long); va_end(rest); return refuse(#name, fd, command, argument); }
#undef fcntl
#undef fcntl64
SHIM(fcntl)
SHIM(fcntl64)
"""


def test_host_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "n730-exec"
    small.write_text(f'#!/bin/sh\nexec "{find_runtime()}" "$@" --disk-bytes {SMALL}\n')
    small.chmod(0o755)
    monkeypatch.setenv("N730_EXEC", str(small))
    disk = tmp_path / "disk"
    disk.mkdir()
    target = find_target("host", disk)
    assert target.name == "host"
    assert set(target.sources) == NUMBERS
    measured = {name for name, source in target.sources.items() if "measured by n730-exec probe" in source}
    assert measured == {name for name in NUMBERS if not name.startswith(("vram", "pcie"))}
    assert target.cores <= (os.cpu_count() or 1)
    assert target.vram_bytes == 0
    assert not list(disk.iterdir())


def test_without_direct_reads_and_with_an_odd_name(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(NO_DIRECT)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    output = tmp_path / 'my "old" \\ PC\x7f é\t.toml'
    output.write_text("")  # an empty file may be replaced
    command = [find_runtime(), "probe", "-o", output, "--disk", tmp_path, "--disk-bytes", SMALL]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "LD_PRELOAD": str(shim)}, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
    assert [b"refuses direct reads" in line for line in done.stderr.splitlines()] == [True]
    target = load_target(str(output))
    assert target.name == 'my "old" \\ PC? é\t'
    assert "page cache" in target.sources["disk_bytes_per_s"]
    assert sorted(tmp_path.iterdir()) == sorted([source, shim, output])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(tmp_path: Path, end: signal.Signals) -> None:
    disk, output = tmp_path / "disk", tmp_path / "pc.toml"
    disk.mkdir()
    process = subprocess.Popen(
        [find_runtime(), "probe", "-o", output, "--disk", disk, "--disk-bytes", SMALL], stderr=subprocess.PIPE
    )
    files = Path(f"/proc/{process.pid}/fd")
    while process.poll() is None and not any(str(disk) in str(fd.readlink()) for fd in files.iterdir()):
        time.sleep(0.01)  # until the test file is there
    process.send_signal(end)
    assert process.wait(timeout=20) == (130 if end == signal.SIGINT else -signal.SIGKILL)
    assert not list(disk.iterdir())
    assert list(tmp_path.iterdir()) == [disk]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("link.toml", "found a device or a pipe"),
        ("other.toml", "found another kind of file"),
        ("folder.toml", "found a folder"),
        ("dangling.toml", "found a link to nothing"),
    ],
)
def test_only_a_target_file_is_replaced(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "link.toml").symlink_to("/dev/null")
    (tmp_path / "dangling.toml").symlink_to("nowhere")
    (tmp_path / "other.toml").write_text("[project]\n")
    (tmp_path / "folder.toml").mkdir()
    done = n730_exec("probe", "-o", tmp_path / name)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert found in lines[0]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["-o", "pc.txt"], 2, "expected a name that ends in .toml, found pc.txt"),
        (["--disk-bytes", "lots"], 2, "expected a size like 512M"),
        (["--disk", "/nowhere"], 1, "cannot measure the disk of /nowhere"),
        (["--disk", "/etc/hostname"], 1, "/etc/hostname is too small to measure the disk with"),
    ],
)
def test_one_clear_line(arguments: list[str], status: int, expected: str) -> None:
    done = n730_exec("probe", *arguments)
    assert done.returncode == status
    assert [expected in line for line in done.stderr.decode().splitlines()] == [True]
