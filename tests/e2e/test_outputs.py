"""Files that a user names for output: what may be replaced is, anything else is refused and stays as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import n730_exec
from tests.tiny_package import tiny


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny().write(tmp_path_factory.mktemp("tiny") / "tiny.n730")


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids.txt"
    path.write_text("1 2 3")
    return path


def one_line(*arguments: str | Path) -> str:
    """The runtime's error; any other line is a note of the program, not an error."""
    done = n730_exec(*arguments)
    lines = [line for line in done.stderr.decode().splitlines() if "error" in line]
    assert done.returncode == 1 and done.stdout == b"" and len(lines) == 1, done
    return lines[0]


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (lambda path: os.mkfifo(path), "a device or a pipe"),
    "a link to a device": (lambda path: path.symlink_to("/dev/full"), "a device or a pipe"),
    "a link to nothing": (lambda path: path.symlink_to(path.name + "2"), "a link to nothing"),
    "a folder": (lambda path: path.mkdir(), "a folder"),
    "a text": (lambda path: path.write_text("my thesis"), "another kind of file"),
    "a short text": (lambda path: path.write_text("me"), "another kind of file"),
}


@pytest.mark.parametrize("case", sorted(FOREIGN))
def test_logits_replace_nothing_but_logits(case: str, package: Path, ids: Path, tmp_path: Path) -> None:
    make, found = FOREIGN[case]
    out = tmp_path / "out.npy"
    make(out)
    before = out.lstat()
    text = one_line("score", package, "--tokens", ids, "--logits", out)
    assert f"will not overwrite {out} (expected a new file or an older .npy file, found {found})" in text
    assert out.lstat() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.txt", "out.npy"]


def test_logits_replace_older_ones_and_follow_links(package: Path, ids: Path, tmp_path: Path) -> None:
    real, link = tmp_path / "real.npy", tmp_path / "link.npy"
    real.touch()
    link.symlink_to(real)
    for expected in (3, 2):
        ids.write_text(" ".join("123"[:expected]))
        assert n730_exec("score", package, "--tokens", ids, "--logits", link).returncode == 0
        assert link.is_symlink() and np.load(real).shape[0] == expected


def test_what_cannot_be_scored_or_run_says_why(package: Path, ids: Path, tmp_path: Path) -> None:
    ids.write_text("1")
    assert "(expected at least 2 tokens, found 1)" in one_line("score", package, "--tokens", ids)
    short = tiny(context=1).write(tmp_path / "short.n730")
    assert "found 1). Build with a larger --context." in one_line(short, "--tokens", ids, "-n", "1")
    ids.write_text("1 2")
    assert "expected a context of at least 2 tokens" in one_line("score", short, "--tokens", ids)
