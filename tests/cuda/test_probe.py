"""``n730-exec probe`` beside a card: the stand-in is measured, and the target file says how it computes."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

from n730c.artifacts import GpuArch
from n730c.codegen import cuda
from n730c.codegen.nvrtc import Nvrtc
from n730c.runtime import find_runtime
from n730c.target import load_target
from tests.cuda import probe_kernels
from tests.cuda.standin import build_driver, build_twin
from tests.planning.test_targets import NUMBERS, OF_THE_CARD


def test_the_kernels_that_come_along_are_those_of_the_templates(nvrtc: Nvrtc) -> None:
    assert probe_kernels.as_literal(probe_kernels.made(nvrtc)) == probe_kernels.FILE.read_text(encoding="utf-8"), (
        "run python -m tests.cuda.probe_kernels"
    )


def test_a_card_is_measured(tmp_path: Path) -> None:
    build_driver(tmp_path)
    lines = probe_kernels.FILE.read_text(encoding="utf-8").splitlines()
    ptx = "".join(map(ast.literal_eval, lines)).encode()
    kernels = probe_kernels.KERNELS
    build_twin(cuda.source(kernels), [kernel.symbol for kernel in kernels], [ptx], tmp_path, "-O0")
    output = tmp_path / "pc.toml"
    settings = {"LD_LIBRARY_PATH": str(tmp_path), "N730_CUDA_TWINS": str(tmp_path), "N730_CUDA_VRAM": str(40 << 20)}
    command = [str(find_runtime()), "probe", "-o", str(output), "--disk", str(tmp_path), "--disk-bytes", "16M"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stderr
    target = load_target(str(output))
    assert target.gpu is not None and target.gpu_arch is GpuArch.SM_35
    assert 0 < target.vram_bytes < 40 << 20
    assert set(target.sources) == NUMBERS | OF_THE_CARD
    assert "GeForce GT 730 (compute capability 3.5" in target.sources["vram_bytes"]
    assert "a kernel that reads 32 MiB" in target.sources["vram_bytes_per_s"]
    assert all("measured by n730-exec probe" in source for source in target.sources.values())
    rates = target.gpu.kernel_rates
    assert rates.int4 > rates.nl4 > rates.f16
