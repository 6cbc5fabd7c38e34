"""The stand-in for libcuda.so.1, built with g++, and the twins of cubins that it runs in their place."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from n730c.artifacts import NONE, Entry, GpuArch, KernelImage, Maker, Program
from n730c.codegen import GpuImage, cuda
from n730c.codegen.gpu import kernels_of
from n730c.codegen.render import cuda_template_folder
from tests.cuda import emulator

HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")


def _compile(source: Path, output: Path, level: str) -> None:
    include = (f"-I{emulator.HERE}", f"-I{cuda_template_folder()}")
    command = ["g++", level, *_FLAGS, "-ffp-contract=off", *include, str(source), "-o", str(output), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


def build_driver(folder: Path) -> None:
    """``libcuda.so.1`` in ``folder``, for LD_LIBRARY_PATH."""
    _compile(HERE / "libcuda.cpp", folder / "libcuda.so.1", "-O1")


def image_hash(image: bytes) -> str:
    """FNV-1a, 64 bits, as the stand-in names images."""
    value = 0xCBF29CE484222325
    for byte in image:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def build_twin(text: str, symbols: Sequence[str], images: Sequence[bytes], folder: Path, level: str = "-O2") -> None:
    """What runs where one of ``images`` is loaded: the kernels of the .cu ``text``. ``folder`` is N730_CUDA_TWINS.

    ``level``: -O0 compiles in a fifth of the time, and the kernels take five times as long.
    """
    name, *others = map(image_hash, images)
    source = folder / f"{name}.cpp"
    source.write_text(emulator.twin_source(text, symbols), encoding="utf-8")
    _compile(source, folder / f"{name}.so", level)
    for other in others:
        (folder / f"{other}.so").symlink_to(f"{name}.so")


def image_of_twin(program: Program, folder: Path, level: str = "-O2") -> KernelImage:
    """A made-up cubin with the kernels of ``program``, where NVRTC's own is beside the point: the twin runs."""
    kernels = kernels_of(program)
    text = cuda.source(kernels)
    code = f"twin of {image_hash(text.encode())}".encode()
    if not (folder / f"{image_hash(code)}.so").exists():
        build_twin(text, [kernel.symbol for kernel in kernels], [code], folder, level)
    return KernelImage(GpuArch.SM_35, code, (Entry(NONE, Maker.NONE),) * len(program.kernels))


class TwinsFor:
    """In the place of ``build_gpu_images``: what ``image_of_twin`` makes."""

    def __init__(self, folder: Path, level: str = "-O2") -> None:
        self.folder, self.level = folder, level

    def __call__(self, program: Program, architectures: tuple[GpuArch, ...]) -> tuple[GpuImage, ...]:
        return (GpuImage(image_of_twin(program, self.folder, self.level), ()),)
