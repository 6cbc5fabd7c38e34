"""Every instruction-set level on a CPU that has no more: n730-exec under qemu's CPU models, and here.

A tiny package carries an image for each level. The emulator refuses what a model lacks (there is a control for that),
so a run that ends proves that neither n730-exec nor the chosen image uses an instruction above its level.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import Entry, Isa, KernelImage
from n730c.codegen import build_images
from n730c.codegen.native import host_isa
from n730c.dtypes import Format
from n730c.runtime import find_runtime
from tests.tiny_package import tiny

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is missing (Debian: apt install qemu-user)")
CPUS = {
    "phenom": Isa.SSE2,
    "Conroe": Isa.SSSE3,  # the first Core 2: no SSE4 of any kind
    "Nehalem": Isa.SSSE3,
    "SandyBridge": Isa.AVX,  # no F16C
    "IvyBridge": Isa.AVX,
    "Haswell": Isa.AVX2,
}
IDS = "5 7 9 200 33 17 21 4 8 15 16"
FORMATS = tuple(fmt for fmt in Format if fmt is not Format.F32)


@pytest.fixture(scope="module")
def images() -> dict[Isa, KernelImage]:
    """For ``tiny()``, with one of its kernels: the others come with n730-exec."""
    kernels = tiny().program.kernels
    made = {isa: build_images(kernels[:1], isa, tune=False)[0][0] for isa in Isa}
    return {isa: replace(one, entries=one.entries + (Entry(),) * (len(kernels) - 1)) for isa, one in made.items()}


def write(folder: Path, name: str, *images: KernelImage, fmt: Format = Format.INT4) -> Path:
    """A package, and a prompt beside it."""
    (folder / "ids").write_text(IDS)
    return replace(tiny(format=fmt), images=images).write(folder / name)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory, images: dict[Isa, KernelImage]) -> dict[Format, Path]:
    """One a format; that of INT4 has images."""
    folder = tmp_path_factory.mktemp("levels")
    of = {Format.INT4: tuple(images.values())}
    return {fmt: write(folder, fmt.name, *of.get(fmt, ()), fmt=fmt) for fmt in FORMATS}


def run(cpu: str | None, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """n730-exec on a model of qemu's; ``cpu`` None: on this machine."""
    emulator = [] if cpu is None else [str(QEMU), "-cpu", cpu]
    command = [*emulator, str(find_runtime()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tokens(cpu: str | None, package: Path, *options: str) -> tuple[list[int], str]:
    """Ids of a greedy continuation, and what was said about the kernels."""
    ids = ["--tokens", package.parent / "ids", "-n", "6", "--temperature", "0", "--ids", "--stats", "--threads", "2"]
    done = run(cpu, package, *ids, *options)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return [int(token) for token in done.stdout.split()], done.stderr


def logits(cpu: str | None, package: Path, folder: Path, *options: str) -> np.ndarray:
    done = run(cpu, "score", package, "--tokens", package.parent / "ids", "--logits", folder / "l.npy", *options)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    values: np.ndarray = np.load(folder / "l.npy")
    return values


@needs_qemu
@pytest.mark.parametrize("cpu", CPUS)
def test_images_of_the_level_give_the_same_tokens(cpu: str, packages: dict[Format, Path]) -> None:
    expected, _ = tokens(None, packages[Format.INT4], "--kernels", "sse2")
    found, said = tokens(cpu, packages[Format.INT4], "--trust")
    assert found == expected
    assert f"kernels: {CPUS[cpu].name} image of the package" in said


@needs_qemu
@pytest.mark.parametrize("cpu", CPUS)
def test_built_in_kernels_of_the_level_give_the_same_bits(
    cpu: str, packages: dict[Format, Path], tmp_path: Path
) -> None:
    for fmt, package in packages.items():
        expected = logits(None, package, tmp_path, "--kernels", "sse2")
        np.testing.assert_array_equal(
            logits(cpu, package, tmp_path).view(np.uint32), expected.view(np.uint32), fmt.name
        )
    assert f"kernels: {CPUS[cpu].name} built in" in tokens(cpu, packages[Format.F16])[1]


@needs_qemu
@pytest.mark.parametrize(("cpu", "above"), [("phenom", Isa.SSSE3), ("Nehalem", Isa.AVX), ("SandyBridge", Isa.AVX2)])
def test_the_emulator_would_notice(cpu: str, above: Isa, images: dict[Isa, KernelImage], tmp_path: Path) -> None:
    """The control: code of the next level that calls itself lower ends in an illegal instruction."""
    package = write(tmp_path, "liar", replace(images[above], isa=CPUS[cpu]))
    done = run(cpu, package, "--tokens", tmp_path / "ids", "-n", "1", "--trust")
    assert done.returncode in (-signal.SIGILL, 128 + signal.SIGILL), done.stderr


@pytest.mark.parametrize("isa", Isa)
def test_each_level_natively(isa: Isa, packages: dict[Format, Path], tmp_path: Path) -> None:
    package, option = packages[Format.INT4], ["--kernels", isa.name.lower()]
    if isa > host_isa():
        done = run(None, package, "--tokens", package.parent / "ids", *option)
        assert done.returncode == 1 and "this CPU does not run these kernels" in done.stderr
        pytest.skip(f"this CPU has no {isa.name}")
    expected = logits(None, package, tmp_path, "--kernels", "sse2")
    for more in ([], ["--trust"]):
        np.testing.assert_array_equal(logits(None, package, tmp_path, *option, *more), expected)
    assert f"kernels: {isa.name} image of the package" in tokens(None, package, *option, "--trust")[1]


@needs_qemu
def test_a_level_that_the_cpu_lacks_is_refused(packages: dict[Format, Path]) -> None:
    package = packages[Format.INT8]
    done = run("Nehalem", package, "--tokens", package.parent / "ids", "--kernels", "avx2")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "n730-exec: error: this CPU does not run these kernels (expected at most ssse3, found avx2). "
        "Run without --kernels.\n"
    )


@needs_qemu
def test_an_image_below_the_built_in_kernels_is_left_aside(images: dict[Isa, KernelImage], tmp_path: Path) -> None:
    package = write(tmp_path, "outer", images[Isa.SSE2], images[Isa.AVX512])
    assert "kernels: AVX2 built in" in tokens("Haswell", package, "--trust")[1]
