"""Whatever a user can get wrong ends in one line that says what, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from n730c.cli import run
from n730c.errors import N730Error
from n730c.runtime import find_runtime
from tests.e2e.conftest import Built, n730_exec, n730c
from tests.models import DEMO


@pytest.fixture
def folder(models: Callable[[str], Path], tmp_path: Path) -> Path:
    """A fresh small model to damage."""
    return Path(shutil.copytree(models("qwen2"), tmp_path / "model"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)


def set_value(name: str, value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        edit_weights(folder, lambda tensors: tensors[name].view(-1)[7].fill_(value))

    return damage


PLAIN = ("--target", "gt730", "--precision", "int4", "--no-tune")  # mixed would be calibrated first
NORM = "model.layers.1.input_layernorm.weight"
UP = "model.layers.2.mlp.up_proj.weight"

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing folder": (lambda f: shutil.rmtree(f), "model"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "unknown architecture": (lambda f: edit_config(f, model_type="nosuch", architectures=["NoSuch"]), "nosuch"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
    "truncated weights": (lambda f: truncate(f / "model.safetensors", 100_000), "model.safetensors"),
    "empty weights": (lambda f: truncate(f / "model.safetensors", 0), "model.safetensors"),
    "corrupt weights": (lambda f: flip_header(f / "model.safetensors"), "model.safetensors"),
    "missing tensor": (lambda f: edit_weights(f, lambda t: t.pop(UP)), UP),
    "wrong shape": (lambda f: edit_weights(f, lambda t: t.update({UP: t[UP][:-1].contiguous()})), UP),
    "numbers that do not fit": (lambda f: edit_config(f, num_attention_heads=5), ""),
    "NaN": (set_value(UP, float("nan")), UP),
    "Inf": (set_value(NORM, float("inf")), NORM),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer is not JSON": (lambda f: (f / "tokenizer.json").write_text("[}"), "tokenizer.json"),
}


def check_one_line(stderr: str, program: str, names: str) -> None:
    lines = [line for line in stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{program}: error: "), stderr
    assert names in lines[0], stderr
    assert "Traceback" not in stderr


def refusal(*arguments: str | Path) -> str:
    """What the command says, run in this process: torch takes seconds to load. tests/test_command_line.py sees that
    an error becomes one line and exit code 1."""
    with pytest.raises(N730Error) as caught:
        run(list(map(str, arguments)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", sorted(DAMAGE))
def test_a_damaged_model_is_refused_in_one_line(case: str, folder: Path, tmp_path: Path) -> None:
    damage, names = DAMAGE[case]
    damage(folder)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert names in refusal("build", folder, *PLAIN, "-o", tmp_path / "out.n730")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    (folder / "b.safetensors").unlink()
    text = refusal("build", folder, *PLAIN, "-o", tmp_path / "out.n730")
    assert "b.safetensors" in text


def test_unknown_target_and_bad_options(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.n730"
    assert "gt730" in refusal("build", folder, "--target", "gt740", "-o", output)
    assert "does not fit" in refusal("build", folder, "--target", "gt730", "--ram", "100K", "-o", output)
    assert "--context" in refusal("build", folder, "--target", "gt730", "--context", "100000", "-o", output)
    assert not list(tmp_path.glob("*.n730*"))


def test_only_a_package_is_overwritten(folder: Path, tmp_path: Path) -> None:
    weights, pipe = folder / "model.safetensors", tmp_path / "pipe"
    before = weights.read_bytes()
    os.mkfifo(pipe)
    for output in (weights, pipe):
        assert output.name in refusal("build", folder, "--target", "gt730", "-o", output, "--no-tune")
    assert weights.read_bytes() == before and pipe.is_fifo()


def test_eval_refuses_another_model(built: Built, folder: Path) -> None:
    """The same shapes and the same vocabulary, but other weights."""
    edit_weights(folder, lambda tensors: tensors[UP].view(-1)[7].fill_(0.5))
    text = refusal("eval", built("qwen2", "int4"), folder, "--text", folder / "config.json")
    assert "model.safetensors differs (expected SHA-256 " in text


def test_disk_full_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """A file-size limit makes the kernel refuse the write just as a full disk does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    root = Path(__file__).parent.parent.parent
    command = [
        sys.executable,
        "-m",
        "n730c",
        "build",
        folder,
        "--target",
        "gt730",
        "-o",
        tmp_path / "out.n730",
        "--no-tune",
        "--precision",
        "int4",
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, preexec_fn=limit, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    check_one_line(done.stderr, "n730c", f"no space to write {tmp_path / 'out.n730'} (expected ")
    assert "a lower limit on the size of a file). Free some space" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path != folder]


def test_a_summary_that_cannot_be_printed(tmp_path: Path) -> None:
    """The package is there and the exit code is not 0: the message says which of the two was lost."""
    output = tmp_path / "out.n730"
    command = [sys.executable, "-m", "n730c", "build", DEMO, "--target", "gt730", "-o", output, "--no-tune", "--json"]
    command += ["--precision", "int4"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(list(map(str, command)), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and output.is_file() and Path("/dev/full").is_char_device()
    check_one_line(done.stderr, "n730c", f"{output} was written, but its summary could not be printed (expected ")


def runtime_error(*arguments: str | Path, code: int = 1) -> str:
    done = n730_exec(*arguments)
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    assert done.stdout == b""
    check_one_line(text, "n730-exec", "")
    return text


def test_prompts_that_cannot_be_run(built: Built, tmp_path: Path) -> None:
    package = built("demo", "int4")
    assert "512" in runtime_error(package, "--prompt", "import os\n" * 600)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc \xff\xfe def")
    assert "UTF-8" in runtime_error(package, "--prompt-file", bad)
    assert "UTF-8" in runtime_error("tokenize", package, "--text", bad)
    assert "UTF-8" in runtime_error("score", package, "--text", bad)
    done = n730_exec(package, "--prompt", "x = ", "-n", "0")
    assert done.returncode == 0 and done.stdout == b""
    runtime_error(package, "--prompt", "")
    ids = tmp_path / "ids.txt"
    ids.write_text("1 2 99999999")
    runtime_error("score", package, "--tokens", ids)
    ids.write_text("1 two 3")
    runtime_error("score", package, "--tokens", ids)
    assert n730_exec(package, "--prompt", "x", "-n", "many").returncode == 2
    assert n730_exec(package, "--nonsense").returncode == 2


def test_not_enough_memory_says_how_much_is_needed(built: Built) -> None:
    text = runtime_error(built("demo", "int4"), "--prompt", "x", "--ram", "1M")
    assert "MiB" in text or "MB" in text


def test_missing_and_foreign_files(built: Built, tmp_path: Path) -> None:
    assert "E_OPEN" in runtime_error(tmp_path / "none.n730", "--prompt", "x")
    foreign = tmp_path / "foreign.n730"
    foreign.write_bytes(b"GGUF" + bytes(8192))
    assert "E_MAGIC" in runtime_error("verify", foreign)
    done = n730c("verify", foreign)
    assert done.returncode == 1
    check_one_line(done.stderr, "n730c", "E_MAGIC")
    broken = tmp_path / "broken.n730"
    data = bytearray(built("demo", "int4").read_bytes())
    data[-5000] ^= 1
    broken.write_bytes(data)
    assert "E_SEGMENT_CHECKSUM" in runtime_error(broken, "--prompt", "x = ")
    done = n730c("verify", broken)
    assert done.returncode == 1
    check_one_line(done.stderr, "n730c", "E_SEGMENT_CHECKSUM")


def test_a_closed_stdout_ends_quietly(built: Built) -> None:
    command = [str(find_runtime()), str(built("demo", "int4")), "--prompt", "import", "-n", "300", "--temperature", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        text = process.stderr.read().decode()
        assert process.wait(30) == 1, text
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*command[:-4], "-n", "20"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    check_one_line(done.stderr.decode(), "n730-exec", "")


def test_ctrl_c_ends_cleanly(built: Built) -> None:
    command = [str(find_runtime()), str(built("demo", "bf16")), "--prompt", "import", "-n", "500", "--threads", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        rest, _ = process.communicate(timeout=30)
        assert process.returncode in (0, 130)
        assert time.monotonic() - began < 10
    (first + rest).decode("utf-8")  # never ends inside a character


def test_streamed_text_equals_decoded_ids(built: Built) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    package = built("llama2", "int4")  # random weights: random bytes, most of them no valid UTF-8
    options = ["--prompt", "def f(x):", "-n", "200", "--temperature", "1", "--seed", "7"]
    text = n730_exec(package, *options).stdout
    ids = np.array(n730_exec(package, *options, "--ids").stdout.split(), dtype=np.int64)
    assert len(ids) > 50
    assert text.decode("utf-8").rstrip("\n") == tokenizer.decode(ids, skip_special_tokens=True).rstrip("\n")
