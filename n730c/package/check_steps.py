"""Checks of the program: each step's operands and shapes, who writes what before whom, and how long buffers live."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from n730c.artifacts import NONE, BufferKind, Scope, StepOp, UnaryFunction
from n730c.dtypes import TILE_ROWS, Format
from n730c.errors import PackageError
from n730c.package import layout as lay
from n730c.package.layout import MAX_DIM, BufferRecord, CacheRecord, ProgramRecord, StepRecord, TensorRecord


class Form(NamedTuple):
    """Which operands and numbers a step of one op has."""

    inputs: int = 1
    out: bool = True
    weight: bool = False
    bias: bool = False  # may have one
    ints: int = 0
    floats: int = 0
    in_head: bool = True
    in_place: tuple[int, ...] = ()  # inputs that may be the output


FORMS: dict[StepOp, Form] = {
    StepOp.EMBED: Form(inputs=0, weight=True, ints=1, in_head=False),
    StepOp.RMS_NORM: Form(weight=True, floats=1),
    StepOp.QUANTIZE: Form(),
    StepOp.LINEAR: Form(weight=True, bias=True, ints=1),
    StepOp.ROPE_TABLE: Form(inputs=0, weight=True, floats=1, in_head=False),
    StepOp.ROPE: Form(inputs=2, ints=4, in_head=False, in_place=(0,)),
    StepOp.KV_STORE: Form(inputs=2, out=False, ints=1, in_head=False),
    StepOp.ATTENTION: Form(ints=2, floats=2, in_head=False),
    StepOp.SILU_MUL: Form(inputs=2, in_place=(0, 1)),
    StepOp.ADD: Form(inputs=2, in_place=(0, 1)),
    StepOp.MUL: Form(inputs=2, in_place=(0, 1)),
    StepOp.SILU: Form(in_place=(0,)),
    StepOp.ROUTE: Form(ints=2, in_head=False),
    StepOp.ZERO: Form(inputs=0, in_head=False),
    StepOp.EXPERT: Form(inputs=2, ints=2, in_head=False),
    StepOp.COMBINE: Form(inputs=2, ints=1, in_head=False),
    StepOp.GATE: Form(inputs=2, in_head=False, in_place=(0,)),
    StepOp.UNARY: Form(ints=1, floats=1, in_place=(0,)),
    StepOp.LAYER_NORM: Form(weight=True, bias=True, floats=1),
}
# What the tokens of one expert go through, between EXPERT and COMBINE.
GROUPED = (StepOp.QUANTIZE, StepOp.LINEAR, StepOp.SILU_MUL, StepOp.ADD, StepOp.MUL, StepOp.SILU)


def check_steps(
    table: bytes,
    tensors: Sequence[TensorRecord],
    buffers: Sequence[BufferRecord],
    caches: Sequence[CacheRecord],
    kernel_count: int,
    program: ProgramRecord,
) -> list[StepRecord]:
    """All of E_STEP. ``program`` is taken as it stands."""
    steps = list(map(StepRecord._make, lay.STEP.iter_unpack(table)))
    written: set[int] = set()
    stored: set[int] = set()
    group = range(0)  # the steps of one expert
    before: set[int] = set()  # written before it
    for i, step in enumerate(steps):
        wrong = _operands(step, len(tensors), len(buffers), kernel_count)
        if wrong is None:
            in_head = i >= program.head_first
            wrong = _order(step, buffers, written, in_head) or _shapes(step, tensors, buffers, caches, stored, program)
        if wrong is None:
            wrong = _place(steps, i, group, before, program.head_first)
        if wrong is None:
            wrong = _block(steps, i, tensors, buffers, program.head_first)
        if wrong is not None:
            name = StepOp(step.op).name if step.op in FORMS else step.op
            raise PackageError("E_STEP", f"step {i} ({name}): {wrong}")
        if step.op == StepOp.EXPERT:
            group, before = range(i, i + 1 + step.p1), set(written)
        written.add(step.out)
        if step.op == StepOp.COMBINE:
            written = before  # what the expert's steps wrote may not be there
        if step.op == StepOp.KV_STORE:
            stored.add(step.p0)
    return steps


def _operands(step: StepRecord, tensor_count: int, buffer_count: int, kernel_count: int) -> str | None:
    """Present where the op has them, in range, and nothing where it has none."""
    if step.op not in FORMS:
        return "unknown op"
    form = FORMS[StepOp(step.op)]
    inputs = (step.in0, step.in1, step.in2)
    ints = (step.p0, step.p1, step.p2, step.p3, step.p4, step.p5)
    for used, value, count, what in (
        *((j < form.inputs, inputs[j], buffer_count, f"in{j}") for j in range(3)),
        (form.out, step.out, buffer_count, "out"),
        (form.weight, step.weight, tensor_count, "weight"),
        (form.bias and step.bias != NONE, step.bias, tensor_count, "bias"),
        (step.kernel != NONE, step.kernel, kernel_count, "kernel"),
    ):
        if used and value >= count:
            return f"{what} (expected < {count}, found {value})"
        if not used and value != NONE:
            return f"{what} (expected none, found {value})"
    if step.zero or any(step.zeros) or any(ints[form.ints :]) or any(step.floats[4 * form.floats :]):
        return "unused numbers or reserved bytes are not zero"
    if not all(map(math.isfinite, lay.FLOATS.unpack(step.floats))):
        return "a number is not finite"
    return None


def _order(step: StepRecord, buffers: Sequence[BufferRecord], written: set[int], in_head: bool) -> str | None:
    """Scopes, reads after writes, aliases."""
    form = FORMS[StepOp(step.op)]
    inputs = (step.in0, step.in1, step.in2)[: form.inputs]
    if in_head and not form.in_head:
        return "this op is not for the head"
    for j, buffer in enumerate(inputs):
        if not in_head and buffers[buffer].scope != Scope.BODY:
            return f"in{j} is a HEAD buffer, before the head"
        if buffer not in written:
            return f"in{j} is read before it is written"
        if form.out and step.out == buffer and j not in form.in_place:
            return f"out is in{j}"
    if form.out and buffers[step.out].scope != (Scope.HEAD if in_head else Scope.BODY):
        return "out has the wrong scope"
    return None


def _shapes(
    step: StepRecord,
    tensors: Sequence[TensorRecord],
    buffers: Sequence[BufferRecord],
    caches: Sequence[CacheRecord],
    stored: set[int],
    program: ProgramRecord,
) -> str | None:
    """Kinds and widths of buffers, shapes of tensors, ranges of numbers."""
    op = StepOp(step.op)
    form = FORMS[op]
    weight = tensors[step.weight] if form.weight else None
    is_vector = weight is not None and weight.layout == 0
    f0, f1 = lay.FLOATS.unpack(step.floats)[:2]
    kinds = [BufferKind.F32] * form.inputs  # of the inputs
    out_kind = BufferKind.F32
    widths: list[int]  # of the inputs
    out_width = buffers[step.out].width if form.out else 0  # elementwise ops: it sets the others
    match op:
        case StepOp.EMBED:
            if step.p0 not in (0, 1):
                return f"what is looked up (expected 0 or 1, found {step.p0})"
            if weight is None or is_vector or (step.p0 == 0 and weight.rows != program.vocab):
                return f"weight (expected a matrix of {program.vocab} rows)"
            widths, out_width = [], weight.cols
        case StepOp.LINEAR:
            if weight is None or is_vector:
                return "weight (expected a matrix)"
            kinds = [_rounded(buffers[step.in0]) if Format(weight.format).is_integer else BufferKind.F32]
            widths = [weight.cols]
            if step.p0 < 0 or step.p0 % TILE_ROWS or step.p0 + weight.rows > out_width:
                return f"first row (expected a multiple of {TILE_ROWS} with room in {out_width}, found {step.p0})"
            if step.bias != NONE and (tensors[step.bias].layout, tensors[step.bias].cols) != (0, weight.rows):
                return f"bias (expected a vector of {weight.rows})"
        case StepOp.RMS_NORM | StepOp.LAYER_NORM:
            if weight is None or not is_vector or out_width % weight.cols:
                return f"weight (expected a vector whose width divides {out_width})"
            if step.bias != NONE and (tensors[step.bias].layout, tensors[step.bias].cols) != (0, weight.cols):
                return f"bias (expected a vector of {weight.cols})"
            widths = [out_width]
            if f0 <= 0:
                return f"eps (expected > 0, found {f0})"
        case StepOp.ROPE_TABLE:
            if weight is None or not is_vector:
                return "weight (expected a vector)"
            widths, out_width = [], 2 * weight.cols
        case StepOp.QUANTIZE:
            widths, out_kind = [out_width], _rounded(buffers[step.out])
        case StepOp.ROPE:
            heads, head_dim, rotary = step.p0, step.p1, step.p2
            if heads < 1 or head_dim < 1 or not 2 <= rotary <= head_dim or rotary % 2:
                return f"heads, head_dim, rotary_dim (found {heads}, {head_dim}, {rotary})"
            if step.p3 not in (0, 1):
                return f"pairing (expected 0 or 1, found {step.p3})"
            out_width = heads * head_dim
            widths = [out_width, rotary]
        case StepOp.KV_STORE | StepOp.ATTENTION:
            if not 0 <= step.p0 < len(caches):
                return f"cache (expected < {len(caches)}, found {step.p0})"
            cache = caches[step.p0]
            heads = cache.kv_heads if op is StepOp.KV_STORE else step.p1
            if heads < 1 or heads % cache.kv_heads:
                return f"heads (expected a multiple of {cache.kv_heads}, found {heads})"
            if op is StepOp.ATTENTION and f1 < 0:
                return f"cap of the scores (expected at least 0, found {f1})"
            if op is StepOp.ATTENTION and step.p0 not in stored:
                return f"cache {step.p0} is read before it is stored"
            out_width = heads * cache.head_dim
            widths = [out_width] * form.inputs
        case StepOp.SILU_MUL | StepOp.ADD | StepOp.MUL | StepOp.SILU:
            widths = [out_width] * form.inputs
        case StepOp.ROUTE:
            widths = [out_width]
            if not 1 <= step.p0 <= out_width or step.p1 not in (0, 1):
                return f"experts a token, normalized (expected 1 … {out_width} and 0 or 1, found {step.p0}, {step.p1})"
        case StepOp.ZERO:
            widths = []
        case StepOp.GATE:
            widths = [out_width, 1]
        case StepOp.EXPERT | StepOp.COMBINE:
            experts = buffers[step.in1].width
            widths = [out_width, experts]
            if op is StepOp.EXPERT:
                kinds[0] = out_kind = BufferKind(buffers[step.in0].kind)
            if not 0 <= step.p0 < experts:
                return f"expert (expected < {experts}, found {step.p0})"
        case StepOp.UNARY:
            if not 1 <= step.p0 <= len(UnaryFunction) or (step.p0 < UnaryFunction.SCALE and any(step.floats)):
                return f"function and its number (found {step.p0}, {f0})"
            if step.p0 == UnaryFunction.SOFTCAP and f0 <= 0:
                return f"cap (expected > 0, found {f0})"
            widths = [out_width]
    for j, (kind, width) in enumerate(zip(kinds, widths, strict=True)):
        found = buffers[(step.in0, step.in1, step.in2)[j]]
        if (found.kind, found.width) != (kind, width):
            return f"in{j} (expected {kind.name} of {width}, found kind {found.kind} of {found.width})"
    if form.out and (buffers[step.out].kind, buffers[step.out].width) != (out_kind, out_width):
        found = buffers[step.out]
        return f"out (expected {out_kind.name} of {out_width}, found kind {found.kind} of {found.width})"
    return None


def _rounded(buffer: BufferRecord) -> BufferKind:
    """What integer matrices read: Q16 if it is that, else Q8."""
    return BufferKind.Q16 if buffer.kind == BufferKind.Q16 else BufferKind.Q8


def _place(steps: Sequence[StepRecord], i: int, group: range, before: set[int], head_first: int) -> str | None:
    """EXPERT, what its tokens go through, and COMBINE, which adds it to a buffer that was there before."""
    step = steps[i]
    if step.op == StepOp.EXPERT:
        if i in group:
            return "it stands among the steps of another expert"
        return None if 2 <= step.p1 < head_first - i else f"steps (expected 2 or more in the body, found {step.p1})"
    if (step.op == StepOp.COMBINE) != (i in group and i == group[-1]):
        return "COMBINE is the last step of an expert, and stands nowhere else"
    if i not in group:
        return None
    expert = steps[group[0]]
    if step.out == expert.in1:
        return "out is the gates"
    if step.op == StepOp.COMBINE:
        if (step.in1, step.p0) != (expert.in1, expert.p0):
            return f"gates and expert (expected {expert.in1}, {expert.p0}, found {step.in1}, {step.p0})"
        return None if step.out in before else "out was not written before EXPERT"
    return None if step.op in GROUPED else "this op is not for an expert's tokens"


def _block(
    steps: Sequence[StepRecord],
    i: int,
    tensors: Sequence[TensorRecord],
    buffers: Sequence[BufferRecord],
    head_first: int,
) -> str | None:
    """Blocks of rows of one matrix follow each other at once and fill ``out``."""
    step = steps[i]
    if step.op != StepOp.LINEAR:
        return None

    def goes_on(before: StepRecord, after: StepRecord) -> bool:
        """Only for a ``before`` that was checked."""
        same = (after.op, after.in0, after.out) == (StepOp.LINEAR, before.in0, before.out)
        return same and after.p0 == before.p0 + tensors[before.weight].rows

    at_border = i == head_first
    if step.p0 and (i == 0 or at_border or steps[i - 1].op != StepOp.LINEAR or not goes_on(steps[i - 1], step)):
        return f"first row {step.p0} (expected to follow the block before it)"
    left = step.p0 + tensors[step.weight].rows < buffers[step.out].width
    if left and (i + 1 == len(steps) or i + 1 == head_first or not goes_on(step, steps[i + 1])):
        return "rows of out are left (expected the next block right behind)"
    return None


def check_program(program: ProgramRecord, steps: Sequence[StepRecord], buffers: Sequence[BufferRecord]) -> None:
    """All of E_PROGRAM."""

    def fail(what: str, expected: str, found: object) -> PackageError:
        return PackageError("E_PROGRAM", what, expected=expected, found=str(found))

    if not 1 <= program.head_first < len(steps):
        raise fail("head_first", f"1 … {len(steps) - 1}", program.head_first)
    if not 1 <= program.vocab <= MAX_DIM:
        raise fail("vocab", f"1 … {MAX_DIM}", program.vocab)
    if program.logits >= len(buffers):
        raise fail("logits buffer", f"< {len(buffers)}", program.logits)
    logits = buffers[program.logits]
    if (logits.kind, logits.scope, logits.width) != (BufferKind.F32, Scope.HEAD, program.vocab):
        raise fail("logits buffer", f"F32, HEAD, width {program.vocab}", logits)
    if not any(step.out == program.logits for step in steps):
        raise fail("logits buffer", "written by a step", "none")
    if any(program.zeros):
        raise fail("reserved bytes of PROGRAM", "zeros", program.zeros.hex())


def lives(
    steps: Sequence[StepRecord], buffers: Sequence[BufferRecord], program: ProgramRecord
) -> list[tuple[int, int] | None]:
    """First and last step (inclusive) in which each buffer holds something; None for a buffer that no step uses."""
    spans: list[tuple[int, int] | None] = [None] * len(buffers)
    end = len(steps) - 1
    for i, step in enumerate(steps):
        for buffer in (step.in0, step.in1, step.in2, step.out):
            if buffer != NONE:
                span = spans[buffer]
                outlives = i >= program.head_first and buffers[buffer].scope == Scope.BODY
                spans[buffer] = (i if span is None else span[0], end if outlives or buffer == program.logits else i)
    return spans
