"""Every hostile package is refused by both validators with FORMAT.md's code; the odd but right are taken."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from n730c.errors import PackageError
from n730c.package import validate
from tests.hostile_packages.cases import Case, accepted, cases
from tests.hostile_packages.judge import compiler_says, runtime_binary

CASES = list(cases())
ACCEPTED = list(accepted())

by_threat = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
by_oddity = pytest.mark.parametrize("data", [data for _, data in ACCEPTED], ids=[name for name, _ in ACCEPTED])


@pytest.fixture(scope="session")
def runtime() -> Path:
    found = runtime_binary()
    if found is None:
        pytest.skip("n730-exec is missing: `make test` builds it; or set N730_EXEC")
    return found


def runtime_says(runtime: Path, data: bytes, folder: Path) -> str:
    """What ``n730-exec verify`` answers, held to the form of its errors."""
    file = folder / "hostile.n730"
    file.write_bytes(data)
    done = subprocess.run([runtime, "verify", file], capture_output=True, timeout=60, check=False)
    if done.returncode == 0:
        return "OK"
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1, (done.returncode, lines)
    codes = re.findall(r"error: (E_[A-Z_]+):", lines[-1])
    assert len(codes) == 1, lines
    return codes[0]


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@by_threat
def test_compiler_refuses(case: Case) -> None:
    assert compiler_says(case.make()) == case.code


@by_threat
def test_runtime_refuses(case: Case, runtime: Path, tmp_path: Path) -> None:
    assert runtime_says(runtime, case.make(), tmp_path) == case.code


@by_oddity
def test_compiler_accepts(data: bytes) -> None:
    assert compiler_says(data) == "OK"


@by_oddity
def test_runtime_accepts(data: bytes, runtime: Path, tmp_path: Path) -> None:
    assert runtime_says(runtime, data, tmp_path) == "OK"


def test_compiler_cannot_open(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.n730"):
        with pytest.raises(PackageError, match="E_OPEN: cannot read"):
            validate(path)


def test_runtime_cannot_open(runtime: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.n730"):
        done = subprocess.run([runtime, "verify", path], capture_output=True, timeout=60, check=False)
        assert done.returncode == 1
        assert b"E_OPEN" in done.stderr
