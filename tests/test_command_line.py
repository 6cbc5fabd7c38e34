"""How commands end: one line on stderr and the right exit code, whatever happens to the standard streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import n730c
from tests.tiny_package import tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny().write(tmp_path_factory.mktemp("tiny") / "tiny.n730")


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``line`` in a shell; ``$0`` is Python and ``$1`` ... are the arguments."""
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Missing command. Run n730c --help."),
        (("nosuch",), "No such command 'nosuch'. Run n730c --help."),
        (("build",), "Run n730c build --help."),
        (("build", "x", "--target", "gt730", "--precision", "int7"), "'int7'"),
        (("build", "x", "--target", "gt730", "--ram", "lots"), "expected something like 512M or 1.5G, found 'lots'"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: tuple[str, ...], expected: str) -> None:
    done = n730c(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("n730c: error: ") and expected in done.stderr


def test_version() -> None:
    done = n730c("--version")
    assert done.returncode == 0 and done.stdout.startswith("n730c 0.")


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_a_stdout_that_takes_nothing(where: str, package: Path) -> None:
    done = shell(f'"$0" -m n730c inspect "$1" --json {where}', package)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("n730c: error: cannot read or write stdout (")


def test_a_reader_that_has_seen_enough(package: Path) -> None:
    done = shell('"$0" -m n730c inspect "$1" --json | true; exit ${PIPESTATUS[0]}', package)
    assert done.returncode in (0, 1) and done.stderr == ""


def test_a_closed_stderr_is_no_file_of_ours(package: Path) -> None:
    assert shell('"$0" -m n730c verify "$1" 2>&-', package).returncode == 0
    assert shell('"$0" -m n730c verify "$1" 2>&-', ROOT / "LICENSE").returncode == 1


@pytest.mark.parametrize("raised", ["", "raise ImportError('lost in a C extension')"])
def test_ctrl_c_during_the_imports(raised: str) -> None:
    program = f"""
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "typer":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
            except KeyboardInterrupt:
                {raised or "raise"}
sys.meta_path.insert(0, Interrupt())
sys.argv = ["n730c", "targets"]
from n730c.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "n730c: error: interrupted. No unfinished file is left; run the same command again.\n"


def test_what_stands_in_the_way_of_a_build_is_seen_before_it_begins(tmp_path: Path) -> None:
    target = tmp_path / "none.toml"
    output = tmp_path / "out.n730"
    file = tmp_path / "file"
    file.touch()
    for arguments, expected in (
        (("--target", target), f"cannot read target file {target} (expected a TOML file, found No such file or"),
        (("--target", "gt730", "--dump", file), f"cannot write the dump to {file} (expected a folder, found a file)."),
    ):
        done = n730c("build", tmp_path, *arguments, "-o", output)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1 and expected in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() == 0:  # root may write anywhere but on a disk that is read-only
        mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1M", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a read-only disk is not allowed here")
    else:
        folder.chmod(0o555)
    yield folder
    if os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_folder_that_is_read_only(read_only: Path) -> None:
    output = read_only / "out.n730"
    done = n730c("build", ROOT, "--target", "gt730", "-o", output)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"error: cannot write {output} (expected a folder that can be written to, found " in done.stderr
