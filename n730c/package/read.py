"""Read a package back into the values it was written from; weights stay in the file until they are asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n730c.artifacts import (
    NONE,
    Action,
    Buffer,
    BufferKind,
    Cache,
    Entry,
    Event,
    GpuArch,
    Isa,
    KernelImage,
    KernelSpec,
    Maker,
    Placement,
    Plan,
    Program,
    Scope,
    Segment,
    Step,
    StepOp,
    Tensor,
    Tier,
)
from n730c.dtypes import Format
from n730c.errors import PackageError
from n730c.package import layout as lay
from n730c.package.check_steps import FORMS
from n730c.package.layout import Kind, StepRecord
from n730c.package.validate import Extent, check_front, opened


@dataclass(frozen=True)
class Package:
    """A checked package. Floats of steps have been rounded to float32; all else is as it was written."""

    path: Path
    file_bytes: int
    extents: dict[Kind, Extent]
    program: Program
    logits: int  # the buffer that holds them
    plans: tuple[Plan, ...]
    images: tuple[KernelImage, ...]
    meta: dict[str, Any]
    tokenizer: bytes
    chat: bytes
    tensor_offsets: tuple[int, ...]  # bytes from the start of the file
    tensor_segments: tuple[int, ...]
    segment_offsets: tuple[int, ...]

    def tensor_bytes(self, tensor: int) -> bytes:
        """The stored bytes of one tensor, read now. Raises PackageError if the file has gone or shrunk."""
        size = self.program.tensors[tensor].size
        with opened(self.path) as file:
            file.seek(self.tensor_offsets[tensor])
            data = file.read(size)
        if len(data) != size:
            raise PackageError(
                "E_TRUNCATED", f"{self.path} became shorter", expected=f"{size} bytes", found=str(len(data))
            )
        return data


def read_package(path: Path | str) -> Package:
    """Check everything but the segments' bytes and return the package. Raises PackageError."""
    path = Path(path)
    with opened(path) as file:
        checked = check_front(file)
    sections = checked.sections
    tensors = list(map(lay.TensorRecord._make, lay.TENSOR.iter_unpack(sections[Kind.TENSORS])))
    segments = list(map(lay.SegmentRecord._make, lay.SEGMENT.iter_unpack(sections[Kind.SEGMENTS])))
    record = lay.ProgramRecord._make(lay.PROGRAM.unpack(sections[Kind.PROGRAM]))
    names = sections[Kind.NAMES]
    program = Program(
        tensors=tuple(
            Tensor(
                name=names[t.name_offset : t.name_offset + t.name_length].decode(),
                format=Format(t.format),
                rows=t.rows,
                cols=t.cols,
                is_vector=t.layout == 0,
            )
            for t in tensors
        ),
        segments=tuple(Segment(s.first_tensor, s.tensor_count, s.size) for s in segments),
        buffers=tuple(
            Buffer(BufferKind(kind), Scope(scope), width)
            for kind, scope, _, width, _ in lay.BUFFER.iter_unpack(sections[Kind.BUFFERS])
        ),
        caches=tuple(
            Cache(heads, head_dim, window, Format(fmt))
            for heads, head_dim, window, fmt, _ in lay.CACHE.iter_unpack(sections[Kind.CACHES])
        ),
        steps=tuple(_step(StepRecord._make(fields)) for fields in lay.STEP.iter_unpack(sections[Kind.STEPS])),
        kernels=tuple(
            KernelSpec(StepOp(op), Format(fmt), rows, cols)
            for op, fmt, _, rows, cols, _ in lay.KERNEL.iter_unpack(sections[Kind.KERNELS])
        ),
        head_first=record.head_first,
        vocab=record.vocab,
    )
    return Package(
        path=path,
        file_bytes=checked.file_bytes,
        extents=checked.extents,
        program=program,
        logits=record.logits,
        plans=_plans(sections, program),
        images=_images(sections, len(program.kernels)),
        meta=json.loads(sections[Kind.META]),
        tokenizer=sections[Kind.TOKENIZER],
        chat=sections[Kind.CHAT],
        tensor_offsets=tuple(segments[t.segment].offset + t.offset for t in tensors),
        tensor_segments=tuple(t.segment for t in tensors),
        segment_offsets=tuple(s.offset for s in segments),
    )


def _step(r: StepRecord) -> Step:
    form = FORMS[StepOp(r.op)]
    return Step(
        op=StepOp(r.op),
        inputs=tuple(buffer for buffer in (r.in0, r.in1, r.in2) if buffer != NONE),
        out=r.out,
        weight=r.weight,
        bias=r.bias,
        ints=(r.p0, r.p1, r.p2, r.p3, r.p4, r.p5)[: form.ints],
        floats=lay.FLOATS.unpack(r.floats)[: form.floats],
        layer=r.layer,
        kernel=r.kernel,
    )


def _plans(sections: dict[Kind, bytes], program: Program) -> tuple[Plan, ...]:
    placements = list(map(lay.PlacementRecord._make, lay.PLACEMENT.iter_unpack(sections[Kind.PLACEMENTS])))
    offsets = [offset for (offset,) in lay.OFFSET.iter_unpack(sections[Kind.OFFSETS])]
    events = list(map(lay.EventRecord._make, lay.EVENT.iter_unpack(sections[Kind.SCHEDULE])))
    segments, buffers, caches = len(program.segments), len(program.buffers), len(program.caches)
    plans = []
    for i, p in enumerate(map(lay.PlanRecord._make, lay.PLAN.iter_unpack(sections[Kind.PLANS]))):
        mine = offsets[i * (buffers + caches) : (i + 1) * (buffers + caches)]
        plan = Plan(
            arena_bytes=p.arena_bytes,
            vram_bytes=p.vram_bytes,
            context=p.context,
            batch=p.batch,
            head_batch=p.head_batch,
            placements=tuple(
                Placement(Tier(place.tier), place.offset, place.device)
                for place in placements[i * segments : (i + 1) * segments]
            ),
            buffer_offsets=tuple(mine[:buffers]),
            cache_offsets=tuple(mine[buffers:]),
            tokenizer_offset=p.tokenizer_offset,
            schedule=tuple(
                Event(Action(e.action), e.a, e.b, e.c) for e in events[p.first_event : p.first_event + p.event_count]
            ),
            disk_bytes_per_token=p.disk_bytes_per_token,
            decode_tokens_per_s=p.decode_tokens_per_s,
            prefill_tokens_per_s=p.prefill_tokens_per_s,
            first_token_s=p.first_token_s,
            disk_bytes_per_s=p.disk_bytes_per_s,
            read_bytes=p.read_bytes,
            reads_in_flight=p.reads_in_flight,
            experts_offset=p.experts_offset,
            expert_places=p.expert_places,
            card_batch=p.card_batch,
        )
        plans.append(plan)
    return tuple(plans)


def _images(sections: dict[Kind, bytes], kernels: int) -> tuple[KernelImage, ...]:
    table, code = sections[Kind.IMAGES], sections[Kind.CODE]
    count = lay.IMAGES_HEAD.unpack_from(table)[0]
    end = lay.IMAGES_HEAD.size + count * lay.IMAGE.size
    entries = [Entry(offset, Maker(maker)) for offset, maker, _ in lay.ENTRY.iter_unpack(table[end:])]
    return tuple(
        KernelImage(
            Isa(isa) if isa <= max(Isa) else GpuArch(isa),
            code[offset : offset + size],
            tuple(entries[i * kernels : (i + 1) * kernels]),
        )
        for i, (isa, _, offset, size, _) in enumerate(lay.IMAGE.iter_unpack(table[lay.IMAGES_HEAD.size : end]))
    )
