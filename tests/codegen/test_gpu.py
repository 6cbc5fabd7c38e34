"""The cubins of a program: what they hold, what is refused, and that a package carries them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from n730c.artifacts import GpuArch, Isa, StepOp
from n730c.cli import parse_gpus
from n730c.codegen import build_gpu_images, computable, cubin, gpu
from n730c.codegen.cubin import KernelFigures
from n730c.dtypes import Format
from n730c.errors import ToolchainError
from n730c.package import describe, extract, read_package, validate
from tests.tiny_package import Shape, tiny


def test_a_package_carries_them(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.cuda_nvrtc", reason="nvidia-cuda-nvrtc-cu11 is missing: it compiles CUDA")
    toy = tiny(Shape(Format.INT4, layers=1, images=(Isa.SSE2,)))
    made, ptx = build_gpu_images(toy.program, (GpuArch.SM_35,))
    again = build_gpu_images(toy.program, (GpuArch.SM_35,))
    assert again == (made, ptx), "two builds give the same bytes"
    path = replace(toy, images=(*toy.images, made.image, ptx.image)).write(tmp_path / "a.n730")
    validate(path, full=True)
    package = read_package(path)
    assert package.images[1] == made.image
    facts = describe(replace(package, meta={"gpu_kernels": {"sm_35": made.manifest()}}))
    assert facts["images"][1]["isa"] == "SM_35"
    makers = {kernel["symbol"]: kernel["maker"] for kernel in facts["card_kernels"]}
    assert makers == {kernel.symbol: kernel.maker.name for kernel in made.kernels}
    assert set(makers.values()) == {"TEMPLATE", "TVM"}
    assert describe(replace(package, meta={"gpu_kernels": {"sm_35": 7}}))["card_kernels"] == []
    files = extract(package, tmp_path / "kernels")
    assert [file.name for file in files] == ["kernels.sse2.bin", "kernels.sm_35.cubin", "kernels.ptx"]
    assert cubin.figures(files[1].read_bytes()) == made.figures
    assert files[2].read_text().startswith(".version 6.0\n.target sm_35\n")


def test_a_kernel_that_is_not_fit_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.cuda_nvrtc", reason="nvidia-cuda-nvrtc-cu11 is missing: it compiles CUDA")
    monkeypatch.setattr(cubin, "figures", lambda _: (KernelFigures("add_64", 255, 0, 64, 100),))
    with pytest.raises(ToolchainError, match="a kernel for sm_35 is not fit: add_64: 64 bytes of local memory"):
        build_gpu_images(tiny(Shape(Format.F16, layers=1)).program, (GpuArch.SM_35,))


def test_an_op_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MOST_EXPERTS", 2)
    with pytest.raises(ToolchainError, match=r"no CUDA kernel computes ROUTE\. Build without --gpu\."):
        build_gpu_images(tiny(Shape(Format.INT6, layers=1, experts=3)).program, (GpuArch.SM_35,))
    wide = tiny(Shape(Format.INT6, layers=1, wide=True)).program
    with pytest.raises(ToolchainError, match=r"no CUDA kernel reads 16-bit activations\. Build without --gpu\."):
        build_gpu_images(wide, (GpuArch.SM_35,))
    assert not {wide.steps[i].op for i in computable(wide)} & {StepOp.QUANTIZE, StepOp.LINEAR}


def test_names_of_architectures() -> None:
    assert parse_gpus("sm_35, sm_61,SM_35") == (GpuArch.SM_35, GpuArch.SM_61)
    with pytest.raises(typer.BadParameter, match="expected sm_35, sm_50, sm_52, sm_61, found 'sm_20'"):
        parse_gpus("sm_20")


def test_what_is_no_cubin() -> None:
    with pytest.raises(ToolchainError, match="this is no cubin"):
        cubin.figures(b"ELF" * 100)
