"""Whole programs on the stand-in driver: the bits of the CPU, and one line for whatever keeps a card from computing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import GpuArch, KernelImage, Program, Tier
from n730c.codegen import build_gpu_images, cuda
from n730c.codegen.nvrtc import Nvrtc
from n730c.dtypes import Format
from n730c.package import read_package
from n730c.runtime import find_runtime
from tests.cuda.standin import build_driver, build_twin, image_of_twin
from tests.tiny_package import Shape, tiny, tiny_plan

SHAPES = {
    "int4": Shape(Format.INT4, hidden=72, ffn=100, batch=8, head_batch=2),
    "f16 in blocks": Shape(Format.F16, layers=1, blocks=True, window=20, bias=False, split_silu=True),
    "nl4, other ops": Shape(Format.NL4, hidden=72, ffn=264, layers=1, other_ops=True),
    "experts": Shape(Format.INT8, layers=2, experts=5),
}
SPLIT = ("int4", "f16 in blocks")
PLACES = {
    "split": {"card": 2},
    "whole": {"card": -1},
    "vram": {"card": 99, "vram": True},
    "disk": {"card": 99, "vram": True, "slots": 3},
    "batches": {"card": 1, "crossing": 2},
    "batches only": {"crossing": 2},
}
LOST = "N730_CUDA_FAIL"


def compiled(program: Program, folder: Path) -> tuple[KernelImage, ...]:
    """What a build makes, a cubin and PTX, and one twin of both. NVRTC takes its time: once is enough here."""
    made = build_gpu_images(program, (GpuArch.SM_35,))
    kernels = made[0].kernels
    symbols = [kernel.symbol for kernel in kernels]
    assert {figures.symbol for figures in made[0].figures} == set(symbols)
    build_twin(cuda.source(kernels), symbols, [each.image.code for each in made], folder, "-O0")
    return tuple(each.image for each in made)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, nvrtc: Nvrtc) -> Path:
    """The stand-in and the twins of every package; ``NAME.n730`` are the packages."""
    folder = tmp_path_factory.mktemp("driver")
    build_driver(folder)
    for name, shape in SHAPES.items():
        toy = tiny(shape)
        images = compiled(toy.program, folder) if name == "int4" else (image_of_twin(toy.program, folder, "-O0"),)
        replace(toy, images=images).write(folder / f"{name}.n730")
        for kind, part in PLACES.items() if name in SPLIT else ():
            with_card = tiny(replace(shape, **part))
            alone = tiny_plan(with_card.program, shape.context, shape, len(toy.tokenizer))
            replace(with_card, images=images, plans=(*with_card.plans, alone)).write(folder / f"{name} {kind}.n730")
    return folder


def run(
    driver: Path, command: str, name: str, *options: str, typed: bytes = b"", **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """``n730-exec [COMMAND] NAME.n730 …`` with the stand-in as the machine's driver."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver), "N730_CUDA_TWINS": str(driver)} | settings
    parts = [str(find_runtime()), *([command] if command else []), str(driver / f"{name}.n730"), *options]
    return subprocess.run(parts, capture_output=True, env=environment, input=typed, check=False)


def logits(driver: Path, name: str, folder: Path, *options: str, **settings: str) -> tuple[np.ndarray, str]:
    """Logits of 60 tokens and what was said."""
    ids = folder / "ids"
    ids.write_text(" ".join(str((37 * i) % 300) for i in range(60)))
    out = folder / "logits.npy"
    done = run(driver, "score", name, "--tokens", str(ids), "--logits", str(out), *options, **settings)
    assert done.returncode == 0, done.stderr.decode()
    return np.load(out), done.stderr.decode()


@pytest.mark.parametrize("name", SHAPES)
def test_the_bits_of_the_cpu(driver: Path, name: str, tmp_path: Path) -> None:
    on_cpu, _ = logits(driver, name, tmp_path, "--device", "cpu")
    on_card, said = logits(
        driver, name, tmp_path, "--device", "cuda", "--trust", N730_CUDA_REPORT="1", N730_CUDA_DELAY="100"
    )
    assert "computing on GeForce GT 730 (compute capability 3.5" in said
    np.testing.assert_array_equal(on_cpu.view(np.uint32), on_card.view(np.uint32))


def test_generation_prints_the_same(driver: Path) -> None:
    options = ("--prompt", "abc", "-n", "20", "--temperature", "0", "--ids")
    by_cpu = run(driver, "", "int4", *options, "--device", "cpu")
    by_card = run(driver, "", "int4", *options, "--device", "cuda", "--trust")
    assert by_cpu.returncode == by_card.returncode == 0, by_card.stderr.decode()
    assert by_cpu.stdout == by_card.stdout and by_card.stdout.strip()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LD_LIBRARY_PATH": "/nonexistent"}, "no NVIDIA driver (expected libcuda.so.1, found none)"),
        ({"N730_CUDA_DEVICE": "none"}, "no graphics card that the NVIDIA driver can use (found CUDA_ERROR_NO_DEVICE)"),
        ({"N730_CUDA_DRIVER": "9010"}, "the NVIDIA driver is too old (expected R450 for CUDA 11.0 or later, found one"),
        ({"N730_CUDA_DEVICE": "GeForce GT 730,2,1"}, "GeForce GT 730 is a Fermi card (expected compute capability 3.5"),
        ({"N730_CUDA_DEVICE": "GeForce GT 740,3,0"}, "GeForce GT 740 is too old a card"),
        ({"N730_CUDA_VRAM": "100000"}, "the graphics card has not enough memory left (expected "),
        ({LOST: "cuMemAlloc_v2:2:2"}, "the graphics card has not enough memory left (expected "),
        ({LOST: "cuCtxCreate_v2:1:2"}, "the graphics card failed: cuCtxCreate_v2 (found CUDA_ERROR_"),
        ({LOST: "cuModuleLoadData:1:200"}, "the graphics card failed: cuModuleLoadData (found CUDA_ERROR_"),
        ({LOST: "cuModuleGetFunction:3:500"}, "the graphics card failed: cuModuleGetFunction of "),
    ],
)
def test_without_a_card_the_cpu_computes(driver: Path, settings: dict[str, str], says: str, tmp_path: Path) -> None:
    on_cpu, _ = logits(driver, "int4", tmp_path, "--device", "cpu")
    found, said = logits(driver, "int4", tmp_path, "--device", "cuda", "--trust", **settings)
    assert [line for line in said.splitlines() if says in line] == [
        line for line in said.splitlines() if "the CPU computes" in line
    ] and said.count("the CPU computes") == 1, said
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))


def test_an_untrusted_package_does_not_reach_the_card(driver: Path, tmp_path: Path) -> None:
    _, said = logits(driver, "int4", tmp_path, "--device", "cuda")
    assert "which runs only with --trust" in said


def test_a_card_that_no_cubin_serves_gets_ptx(driver: Path, tmp_path: Path) -> None:
    on_cpu, _ = logits(driver, "int4", tmp_path, "--device", "cpu")
    turing = {"N730_CUDA_DEVICE": "GeForce GTX 1650,7,5"}
    found, said = logits(driver, "int4", tmp_path, "--device", "cuda", "--trust", **turing)
    assert said.count("no kernels made for GeForce GTX 1650: its driver compiles their PTX") == 1
    assert "computing on GeForce GTX 1650 (compute capability 7.5" in said
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("int4", "cuMemcpyHtoDAsync_v2:1:719"),  # while the weights are brought over
        ("int4", "cuLaunchKernel:40:719"),
        ("int4", "cuLaunchKernel:400:719"),
        ("int4", "cuLaunchKernel:1:999"),
        ("int4", "cuMemcpyDtoHAsync_v2:3:719"),
        ("f16 in blocks", "cuLaunchKernel:300:719"),
        ("experts", "cuMemcpyDtoHAsync_v2:5:719"),  # gates
    ],
)
def test_the_cpu_goes_on_where_the_card_fails(driver: Path, name: str, fails: str, tmp_path: Path) -> None:
    on_cpu, _ = logits(driver, name, tmp_path, "--device", "cpu")
    found, said = logits(driver, name, tmp_path, "--device", "cuda", "--trust", N730_CUDA_FAIL=fails)
    assert said.count("the graphics card failed: ") == said.count("The CPU goes on alone.") == 1, said
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))


def test_a_card_that_is_lost_in_the_middle_of_a_text(driver: Path) -> None:
    options = ("--prompt", "abc", "-n", "20", "--temperature", "0", "--ids")
    by_cpu = run(driver, "", "int4", *options, "--device", "cpu")
    lost = run(driver, "", "int4", *options, "--device", "cuda", "--trust", N730_CUDA_FAIL="cuMemcpyDtoHAsync_v2:9:719")
    assert lost.returncode == 0 and lost.stderr.count(b"The CPU goes on alone.") == 1
    assert by_cpu.stdout == lost.stdout and lost.stdout.strip()


def test_a_card_that_is_lost_in_a_conversation(driver: Path) -> None:
    """Later messages take back what is in the cache: the CPU's must be as the card's was."""

    def answers(*options: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
        options = ("-n", "4", "--temperature", "0", *options)
        return run(driver, "chat", "int4", *options, typed=b"ab\nc d\nefg\nh\n", **settings)

    by_cpu = answers("--device", "cpu")
    assert len(by_cpu.stdout.splitlines()) >= 4, by_cpu
    for copy in (2, 7, 11, 15):  # of the logits that come back
        lost = answers("--device", "cuda", "--trust", N730_CUDA_FAIL=f"cuMemcpyDtoHAsync_v2:{copy}:719")
        assert lost.returncode == 0 and lost.stderr.count(b"The CPU goes on alone.") == 1, lost.stderr
        assert lost.stdout == by_cpu.stdout


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize("kind", PLACES)
def test_a_plan_with_a_card_needs_no_option(driver: Path, name: str, kind: str, tmp_path: Path) -> None:
    """The plan is taken as it is: the same bits, and no more of the card's memory than it says."""
    package = f"{name} {kind}"
    on_cpu, said = logits(driver, package, tmp_path, "--device", "cpu")
    assert "computing on" not in said
    found, said = logits(driver, package, tmp_path, "--trust", N730_CUDA_REPORT="1", N730_CUDA_DELAY="50")
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))
    assert ("computing on GeForce GT 730" if kind == "whole" else "computing on the CPU and GeForce GT 730") in said
    (most,) = re.findall(r"at most (\d+) bytes of VRAM", said)
    plan, alone = read_package(driver / f"{package}.n730").plans
    assert int(most) == plan.vram_bytes
    tiers = {place.tier for place in plan.placements}
    only_there = kind in ("vram", "disk") and "blocks" in name  # the other's segments all hold a norm
    assert (Tier.VRAM in tiers) == only_there and (Tier.STREAM in tiers) == (kind == "disk")
    assert (plan.arena_bytes < alone.arena_bytes) == only_there


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"N730_CUDA_DEVICE": "none"}, "the CPU computes: no graphics card that the NVIDIA driver can use"),
        ({"N730_CUDA_VRAM": "10000"}, "the CPU computes: the graphics card has not enough memory left (expected "),
        ({LOST: "cuModuleLoadData:1:209"}, "the CPU computes: the graphics card failed: cuModuleLoadData"),
        ({LOST: "cuMemcpyHtoDAsync_v2:1:719"}, "The CPU goes on alone."),  # while the rows are brought over
        ({LOST: "cuMemcpyHtoDAsync_v2:30:719"}, "The CPU goes on alone."),
        ({LOST: "cuLaunchKernel:40:719"}, "The CPU goes on alone."),
        ({LOST: "cuEventSynchronize:9:719"}, "The CPU goes on alone."),
        ({LOST: "cuMemcpyDtoHAsync_v2:3:719"}, "The CPU goes on alone."),
    ],
)
def test_without_the_card_the_cpu_has_its_rows(
    driver: Path, settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    on_cpu, _ = logits(driver, "int4 split", tmp_path, "--device", "cpu")
    found, said = logits(driver, "int4 split", tmp_path, "--trust", "--threads", "2", **settings)
    assert said.count(says) == 1, said
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("", ""),
        ("cuMemHostRegister_v2:1:2", "Prompts are computed without bringing weights to the card."),
        ("cuMemcpyHtoDAsync_v2:60:719", "The CPU goes on alone."),
        ("cuStreamWaitEvent:9:719", "The CPU goes on alone."),
    ],
)
def test_prompts_bring_weights_to_the_card(driver: Path, fails: str, says: str, tmp_path: Path) -> None:
    """The same bits, whether they are brought or not; single tokens bring none."""
    on_cpu, _ = logits(driver, "int4 batches", tmp_path, "--device", "cpu")
    settings = {LOST: fails, "N730_CUDA_REPORT": "1", "N730_CUDA_DELAY": "20"}
    found, said = logits(driver, "int4 batches", tmp_path, "--trust", "--threads", "2", **settings)
    np.testing.assert_array_equal(on_cpu.view(np.uint32), found.view(np.uint32))
    assert said.count(says) == 1 if says else "failed" not in said, said
    options = ("--prompt-tokens", "1", "--gen-tokens", "9", "--trust")
    alone = run(driver, "bench", "int4 batches", *options, N730_CUDA_REPORT="1").stderr.decode()
    (brought,), (by_single_tokens,) = (re.findall(r"(\d+) bytes brought", text) for text in (said, alone))
    assert (int(brought) > 4 * int(by_single_tokens)) == (fails == "")


@pytest.mark.parametrize("name", ["int4", "int4 split"])
def test_builtin_kernels_are_not_the_cards(driver: Path, name: str) -> None:
    options = ("--prompt", "abc", "-n", "2", "--device", "cuda", "--trust", "--kernels", "builtin")
    said = run(driver, "", name, *options).stderr.decode()
    assert "the CPU computes: the kernels for the graphics card are the package's own code, and" in said


@pytest.mark.parametrize(
    ("name", "fails", "computes"),
    [
        ("int4", "", "gpu"),
        ("int4 split", "", "split"),
        ("int4", "cuLaunchKernel:40:719", "cpu"),
        ("int4 split", "cuLaunchKernel:40:719", "cpu"),
    ],
)
def test_bench_says_who_computed(driver: Path, name: str, fails: str, computes: str) -> None:
    options = ("--prompt-tokens", "4", "--gen-tokens", "9", "--trust", "--json")
    done = run(
        driver, "bench", name, *options, *(() if "split" in name else ("--device", "cuda")), N730_CUDA_FAIL=fails
    )
    assert json.loads(done.stdout)["device"] == computes, done.stderr


@pytest.mark.parametrize("fails", ["cuLaunchKernel:40:719", "cuMemcpyHtoDAsync_v2:2:719", "cuEventSynchronize:9:719"])
def test_weights_that_are_nowhere_else_end_the_run_with_the_card(driver: Path, fails: str, tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    (tmp_path / "ids").write_text(" ".join(map(str, range(1, 40))))
    options = ("--tokens", str(tmp_path / "ids"), "--logits", str(out), "--trust", "--threads", "2")
    done = run(driver, "score", "f16 in blocks vram", *options, N730_CUDA_FAIL=fails)
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.count(b"error:") == 1
    assert b"n730-exec: error: the graphics card failed: " in done.stderr.splitlines()[-1]
    without = run(driver, "score", "f16 in blocks vram", *options, N730_CUDA_VRAM="10000")
    assert without.returncode == 0 and b"the CPU computes: the graphics card has not" in without.stderr


def test_a_split_generates_the_same(driver: Path) -> None:
    options = ("--prompt", "abc", "-n", "20", "--temperature", "0", "--ids")
    by_cpu = run(driver, "", "int4 split", *options, "--device", "cpu")
    by_both = run(driver, "", "int4 split", *options, "--trust", "--threads", "2")
    assert by_cpu.returncode == by_both.returncode == 0, by_both.stderr.decode()
    assert by_cpu.stdout == by_both.stdout and b"computing on the CPU and" in by_both.stderr


@pytest.mark.parametrize(
    ("name", "settings", "device", "says"),
    [
        ("int4 split", {}, "split", "the CPU and the graphics card, with --trust: the card's kernels (sm_35)"),
        ("int4 whole", {}, "gpu", "the graphics card, with --trust: the card's kernels (sm_35)"),
        ("int4", {}, "cpu", "the CPU: no plan of the package uses the card"),
        ("int4 split", {"N730_CUDA_VRAM": "10000"}, "cpu", "the CPU: no plan that uses the card fits"),
        ("int4 split", {"N730_CUDA_DEVICE": "GT 730,2,1"}, "cpu", "the CPU: GT 730 is a Fermi card"),
        ("int4 split", {"LD_LIBRARY_PATH": "/nonexistent"}, "cpu", "the CPU: no NVIDIA driver"),
    ],
)
def test_info_says_who_computes_and_why(
    driver: Path, name: str, settings: dict[str, str], device: str, says: str
) -> None:
    told = json.loads(run(driver, "info", name, "--json", **settings).stdout)
    assert told["device"] == device and told["device_reason"].startswith(says)
    assert told["plan"] == (0 if device != "cpu" or name == "int4" else 1)
    assert ("GeForce GT 730" in told["card"]) == ("Fermi" not in says and "driver" not in says)
    said = run(driver, "info", name, **settings).stdout.decode()
    assert f"computing here: {says}" in said and ("of VRAM, context" in said) == ("split" in name or "whole" in name)
