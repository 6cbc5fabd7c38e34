"""A write that fails says so in one line and leaves the folder as it was: real signals, full disks, limits."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from n730c.artifacts import Isa
from n730c.errors import InvalidIR, UsageError
from n730c.package import extract, read_package, write_package
from tests.tiny_package import tiny

ROOT = Path(__file__).parents[2]


def _run(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def _write(path: Path, tensor_bytes: object) -> None:
    made = tiny()
    assert callable(tensor_bytes)
    write_package(path, made.program, made.plans, (), tensor_bytes, made.tokenizer, b"", {})


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), MemoryError(), SystemExit(3)], ids=repr)
def test_source_fails_midway(tmp_path: Path, error: BaseException) -> None:
    made = tiny()

    def tensor_bytes(i: int) -> bytes:
        if i == 5:
            raise error
        return made.tensors[i]

    with pytest.raises(type(error)):
        _write(tmp_path / "a.n730", tensor_bytes)
    assert list(tmp_path.iterdir()) == []


def test_source_cannot_be_read(tmp_path: Path) -> None:
    def tensor_bytes(i: int) -> bytes:
        return (tmp_path / "missing.safetensors").read_bytes()

    with pytest.raises(UsageError, match=r"cannot read tensor embed_tokens\.weight: No such file"):
        _write(tmp_path / "a.n730", tensor_bytes)
    assert list(tmp_path.iterdir()) == []


def test_tensor_of_the_wrong_size(tmp_path: Path) -> None:
    made = tiny()
    with pytest.raises(InvalidIR, match=r"tensor rope.inv_freq \(expected 32 bytes, found 31\)"):
        _write(tmp_path / "a.n730", lambda i: made.tensors[i][: 31 if i == 1 else None])
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_survives_a_failure(tmp_path: Path) -> None:
    path = tiny(seed=1).write(tmp_path / "a.n730")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        _write(path, lambda i: bytes(1 // 0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.n730"
    path.write_text("something else")
    tiny().write(path)
    assert read_package(path).program == tiny().program
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_killed_writer_left_is_removed_and_what_another_is_at_is_not(tmp_path: Path) -> None:
    left, other, path = (tmp_path / n for n in (".a.n730.0123abcd.tmp", ".b.n730.0123abcd.tmp", tmp_path / "a.n730"))
    left.write_bytes(b"half")
    other.write_bytes(b"half")
    made = tiny()

    def tensor_bytes(i: int) -> bytes:
        if i == 1:  # another process writes the same file, from the beginning to the end
            made.write(path)
        return made.tensors[i]

    _write(path, tensor_bytes)
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert read_package(path).program == made.program


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    path = tiny().write(tmp_path / "a.n730")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an existing folder"):
        tiny().write(tmp_path / "missing" / "a.n730")
    with pytest.raises(UsageError, match="found a folder"):
        tiny().write(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_signal_while_writing(tmp_path: Path, number: signal.Signals) -> None:
    process = _run(
        """
        import sys, time
        from n730c.package import write_package
        from tests.tiny_package import tiny
        made = tiny()
        def tensor_bytes(i):
            if i == 5:
                print("waiting", flush=True)
                time.sleep(60)
            return made.tensors[i]
        write_package(sys.argv[1], made.program, made.plans, (), tensor_bytes, made.tokenizer, b"", {})
        """,
        tmp_path / "a.n730",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    assert len(list(tmp_path.iterdir())) == 1  # it is under way
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (128 + number, -number)
    assert list(tmp_path.iterdir()) == []


def test_file_size_limit(tmp_path: Path) -> None:
    process = _run(
        """
        import resource, sys
        from n730c.errors import UsageError
        from tests.tiny_package import tiny
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        try:
            tiny().write(sys.argv[1])
        except UsageError as error:
            print(error)
        """,
        tmp_path / "a.n730",
    )
    out, err = process.communicate(timeout=60)
    assert "no space to write" in out, err
    assert len(out.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_too_small_is_seen_before_writing(small_disk: Path) -> None:
    asked = []
    (small_disk / "other").write_bytes(bytes(1_000_000))
    with pytest.raises(UsageError, match=r"no space to write .* \(expected \d+ bytes, found \d+ bytes free"):
        _write(small_disk / "a.n730", lambda i: asked.append(i) or b"")
    assert asked == []
    assert [file.name for file in small_disk.iterdir()] == ["other"]


def test_disk_full_while_writing(small_disk: Path) -> None:
    made = tiny()

    def tensor_bytes(i: int) -> bytes:
        if i == 5:  # somebody else takes what was free
            with (small_disk / "other").open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        break
        return made.tensors[i]

    with pytest.raises(UsageError, match=r"no space to write .* \(expected \d+ bytes, found \d+ bytes free"):
        _write(small_disk / "a.n730", tensor_bytes)
    assert [file.name for file in small_disk.iterdir()] == ["other"]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Writing, verifying and reading back 256 MiB in tensors of 8 MiB takes room for little more than one of them."""
    if sys.platform != "linux":
        pytest.skip("peak memory is read from /proc")
    process = _run(
        """
        import sys
        from dataclasses import replace
        from n730c.artifacts import Segment, segment_layout
        from n730c.package import read_package, validate, write_package
        from tests.tiny_package import Shape, tiny_plan, tiny_program, tiny_tokenizer
        from n730c.dtypes import Format

        def peak():
            return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024

        big = dict(layers=8, hidden=2048, heads=32, kv_heads=32, head_dim=64, ffn=2048, vocab=2048)
        shape = Shape(format=Format.F16, **big)
        program = tiny_program(shape)
        tokenizer = tiny_tokenizer(2048)
        plan = tiny_plan(program, 8, Shape(batch=1, head_batch=1), len(tokenizer))
        before = peak()
        write_package(sys.argv[1], program, (plan,), (), lambda i: bytes(program.tensors[i].size), tokenizer, b"", {})
        written = peak() - before
        validate(sys.argv[1], full=True)
        package = read_package(sys.argv[1])
        for i in range(len(program.tensors)):
            package.tensor_bytes(i)
        print(package.file_bytes, max(t.size for t in program.tensors), written, peak() - before)
        """,
        tmp_path / "a.n730",
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    size, largest, writing, everything = map(int, out.split())
    assert size > 256 << 20
    assert writing < largest + (8 << 20)
    assert everything < largest + (12 << 20)


def test_extracting_to_a_full_disk_leaves_no_part_of_a_file(small_disk: Path, tmp_path: Path) -> None:
    package = read_package(tiny(images=(Isa.AVX2,)).write(tmp_path / "a.n730"))
    with (small_disk / "other").open("wb", buffering=0) as file:
        while file.tell() < 1 << 20 and file.write(bytes(4096)) == 4096:
            pass
    with pytest.raises(UsageError, match=r"cannot write to .* \(expected .*, found No space left on device\)\. Name"):
        extract(package, small_disk)
    assert [file.name for file in small_disk.iterdir()] == ["other"]
