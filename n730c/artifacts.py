"""Frozen values that cross borders between the compiler's parts: the program, the plans, the kernels.

They mirror the records of runtime/FORMAT.md one to one; ``package.py`` turns them into bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from n730c.dtypes import GROUP, Format, matrix_bytes, round_up, vector_bytes

PAGE = 4096  # bytes; segments, and what lies in the arena for them, are aligned to it
PIECE = 256 << 10  # bytes; segments are checked in pieces of this size
NONE = 0xFFFFFFFF  # "no operand" in u32 fields


class StepOp(IntEnum):
    """What the runtime can do; numbers and operands as in FORMAT.md, section Steps."""

    EMBED = 1
    RMS_NORM = 2
    QUANTIZE = 3
    LINEAR = 4
    ROPE_TABLE = 5
    ROPE = 6
    KV_STORE = 7
    ATTENTION = 8
    SILU_MUL = 9
    ADD = 10
    MUL = 11
    SILU = 12
    ROUTE = 13
    ZERO = 14
    EXPERT = 15
    COMBINE = 16
    GATE = 17
    UNARY = 18
    LAYER_NORM = 19


class UnaryFunction(IntEnum):
    """What UNARY computes of each element; SCALE and SOFTCAP with a number."""

    GELU = 1
    GELU_TANH = 2
    RELU = 3
    RELU_SQUARED = 4
    SCALE = 5
    SOFTCAP = 6


class BufferKind(IntEnum):
    F32 = 0
    Q8 = 1
    Q16 = 2  # two Q8: the second is of what the first leaves over


class Scope(IntEnum):
    """How many tokens a buffer holds: the prefill batch (BODY) or the head's batch (HEAD)."""

    BODY = 0
    HEAD = 1


class Tier(IntEnum):
    """Where a segment lives while the model runs (FORMAT.md, PLACEMENTS)."""

    RAM = 0  # read once
    STREAM = 1  # read in every pass, into its place in the ring
    VRAM = 2  # read once, to the graphics card, which computes all that uses it
    ROWS = 3  # an embedding of which only the rows that are asked for are read
    EXPERT = 4  # read when a token chooses it, into a place of the cache of experts


class Isa(IntEnum):
    """Instruction-set levels of a flat kernel image. Each holds all before it: a CPU runs its own and those below."""

    SSE2 = 0  # every x86-64
    SSSE3 = 1  # Core 2, Nehalem (SSE4.2 adds nothing that the kernels use)
    AVX = 2  # 256 bits of floats, 128 of integers (Sandy Bridge)
    AVX2 = 3  # AVX2 + FMA + F16C (Haswell)
    AVX512 = 4  # AVX-512 F, BW, DQ, VL and VNNI (Ice Lake, Zen 4)


class GpuArch(IntEnum):
    """Architectures of graphics cards. An image for one is a cubin, whose kernels are found by name."""

    PTX = 30  # none: text that the driver compiles for any card from sm_35 on
    SM_35 = 35  # Kepler GK110, GK208
    SM_50 = 50  # Maxwell
    SM_52 = 52
    SM_61 = 61  # Pascal


class Maker(IntEnum):
    NONE = 0
    TEMPLATE = 1
    TVM = 2


@dataclass(frozen=True)
class Tensor:
    """A stored tensor. ``rows``/``cols`` are logical; vectors have ``rows == 1`` and format F32."""

    name: str
    format: Format
    rows: int
    cols: int
    is_vector: bool

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return vector_bytes(self.cols) if self.is_vector else matrix_bytes(self.format, self.rows, self.cols)


def block_name(name: str, first: int, last: int) -> str:
    """The name of rows ``first`` to ``last`` (exclusive) of a tensor that is stored in parts."""
    return f"{name}[{first}:{last}]"


def split_block_name(name: str) -> tuple[str, slice]:
    """The tensor and the rows that a stored tensor's name stands for."""
    match = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", name)
    return (match[1], slice(int(match[2]), int(match[3]))) if match else (name, slice(None))


@dataclass(frozen=True)
class Segment:
    """Consecutive tensors, read in one go. ``size``: bytes in the file, a multiple of 4096."""

    first_tensor: int
    tensor_count: int
    size: int


def segment_layout(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], int]:
    """Where each tensor of one segment starts (bytes, multiples of 64) and the segment's size (a multiple of 4096)."""
    offsets, end = [], 0
    for tensor in tensors:
        start = round_up(end, 64)
        offsets.append(start)
        end = start + tensor.size
    return tuple(offsets), round_up(end, PAGE)


@dataclass(frozen=True)
class Buffer:
    """An activation buffer. ``width``: elements a token."""

    kind: BufferKind
    scope: Scope
    width: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one token, rounded up to 64. Q8: int8 values (padded to 32), f32 scales, i32 sums; Q16: twice."""
        if self.kind is BufferKind.F32:
            return round_up(self.width * 4, 64)
        padded = round_up(self.width, GROUP)
        return round_up(padded + 8 * (padded // GROUP), 64) * (2 if self.kind is BufferKind.Q16 else 1)


BLOCK = 64  # positions that attention takes at once; a cache that is used in turn holds whole blocks
CACHE_FORMATS = (Format.F32, Format.F16, Format.INT8)


@dataclass(frozen=True)
class Cache:
    """The KV cache of one attention: K then V, each [kv_heads][positions][head_dim], INT8 with an f32 scale a row."""

    kv_heads: int
    head_dim: int
    window: int = 0  # 0: the whole context
    format: Format = Format.F16

    @property
    def position_bytes(self) -> int:
        """Bytes of K and V of one position."""
        row = self.head_dim * (self.format.bits // 8) + (4 if self.format is Format.INT8 else 0)
        return 2 * self.kv_heads * row

    def positions(self, context: int, batch: int) -> int:
        """Rows that are kept: all, or the window and the batch that is being stored, in turn."""
        return min(context, round_up(self.window + batch, BLOCK)) if self.window else context

    def size(self, context: int, batch: int) -> int:
        """Bytes for ``context`` tokens that come at most ``batch`` at a time."""
        return round_up(self.positions(context, batch) * self.position_bytes, 64)


@dataclass(frozen=True)
class Step:
    op: StepOp
    inputs: tuple[int, ...] = ()  # up to three buffer ids
    out: int = NONE
    weight: int = NONE
    bias: int = NONE
    ints: tuple[int, ...] = ()  # up to six
    floats: tuple[float, ...] = ()  # up to four
    layer: int = NONE
    kernel: int = NONE  # index into Program.kernels


@dataclass(frozen=True)
class KernelSpec:
    """One kernel that an image may provide: all steps with this op, format and shape share it."""

    op: StepOp
    format: Format  # of the weight; F32 where there is none
    rows: int
    cols: int


@dataclass(frozen=True)
class Program:
    """What to compute, with no word about where things live. Steps from ``head_first`` on run per HEAD batch."""

    tensors: tuple[Tensor, ...]
    segments: tuple[Segment, ...]
    buffers: tuple[Buffer, ...]
    caches: tuple[Cache, ...]
    steps: tuple[Step, ...]
    kernels: tuple[KernelSpec, ...]
    head_first: int
    vocab: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of file a matrix weight costs on average, scales and padding included; 0 without matrices."""
        matrices = [t for t in self.tensors if not t.is_vector]
        weights = sum(t.rows * t.cols for t in matrices)
        return 8 * sum(t.size for t in matrices) / weights if weights else 0.0


@dataclass(frozen=True)
class Placement:
    """Where one segment lives. ``offset``: bytes into the arena of its tier (RAM: the arena)."""

    tier: Tier
    offset: int
    device: int = 0


class Action(IntEnum):
    """Kinds of schedule entries. LOAD runs once before the first token, READs again in every pass over the body."""

    LOAD = 1  # a: segment
    RUN = 2  # a: first step, b: count
    READ = 3  # a: segment, b: lead: it may begin when all reads more than b - 1 before it are released
    WAIT = 4  # a: segment
    CARD = 5  # a: LINEAR step, b: its first tiles, which the graphics card computes, c: further ones, of batches only


@dataclass(frozen=True)
class Event:
    action: Action
    a: int
    b: int = 0
    c: int = 0


OVERHEAD = 12 << 20  # bytes that n730-exec may take beside the arena


@dataclass(frozen=True)
class Plan:
    """One way to run the program within one memory size. All sizes and offsets in bytes."""

    arena_bytes: int
    vram_bytes: int
    context: int
    batch: int  # tokens of one prefill pass
    head_batch: int  # tokens whose logits are computed at once
    placements: tuple[Placement, ...]  # one a segment
    buffer_offsets: tuple[int, ...]
    cache_offsets: tuple[int, ...]
    tokenizer_offset: int
    schedule: tuple[Event, ...]
    disk_bytes_per_token: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    disk_bytes_per_s: float = 0.0  # what the plan counts on
    read_bytes: int = PIECE  # of one read
    reads_in_flight: int = 1
    experts_offset: int = 0  # of the cache of experts, in the arena
    expert_places: int = 0  # each as large as the largest segment of tier EXPERT
    card_batch: int = 0  # tokens at once from which on the card also computes what has to be brought to it; 0: never

    @property
    def ram_bytes(self) -> int:
        """What the whole process takes at most."""
        return self.arena_bytes + OVERHEAD


@dataclass(frozen=True)
class Entry:
    """Where a kernel starts in an image, and who made it; ``offset == NONE``: the image has none."""

    offset: int = NONE
    maker: Maker = Maker.NONE


@dataclass(frozen=True)
class KernelImage:
    """A flat, position-independent image, or a cubin. ``entries`` has one Entry a ``Program.kernels`` element.

    A cubin's are all NONE: its kernels have names (runtime/FORMAT.md, IMAGES) and serve every step.
    """

    isa: Isa | GpuArch
    code: bytes
    entries: tuple[Entry, ...]
