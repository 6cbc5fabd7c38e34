"""TVM's kernels for cards under g++ and in the PTX interpreter, against the bits of FORMAT.md; and who is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import Maker, StepOp, UnaryFunction
from n730c.codegen import cubin, cuda, gpu, tvm_cuda
from n730c.codegen.cuda import CudaKernel, cuda_headers, source
from n730c.codegen.nvrtc import Nvrtc
from n730c.codegen.select import StaticCost, leaner
from tests.cuda import cases
from tests.cuda.emulator import Emulator
from tests.cuda.launch import rows
from tests.cuda.test_ptx import PtxMachine

WIDTHS = (1, 3, 97, 102, 256, 1000, 4096)  # with vectors of 1, 2 and 4, whole blocks and others
UNARY = (UnaryFunction.RELU, UnaryFunction.RELU_SQUARED, UnaryFunction.SCALE)


def kernels() -> list[CudaKernel]:
    """The templates' kernels that have a rival."""
    made = [cuda.elementwise(op, width) for op in (StepOp.ADD, StepOp.MUL) for width in WIDTHS]
    return made + [cuda.unary(function, width) for function in UNARY for width in WIDTHS]


def rivals() -> list[CudaKernel]:
    found = [tvm_cuda.rival(kernel) for kernel in kernels()]
    return [kernel for kernel in found if kernel]


def rival_cases() -> Iterator[cases.Case]:
    rng = np.random.default_rng(11)
    for kernel in rivals():
        x, y = rows(2, kernel.items), rows(2, kernel.items)
        x[:], y[:] = rng.standard_normal((2, 2, kernel.items))
        x[0, 2::4], x[1, ::3], x[1, 1::3], y[0, ::7] = np.inf, np.nan, -0.0, 1e-42
        op = kernel.symbol.rpartition("_")[0]
        if kernel.op is StepOp.UNARY:
            want = cases.UNARY[UnaryFunction[op.upper()]](x)
        else:
            want = x + y if op == "add" else x * y
        fields = {"in0": x, "in1": y, "out": rows(2, kernel.items, fill=cases.FILL), "f0": 3.5}
        yield cases.Case(kernel.symbol, kernel, 2, fields, {"out": want})


def test_under_g_plus_plus(tmp_path: Path) -> None:
    with Emulator(rivals(), tmp_path) as emulator:
        for case in rival_cases():
            case.check(emulator)


def test_as_nvrtc_compiles_them(nvrtc: Nvrtc) -> None:
    compiled = nvrtc.compile(source(rivals()), cuda_headers(), "sm_35")
    assert cubin.ptx_complaints(compiled.ptx) == []
    assert [text for figures in cubin.figures(compiled.cubin) for text in cubin.complaints(figures)] == []
    machine = PtxMachine(compiled.ptx)
    assert {name: len(kernel.code) for name, kernel in machine.kernels.items()} == cubin.instructions(compiled.ptx)
    for case in rival_cases():
        case.check(machine)


def test_tvm_makes_what_keeps_its_bits_and_nothing_else() -> None:
    assert len(rivals()) == len(kernels())
    assert all(kernel.maker is Maker.TVM and kernel.items_per_thread in (1, 2, 4) for kernel in rivals())
    others = (
        cuda.elementwise(StepOp.SILU_MUL, 64),
        cuda.unary(UnaryFunction.GELU, 64),
        cuda.norm(StepOp.RMS_NORM, 64),
        cuda.flat(StepOp.COMBINE, 64),
        cuda.quantize(64),
        cuda.expert(),
    )
    assert [tvm_cuda.rival(kernel) for kernel in others] == [None] * len(others)


def test_the_fewest_instructions_then_registers_then_the_template() -> None:
    few, many = StaticCost(8.0, 20, 0), StaticCost(9.0, 10, 0)
    assert leaner({Maker.TEMPLATE: many, Maker.TVM: few}) is Maker.TVM
    assert leaner({Maker.TVM: many, Maker.TEMPLATE: few}) is Maker.TEMPLATE
    assert leaner({Maker.TEMPLATE: StaticCost(8.0, 21, 0), Maker.TVM: few}) is Maker.TVM
    assert leaner({Maker.TVM: few, Maker.TEMPLATE: few}) is Maker.TEMPLATE
    assert leaner({Maker.TEMPLATE: many, Maker.TVM: StaticCost(1.0, 1, 8)}) is Maker.TEMPLATE


def test_what_is_chosen_has_the_better_figures(nvrtc: Nvrtc) -> None:
    able = (cuda.elementwise(StepOp.ADD, 1000), cuda.unary(UnaryFunction.RELU, 97), cuda.norm(StepOp.RMS_NORM, 97))
    chosen = gpu.chosen(able)
    assert [kernel.symbol for kernel in chosen] == [kernel.symbol for kernel in able]
    assert chosen[0].maker is Maker.TVM and chosen[2] is able[2]
    for kernel, taken in zip(able[:2], chosen[:2], strict=True):
        rival = tvm_cuda.rival(kernel)
        assert rival and taken in (kernel, rival)
        cost, other = (
            gpu.static_costs(nvrtc, (one,))[kernel.symbol] for one in (taken, kernel if taken is rival else rival)
        )
        assert (cost.instructions, cost.registers) <= (other.instructions, other.registers)


def test_without_tvm_the_templates_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    kernel = cuda.elementwise(StepOp.ADD, 5)  # of no other test: choices are remembered
    assert gpu.chosen((kernel,)) == (kernel,)
