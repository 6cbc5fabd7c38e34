"""`n730-exec chat` and `--chat` with the demo model: through pipes, and on a real (pseudo-)terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from n730c.runtime import find_runtime
from tests.e2e.conftest import Built, n730_exec


def talk(package: Path, lines: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(find_runtime()), "chat", str(package), *options]
    return subprocess.run(command, input=lines.encode(), capture_output=True, check=False, timeout=60)


def cached(stderr: bytes) -> list[tuple[int, int, int]]:
    """(tokens in the cache, tokens read, tokens generated) of each answer."""
    found = re.findall(rb"(\d+) tokens were in the cache, (\d+) read .*?, (\d+) generated", stderr)
    return [(int(a), int(b), int(c)) for a, b, c in found]


def test_an_answer_is_what_the_whole_conversation_gives(demo: Path, tmp_path: Path) -> None:
    done = talk(demo, "What is a list?\nAnd a dictionary?\n", "-n", "12", "--stats")
    assert done.returncode == 0
    (kept1, read1, made1), (kept2, read2, made2) = cached(done.stderr)
    assert kept1 == 0 and kept2 >= read1 + made1 - 1 - 4  # the border of the answer may be cut otherwise
    # The answers are apart in stdout by a line's end only: take them from a conversation of one message each.
    first = n730_exec(demo, "--chat", "--prompt", "What is a list?", "-n", "12").stdout.decode()
    assert done.stdout.decode().startswith(first + "\n")
    second = done.stdout.decode()[len(first) + 1 : -1]
    messages = [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And a dictionary?"},
    ]
    file = tmp_path / "messages.jsonl"
    file.write_text(json.dumps({"messages": messages, "add_generation_prompt": True}))
    text = json.loads(n730_exec("render", demo, "--messages", file).stdout)["text"]
    (tmp_path / "text").write_text(text)
    ids = json.loads(n730_exec("tokenize", demo, "--text", tmp_path / "text").stdout)
    (tmp_path / "ids").write_text(" ".join(map(str, ids)))
    whole = n730_exec(demo, "--tokens", tmp_path / "ids", "-n", str(made2), "--temperature", "0")
    assert whole.stdout.decode() == second
    assert kept2 + read2 == len(ids)


def test_commands(demo: Path) -> None:
    lines = "Hi\n/system You are terse.\nHi\n/reset\nHi\n/system\n/reset\nHi\n/help\n/nosuch\n\n/quit\nnever\n"
    done = talk(demo, lines, "-n", "4", "--stats")
    assert done.returncode == 0
    (kept1, read1, _), (_, read2, _), (kept3, read3, _), (kept4, read4, _) = cached(done.stderr)
    assert kept1 == 0 and read2 > read1 and kept3 + read3 > read1 and kept4 + read4 == kept1 + read1
    assert b"/nosuch is no command" in done.stderr and done.stderr.count(b"/quit") == 2
    system = n730_exec(demo, "--chat", "--system", "You are terse.", "--prompt", "Hi", "-n", "4").stdout
    assert system in done.stdout


def test_the_oldest_exchanges_go_when_the_context_is_full(demo: Path) -> None:
    lines = "".join(f"Message number {i}: " + "word " * 20 + "\n" for i in range(12))
    done = talk(demo, lines, "-n", "8", "--stats", "--system", "Stay.")
    assert done.returncode == 0
    assert b"the context of 512 tokens is full: the oldest" in done.stderr
    answers = cached(done.stderr)
    assert len(answers) == 12 and all(kept + read + made <= 512 for kept, read, made in answers)
    # Dropping makes room for several messages: most find what was said before in the cache.
    assert sum(kept > 2 * read for kept, read, _ in answers) >= 6


def test_a_message_beyond_the_context_is_refused_and_forgotten(demo: Path) -> None:
    done = talk(demo, "x " * 3000 + "\nHi\n", "-n", "4", "--stats")
    assert done.returncode == 0 and len(cached(done.stderr)) == 1
    assert b"error: the message does not fit the context (expected less than 512 tokens, found" in done.stderr
    # What was said before stays: the next answer is the one that is given without the refused message.
    with_it = talk(demo, "Hi\n" + "x " * 3000 + "\nAnd now?\n", "-n", "4", "--stats")
    without = talk(demo, "Hi\nAnd now?\n", "-n", "4", "--stats")
    assert with_it.stdout == without.stdout and cached(with_it.stderr) == cached(without.stderr)


def test_text_that_is_not_utf8(demo: Path) -> None:
    command = [str(find_runtime()), "chat", str(demo), "-n", "2"]
    done = subprocess.run(command, input=b"\xff\n", capture_output=True, check=False, timeout=60)
    assert done.returncode == 1 and b"n730-exec: error: the input is not UTF-8" in done.stderr


def test_without_a_template(built: Built) -> None:
    package = built("demo", "int8", "--no-chat")
    for arguments in (("chat", package), (package, "--chat", "--prompt", "x")):
        done = n730_exec(*arguments)
        assert done.returncode == 1 and done.stdout == b""
        assert b"n730-exec: error: the package has no chat template" in done.stderr
    assert n730_exec(package, "--system", "x", "--prompt", "x").returncode == 2


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, master: int, pid: int) -> None:
        self.master, self.pid, self.seen = master, pid, b""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, pattern: bytes, seconds: float = 30) -> bytes:
        """All that was shown up to ``pattern``, which is then behind us."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} never came: {self.seen[-500:]!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                raise AssertionError(f"ended before {pattern!r}: {self.seen[-500:]!r}") from None
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def exit_code(self) -> int:
        for _ in range(300):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    os.read(self.master, 65536)
                except OSError:
                    time.sleep(0.05)
        raise AssertionError("it does not end")


@contextmanager
def terminal(*arguments: str | Path, environment: Mapping[str, str] = os.environ) -> Iterator[Terminal]:
    pid, master = pty.fork()
    if pid == 0:
        os.execve(find_runtime(), [str(find_runtime()), *map(str, arguments)], {**environment, "TERM": "xterm"})
    try:
        yield Terminal(master, pid)
    finally:
        with suppress(ProcessLookupError, ChildProcessError):  # it has ended, as it should
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(master)


PROMPT = rb"> \x1b\[K\r\x1b\[2C"


def test_editing_on_a_terminal(demo: Path) -> None:
    with terminal("chat", demo, "-n", "3", "--stats") as it:
        it.wait_for(PROMPT)
        # "Hällo 漢字" typed with a mistake in it, corrected with the cursor keys.
        it.type("Hllo 漢".encode())
        it.wait_for("漢".encode())
        it.type(b"\x1b[H\x1b[C" + "ä".encode())
        it.wait_for("Hällo 漢".encode())
        it.type(b"\x05" + "字x".encode() + b"\x7f\r")
        shown = it.wait_for(rb"tokens were in the cache, (\d+) read")
        assert "Hällo 漢字".encode() in shown
        first = int(shown.split(b" read")[-2].split(b" ")[-1])
        it.wait_for(PROMPT)
        it.type(b"/reset\r")
        it.wait_for(PROMPT)
        it.type(b"\x1b[A\x1b[A\r")  # the same message from the history
        shown = it.wait_for(rb"(\d+) tokens were in the cache, (\d+) read")
        numbers = re.findall(rb"(\d+) tokens were in the cache, (\d+) read", shown)[-1]
        assert sum(map(int, numbers)) == first
        it.wait_for(PROMPT)
        it.type(b"abc\x15\x04")  # an empty line after all: Ctrl-D ends
        assert it.exit_code() == 0


def interrupted_after(it: Terminal, characters: int) -> int:
    """Press Ctrl-C once an answer is so long; how many tokens of it were generated."""
    it.wait_for(PROMPT)
    it.type(b"Count to a million.\r")
    it.wait_for(rb"\x1b\[\?2004l[^>]{%d}" % characters)  # before that mark, Ctrl-C is a key like others
    it.type(b"\x03")
    shown = it.wait_for(rb"(\d+) generated")
    return int(shown.split(b" generated")[-2].split(b" ")[-1])


def test_ctrl_c_stops_the_answer_and_not_the_program(demo: Path) -> None:
    with terminal("chat", demo, "--stats", "--logit-bias", "0=-100") as it:
        assert interrupted_after(it, 12) < 480
        it.wait_for(PROMPT)
        it.type(b"\x03")
        it.wait_for(rb"Ctrl-D ends")
        it.type(b"Go on.\r")
        it.wait_for(rb"generated")
        it.wait_for(PROMPT)
        it.type(b"/quit\r")
        assert it.exit_code() == 0


def test_sigterm_ends_it(demo: Path) -> None:
    with terminal("chat", demo) as it:
        it.wait_for(PROMPT)
        os.kill(it.pid, signal.SIGTERM)
        assert it.exit_code() == 130
