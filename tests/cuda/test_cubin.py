"""Static checks of the cubins: kernels keep their values in registers, shared memory stays within 48 KB."""

from __future__ import annotations

import pytest

from n730c.artifacts import StepOp, UnaryFunction
from n730c.codegen import cubin, cuda
from n730c.codegen.cuda import CudaKernel, cuda_headers, source
from n730c.codegen.nvrtc import ARCHITECTURES, Nvrtc
from n730c.dtypes import Format
from n730c.errors import ToolchainError
from tests.cuda.launch import unique

# One shape of every kernel and variant: figures hardly depend on shapes, and ptxas takes its time.
KERNELS = unique(
    [
        *(cuda.linear(fmt, 1536, 8960, columns) for fmt in cuda.MATRIX_FORMATS for columns in cuda.COLUMNS),
        *(cuda.embed(fmt, 151936, 1536) for fmt in cuda.MATRIX_FORMATS),
        *(cuda.kv_store(fmt, 2, 128) for fmt in cuda.CACHE_FORMATS),
        *(cuda.attention(fmt, 12, 2, dim, 0) for fmt in cuda.CACHE_FORMATS for dim in (64, 128, 256)),
        *(cuda.elementwise(op, 8960) for op in (StepOp.ADD, StepOp.MUL, StepOp.SILU, StepOp.SILU_MUL)),
        *(cuda.top(k, from_keys=keys) for k in (1, 64) for keys in (False, True)),
        *(cuda.unary(function, 8960) for function in UnaryFunction),
        *(cuda.flat(op, 1536) for op in (StepOp.ZERO, StepOp.GATE, StepOp.COMBINE)),
        cuda.norm(StepOp.RMS_NORM, 1536),
        cuda.norm(StepOp.LAYER_NORM, 1536),
        cuda.attention(Format.F16, 8, 4, 256, 4096, capped=True),
        cuda.route(64, 8, True),
        cuda.expert(),
        cuda.quantize(8960),
        cuda.rope_table(64),
        cuda.rope(12, 128, 128),
        cuda.rope(12, 128, 32, pairs=True),
    ]
)


@pytest.mark.parametrize(
    ("architecture", "every"),
    [
        ("sm_35", True),
        *((name, False) for name in ARCHITECTURES[1:]),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ARCHITECTURES[1:]),
    ],
)
def test_figures(nvrtc: Nvrtc, architecture: str, every: bool) -> None:
    """Kernels of several columns take most of the time: each build checks its own, and ``-m slow`` those here."""
    kernels = [kernel for kernel in KERNELS if every or kernel.tokens_per_block == 1]
    compiled = nvrtc.compile(source(kernels), cuda_headers(), architecture)
    found = {kernel.symbol: kernel for kernel in cubin.figures(compiled.cubin)}
    assert set(found) == {kernel.symbol for kernel in kernels}
    assert [text for kernel in found.values() for text in cubin.complaints(kernel)] == []
    assert cubin.ptx_complaints(compiled.ptx) == []
    for kernel in kernels:
        figures = found[kernel.symbol]
        assert 4 <= figures.registers <= 255 and figures.code_bytes > 0
        if kernel.op is StepOp.LINEAR and kernel.tokens_per_block == 1 and kernel.header != "top.h":
            # Two multiprocessors need about 20 KB of loads under way for 40 GB/s: 512 threads with 72 bytes each do it.
            assert figures.registers * kernel.threads * 2 <= 65536, figures
            assert figures.shared_bytes * 2 <= cubin.SHARED_LIMIT, figures


SPILLS = """
#include "device.h"
extern "C" __global__ void __launch_bounds__(1024) greedy(const n730_cuda_call call) {
    float v[96];
    const float *x = (const float *)call.in[0] + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 96; i++) v[i] = x[1024 * i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; i++) ((float *)call.out)[1024 * i + threadIdx.x] = v[i] * v[(7 * i + 1) % 96];
}
"""
TOO_SHARED = """
#include "device.h"
extern "C" __global__ void wide(const n730_cuda_call call) {
    __shared__ float s[12289];
    s[threadIdx.x] = call.f0;
    __syncthreads();
    ((float *)call.out)[threadIdx.x] = s[threadIdx.x ^ 1];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES[:1])
def test_a_kernel_that_spills_is_named(nvrtc: Nvrtc, architecture: str) -> None:
    compiled = nvrtc.compile(SPILLS, cuda_headers(), architecture)
    (greedy,) = cubin.figures(compiled.cubin)
    assert greedy.local_bytes > 0
    (text,) = cubin.complaints(greedy)
    assert text.startswith("greedy:") and "registers spill" in text


def test_more_than_48_kb_of_shared_memory_is_refused(nvrtc: Nvrtc) -> None:
    with pytest.raises(ToolchainError, match="sm_35"):
        nvrtc.compile(TOO_SHARED, cuda_headers(), "sm_35")
    wide = cubin.KernelFigures("wide", 32, 49156, 0, 100)
    assert cubin.complaints(wide) == ["wide: 49156 bytes of shared memory, above 49152"]


def test_a_source_that_does_not_compile_is_one_line(nvrtc: Nvrtc) -> None:
    with pytest.raises(ToolchainError, match=r"cannot compile the kernels for sm_35: .*undefined") as raised:
        nvrtc.compile("__global__ void k() { nothing(); }", {}, "sm_35")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("add.rn.f16 %h1, %h2, %h3;", "fp16 arithmetic"),
        ("fma.rn.f16x2 %r1, %r2, %r3, %r4;", "fp16 arithmetic"),
        ("dp4a.s32.s32 %r1, %r2, %r3, %r4;", "dp4a below sm_61"),
        ("mul.f32 %f1, %f2, %f3;", "may be fused"),
        ("mul.ftz.f32 %f1, %f2, %f3;", "flushed denormals"),
        ("rcp.approx.f32 %f1, %f2;", "an approximate function"),
    ],
)
def test_what_must_not_be_in_ptx(text: str, what: str) -> None:
    assert any(what in complaint for complaint in cubin.ptx_complaints(text))
    assert not cubin.ptx_complaints("fma.rn.f32 %f1, %f2, %f3, %f4; cvt.f32.f16 %f1, %rs1; add.s32 %r1, %r2, %r3;")


def test_kernels_are_named_by_shape() -> None:
    names = [kernel.symbol for kernel in KERNELS]
    assert len(set(names)) == len(names)
    assert "linear_int4_1536x8960_c1" in names
    assert isinstance(KERNELS[0], CudaKernel) and cuda.linear(Format.INT4, 17, 32, 8).grid(9) == (2, 1)
