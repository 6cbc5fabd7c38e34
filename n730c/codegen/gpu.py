"""A program to cubins: its CUDA kernels, compiled for each architecture and held against their static limits."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from n730c.artifacts import (
    NONE,
    BufferKind,
    Entry,
    GpuArch,
    KernelImage,
    Maker,
    Program,
    Step,
    StepOp,
    UnaryFunction,
)
from n730c.codegen import cubin, cuda, tvm_cuda
from n730c.codegen.cubin import KernelFigures
from n730c.codegen.cuda import CudaKernel
from n730c.codegen.nvrtc import Nvrtc
from n730c.codegen.render import cuda_headers
from n730c.codegen.select import StaticCost, leaner
from n730c.errors import ToolchainError

MOST_EXPERTS = 4096  # that ROUTE holds in shared memory


@dataclass(frozen=True)
class GpuImage:
    """A package's image for one architecture, and what its compiler measured (of PTX: nothing)."""

    image: KernelImage
    figures: tuple[KernelFigures, ...]
    kernels: tuple[CudaKernel, ...] = ()  # that it was made of

    def manifest(self) -> list[dict[str, Any]]:
        """Who made each kernel and what it costs, as META tells it."""
        makers = {kernel.symbol: kernel.maker.name for kernel in self.kernels}
        return [asdict(figures) | {"maker": makers[figures.symbol]} for figures in self.figures]


def _of_step(program: Program, step: Step) -> tuple[CudaKernel, ...]:
    """The kernels that a step may be launched with. The runtime (device_cuda.cpp) knows them by the same names."""
    weight = program.tensors[step.weight] if step.weight != NONE else None
    width = program.buffers[step.inputs[0] if step.inputs else step.out].width
    if any(program.buffers[b].kind is BufferKind.Q16 for b in (*step.inputs, step.out) if b != NONE):
        raise ToolchainError("no CUDA kernel reads 16-bit activations", hint="Build without --gpu.")
    cache = program.caches[step.ints[0]] if step.op in (StepOp.KV_STORE, StepOp.ATTENTION) else None
    if weight and step.op is StepOp.LINEAR:
        return tuple(cuda.linear(weight.format, weight.rows, weight.cols, n) for n in cuda.COLUMNS)
    if weight and step.op is StepOp.EMBED:
        return (cuda.embed(weight.format, weight.rows, weight.cols),)
    if cache and step.op is StepOp.KV_STORE:
        return (cuda.kv_store(cache.format, cache.kv_heads, cache.head_dim),)
    if cache and step.op is StepOp.ATTENTION:
        capped = step.floats[1:2] not in ((), (0.0,))
        return (cuda.attention(cache.format, step.ints[1], cache.kv_heads, cache.head_dim, cache.window, capped),)
    if weight and step.op in (StepOp.RMS_NORM, StepOp.LAYER_NORM):
        return (cuda.norm(step.op, weight.cols, width // weight.cols),)
    if step.op is StepOp.UNARY:
        return (cuda.unary(UnaryFunction(step.ints[0]), width),)
    if step.op is StepOp.QUANTIZE:
        return (cuda.quantize(width),)
    if step.op is StepOp.ROPE_TABLE:
        return (cuda.rope_table(width // 2),)
    if step.op is StepOp.ROPE:
        return (cuda.rope(step.ints[0], step.ints[1], step.ints[2], step.ints[3:4] == (1,)),)
    if step.op in (StepOp.ADD, StepOp.MUL, StepOp.SILU, StepOp.SILU_MUL):
        return (cuda.elementwise(step.op, width),)
    if step.op in (StepOp.ZERO, StepOp.GATE, StepOp.COMBINE):
        return (cuda.flat(step.op, program.buffers[step.out].width),)
    if step.op is StepOp.ROUTE and width <= MOST_EXPERTS:
        return (cuda.route(width, step.ints[0], step.ints[1] == 1),)
    if step.op is StepOp.EXPERT:
        return (cuda.expert(),)
    raise ToolchainError(f"no CUDA kernel computes {step.op.name}", hint="Build without --gpu.")


def kernels_of(program: Program) -> tuple[CudaKernel, ...]:
    """Every kernel that the program's steps need, each once. Raises ToolchainError for an op that has none."""
    found = {kernel.symbol: kernel for step in program.steps for kernel in _of_step(program, step)}
    return tuple(found.values())


@cache
def chosen(kernels: tuple[CudaKernel, ...]) -> tuple[CudaKernel, ...]:
    """The same kernels, each by the maker whose figures are better (``select.leaner``) for the oldest architecture.

    One choice for all architectures: a package's kernels are the same ones for each. Raises ToolchainError.
    """
    rivals = {kernel: rival for kernel in kernels if (rival := tvm_cuda.rival(kernel))}
    if not rivals:
        return kernels
    nvrtc = Nvrtc()
    ours, theirs = static_costs(nvrtc, tuple(rivals)), static_costs(nvrtc, tuple(rivals.values()))

    def better(kernel: CudaKernel) -> CudaKernel:
        costs = {Maker.TEMPLATE: ours[kernel.symbol], Maker.TVM: theirs[kernel.symbol]}
        return rivals[kernel] if leaner(costs) is Maker.TVM else kernel

    return tuple(better(kernel) if kernel in rivals else kernel for kernel in kernels)


def static_costs(nvrtc: Nvrtc, kernels: tuple[CudaKernel, ...]) -> dict[str, StaticCost]:
    """By symbol, for sm_35. Raises ToolchainError."""
    compiled = nvrtc.compile(cuda.source(kernels), cuda_headers(), "sm_35")
    counted, figures = cubin.instructions(compiled.ptx), {f.symbol: f for f in cubin.figures(compiled.cubin)}
    return {
        k.symbol: StaticCost(
            counted[k.symbol] / k.items_per_thread, figures[k.symbol].registers, figures[k.symbol].local_bytes
        )
        for k in kernels
    }


def compact(ptx: str) -> bytes:
    """PTX without comments, empty lines and white space that separates nothing."""
    lines = (" ".join(re.sub(r"//.*", "", line).split()) for line in ptx.splitlines())
    return "\n".join(line for line in lines if line).encode()


def build_gpu_images(program: Program, architectures: tuple[GpuArch, ...]) -> tuple[GpuImage, ...]:
    """One cubin an architecture, with all kernels of the program, then their PTX, for cards that no cubin serves.

    Raises ToolchainError if NVRTC is missing or fails, or if a kernel spills registers or takes too much memory.
    """
    nvrtc = Nvrtc()
    kernels = chosen(kernels_of(program))
    text, headers = cuda.source(kernels), cuda_headers()
    entries = (Entry(NONE, Maker.NONE),) * len(program.kernels)
    images, ptx = [], ""
    for architecture in (arch for arch in architectures if arch is not GpuArch.PTX):
        compiled = nvrtc.compile(text, headers, architecture.name.lower())
        figures = cubin.figures(compiled.cubin)
        _refuse([complaint for kernel in figures for complaint in cubin.complaints(kernel)], architecture)
        _refuse(cubin.ptx_complaints(compiled.ptx), architecture)
        images.append(GpuImage(KernelImage(architecture, compiled.cubin, entries), figures, kernels))
        ptx = compiled.ptx if architecture is GpuArch.SM_35 else ptx
    ptx = ptx or nvrtc.compile(text, headers, "compute_35").ptx
    _refuse(cubin.ptx_complaints(ptx), GpuArch.PTX)
    images.append(GpuImage(KernelImage(GpuArch.PTX, compact(ptx), entries), (), kernels))
    return tuple(images)


def _refuse(complaints: list[str], architecture: GpuArch) -> None:
    if complaints:
        raise ToolchainError(f"a kernel for {architecture.name.lower()} is not fit: {complaints[0]}")


def computable(program: Program) -> frozenset[int]:
    """The steps for which there are kernels for graphics cards."""
    found = set()
    for i, step in enumerate(program.steps):
        with suppress(ToolchainError):
            if _of_step(program, step):
                found.add(i)
    return frozenset(found)
