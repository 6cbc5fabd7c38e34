"""Mixed precision end to end: budgets hold, a killed build goes on to the same bytes, bad input is one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import BufferKind
from n730c.cli import run
from n730c.errors import N730Error
from n730c.mixed import _claim, read_basis
from n730c.package import describe, read_package
from tests.models import DEMO

QUICK = ("--target", "gt730", "--no-tune", "--calibration-tokens", "512")
Models = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of our own: what other builds left to resume from is not ours."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("N730C_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def profile(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A profile of the model, and the package that was built when it was measured."""
    folder = tmp_path_factory.mktemp("profile")
    file, package, page = folder / "profile.json", folder / "mixed.n730", folder / "report.html"
    build(models, package, "--bpw", "3.2", "--profile", file, "--report", page)
    return file, package


def build(models: Models, output: Path, *options: str | Path) -> None:
    run(list(map(str, ("build", models("qwen2_window"), *QUICK, "-o", output, *options))))


def refusal(models: Models, output: Path, *options: str | Path) -> str:
    with pytest.raises(N730Error) as caught:
        build(models, output, *options)
    assert "\n" not in str(caught.value) and not output.exists()
    return str(caught.value)


def formats(package: Path) -> dict[str, str]:
    return {t["name"]: t["format"] for t in describe(read_package(package))["tensors"]}


def test_bits_a_weight_are_kept_and_used(profile: tuple[Path, Path]) -> None:
    package = profile[1]
    bits = describe(read_package(package))["bits_per_weight"]
    assert 3.1 < bits <= 3.2
    assert len(set(formats(package).values())) > 2  # F32 vectors, and at least two formats of matrices


def test_the_whole_is_measured_beside_its_parts(profile: tuple[Path, Path]) -> None:
    pairs = json.loads(profile[0].read_text())["together"]
    assert len(pairs) == 4 and pairs == sorted(pairs)
    assert all(0.5 * parts < both < 3 * parts for parts, both in pairs)


def test_experts_are_measured_and_get_formats_too(models: Models, tmp_path: Path) -> None:
    output, profile = tmp_path / "experts.n730", tmp_path / "profile.json"
    run(list(map(str, ("build", models("mixtral"), *QUICK, "--bpw", "3", "--profile", profile, "-o", output))))
    facts = describe(read_package(output))
    assert 2.9 < facts["bits_per_weight"] < 3.1
    measured = json.loads(profile.read_text())["divergence"]
    stacks = [name for name in measured if ".experts." in name]
    assert stacks and all(measured[name]["int8"] < measured[name]["int3"] < measured[name]["nl2"] for name in stacks)
    assert all(fmt == "F16" for name, fmt in formats(output).items() if name.endswith("mlp.gate.weight"))


def test_the_memory_is_filled_and_nothing_streamed(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "more.n730"
    ram = describe(read_package(profile[1]))["plans"][0]["ram_bytes"] + 300_000
    build(models, output, "--ram", str(ram), "--vram", "0", "--profile", profile[0])
    facts = describe(read_package(output))
    assert facts["plans"][0]["disk_bytes_per_token"] == 0 and facts["plans"][0]["ram_bytes"] <= ram
    assert facts["bits_per_weight"] > 3.3


def test_the_size_of_the_file_is_kept(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "sized.n730"
    size = profile[1].stat().st_size + 30_000
    build(models, output, "--max-size", str(size), "--profile", profile[0])
    assert size - 20_000 < output.stat().st_size <= size


def test_the_speed_asked_for_is_kept(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    output, known = tmp_path / "fast.n730", ("--profile", profile[0])
    at_3_bits = describe(read_package(profile[1]))["plans"][0]["decode_tokens_per_s"]
    build(models, output, "--tokens-per-s", str(0.98 * at_3_bits), *known)
    facts = describe(read_package(output))
    assert facts["plans"][0]["decode_tokens_per_s"] >= 0.98 * at_3_bits
    assert facts["bits_per_weight"] > 3.3


def test_same_input_same_bytes_whether_measured_or_read(
    models: Models, profile: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "again.n730"
    build(models, output, "--bpw", "3.2", "--profile", profile[0], "--json")
    assert output.read_bytes() == profile[1].read_bytes()
    summary = json.loads(capsys.readouterr().out)  # what a run of the whole lost, beside the sum of its parts
    assert 0.4 < summary["predicted_kl"] / summary["predicted_by_profile"] < 2.5


def test_inputs_that_hurt_are_read_in_16_bits(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    content = json.loads(profile[0].read_text())
    together = sum(content["inputs"].values())
    assert len(content["inputs"]) == 4 * 4 + 1  # of each layer, and the head's
    assert 0.3 * content["activations"] < together < 3 * content["activations"]
    worst = max(content["inputs"], key=content["inputs"].get)
    content["inputs"][worst] += 1.0
    content["activations"] += 1.0
    file, output = tmp_path / "profile.json", tmp_path / "out.n730"
    file.write_text(json.dumps(content))
    for options, count in (("auto", 1), ("int8", 0)):
        build(models, output, "--bpw", "3.2", "--profile", file, "--activations", options)
        assert sum(b.kind is BufferKind.Q16 for b in read_package(output).program.buffers) == count


def test_the_report_stands_alone(profile: tuple[Path, Path]) -> None:
    page = profile[0].with_name("report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.count("<svg") >= 4
    for foreign in ("http:", "https:", "<script", "<link", "src=", "@import"):
        assert foreign not in page
    content = json.loads(profile[0].read_text())
    for name in content["divergence"]:
        assert name in page
    for stored, fmt in formats(profile[1]).items():  # what is drawn is what was built
        assert fmt == "F32" or f"{stored}: {fmt}, expected " in page
    assert page.count('class="uniform"') == len(next(iter(content["divergence"].values())))


def test_nothing_is_left_in_the_cache(models: Models, profile: tuple[Path, Path], cache: Path) -> None:
    assert not list((cache / "calibration").iterdir())


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_build_goes_on_to_the_same_bytes(
    kills: int, models: Models, profile: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "killed.n730"
    command = [sys.executable, "-m", "n730c", "build", str(models("qwen2_window")), *QUICK, "--bpw", "3.2"]
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[1]), "N730C_CACHE": str(tmp_path / "cache")}
    states = tmp_path / "cache" / "calibration"
    random = np.random.default_rng(kills)
    for _ in range(kills):
        process = subprocess.Popen(
            [*command, "-o", str(output)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not list(states.glob("*/*")):  # past the imports
            time.sleep(0.05)
        time.sleep(float(random.uniform(0, 3)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, "-o", str(output)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == profile[1].read_bytes()


def test_two_builds_at_once_keep_apart(tmp_path: Path) -> None:
    first, lock = _claim(tmp_path / "key")
    second, other = _claim(tmp_path / "key")
    assert first == tmp_path / "key" and second == tmp_path / "key-1"
    lock.close()
    third, again = _claim(tmp_path / "key")
    assert third == first
    other.close()
    again.close()


def test_budgets_that_cannot_be(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are told before anything is measured."""
    output = tmp_path / "out.n730"
    assert "expected at least 2." in refusal(models, output, "--bpw", "1.5")
    assert "above the size of the original" in refusal(models, output, "--bpw", "17")
    least = refusal(models, output, "--max-size", "9K")
    assert "does not fit --max-size (expected at least " in least
    assert "above the size of the original" in refusal(models, output, "--max-size", "1G")
    assert "expected one" in refusal(models, output, "--max-size", "1M", "--bpw", "3")
    assert "expected one" in refusal(models, output, "--tokens-per-s", "1", "--bpw", "3")
    assert "too slow for --tokens-per-s" in refusal(models, output, "--tokens-per-s", "1e6")
    assert "--precision mixed" in refusal(models, output, "--precision", "int4", "--bpw", "3")
    assert "calibrating" not in capsys.readouterr().err


def test_the_least_size_is_no_byte_too_much(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out.n730"
    size = int(refusal(models, output, "--max-size", "9K").partition("at least ")[2].split()[0])
    known = ("--profile", profile[0])
    assert f"at least {size} bytes, found {size - 1}" in refusal(models, output, "--max-size", str(size - 1), *known)


def test_the_text_may_come_from_a_pipe(tmp_path: Path) -> None:
    """A pipe gives its bytes once: what is calibrated on is what was checked."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_text, "some text")
        assert read_basis(pipe, None).text == "some text"


def test_texts_that_will_not_do(models: Models, tmp_path: Path) -> None:
    output, text = tmp_path / "out.n730", tmp_path / "text.txt"
    assert "cannot read" in refusal(models, output, "--calibration", text)
    assert "cannot read . (found Is a directory)" in refusal(models, output, "--calibration", Path())
    for content, words in (
        (b"", "holds no text"),
        (b" \n", "holds no text"),
        (b"ab\xff", "not UTF-8"),
        (b"too short", "too short"),
    ):
        text.write_bytes(content)
        assert words in refusal(models, output, "--calibration", text)


def test_profiles_that_will_not_do(models: Models, profile: tuple[Path, Path], tmp_path: Path) -> None:
    output, file = tmp_path / "out.n730", tmp_path / "profile.json"
    content = json.loads(profile[0].read_text())
    some = ({"int4": -1}, {"int4": 1e308}, {}, {"bf16": 0.0})
    wrong = (*({"x": by} for by in some), {"x": {"int4": 0}, "y": {"int8": 0}}, [])
    for text in ("{", "[]", '{"kind": "else"}', *(json.dumps({**content, "divergence": by}) for by in wrong)):
        file.write_text(text)
        assert "no sensitivity profile" in refusal(models, output, "--profile", file)
    file.write_text(json.dumps({**content, "sources": {**content["sources"], "config.json": "0" * 64}}))
    assert "another model: config.json differs" in refusal(models, output, "--profile", file)
    first, *others = content["divergence"]
    for by in (
        {name: content["divergence"][name] for name in others},
        {**content["divergence"], "x": content["divergence"][first]},
    ):
        file.write_text(json.dumps({**content, "divergence": by}))
        assert f"as it is read here: {'x' if 'x' in by else first}" in refusal(models, output, "--profile", file)


def test_a_full_disk_is_named_and_the_next_run_goes_on(models: Models, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk: the calibration's own files pass it first."""
    output = tmp_path / "out.n730"
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from n730c.__main__ import main; main()"
    )
    arguments = ["build", str(models("qwen2_window")), *QUICK, "-o", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[1]), "N730C_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "goes on from the last finished layer" in lines[0]
    assert not output.exists()
