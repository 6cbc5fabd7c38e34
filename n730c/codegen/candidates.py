"""The ways to make one kernel that the tuner chooses from: who makes it, and the knobs of the maker."""

from __future__ import annotations

from dataclasses import dataclass

from n730c.artifacts import Isa, KernelSpec, Maker, StepOp
from n730c.codegen import tvm
from n730c.dtypes import Format


@dataclass(frozen=True, order=True)
class Candidate:
    """A kernel's maker, the bytes that its prefetch runs ahead, and the groups of inputs in one turn of its loop."""

    maker: Maker
    ahead: int = 3072
    unroll: int = 1

    def __str__(self) -> str:
        return f"{self.maker.name} {self.ahead} {self.unroll}"

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """The inverse of ``str``. Raises KeyError or ValueError."""
        maker, ahead, unroll = text.split(" ")
        return cls(Maker[maker], int(ahead), int(unroll))


TEMPLATE = Candidate(Maker.TEMPLATE)  # what every kernel can be made with

# A star around the middle, not a grid: the knobs hardly touch each other, and every candidate has to be compiled.
_KNOBS = ((3072, 1), (1024, 1), (8192, 1), (3072, 2))

# Taken where nothing is measured, TEMPLATE where nothing stands: what benchmarks/cpu/candidates.py finds faster by more
# than the tuner's margin in every round. On an EPYC (Zen 4) nothing was, beyond the noise: memory bounds them all.
_RECORDED: dict[tuple[Isa, Format], Candidate] = {}


def candidates(spec: KernelSpec, isa: Isa) -> tuple[Candidate, ...]:
    """Every way to make this kernel. Empty: there is none, the runtime's built-in kernel serves it."""
    if spec.op is not StepOp.LINEAR or spec.format is Format.F32:
        return ()
    by_template = tuple(Candidate(Maker.TEMPLATE, *knobs) for knobs in _KNOBS)
    if isa < Isa.AVX2:
        return by_template
    return by_template + tuple(Candidate(Maker.TVM, *knobs) for knobs in _KNOBS if tvm.supports(spec, knobs[1]))


def recorded(spec: KernelSpec, isa: Isa) -> Candidate:
    """The choice where nothing can be measured."""
    return _RECORDED.get((isa, spec.format), TEMPLATE)
