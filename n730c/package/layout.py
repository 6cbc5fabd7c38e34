"""The bytes of a package as runtime/FORMAT.md states them: sections, their limits, and one tuple a record."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

MAGIC = b"\x89N730\r\n\x1a"
VERSION = (1, 0)
HEADER_BYTES = 4096
SECTION_ALIGN = 64
MAX_DIM = 1 << 24  # rows, columns, widths, positions
MAX_ARENA = 1 << 46
MAX_READ = 1 << 26  # bytes of one read
MAX_PLACES = 1 << 16  # for experts
MAX_LEAD = 64  # reads that may be begun before their forerunners are used up; also most reads in flight

HEADER = Struct(">8sHHIQII")  # magic, major, minor, header size, file size, section count, reserved
SECTION = Struct(">IIQQQ")  # kind, reserved, offset, size, XXH3
SECTION_COUNT = 18
SECTION_TABLE_END = HEADER.size + SECTION_COUNT * SECTION.size
HEADER_HASHED = HEADER_BYTES - 8  # the rest is the XXH3 of what is before


class Kind(IntEnum):
    """Sections, in file order."""

    META = 1
    NAMES = 2
    TENSORS = 3
    SEGMENTS = 4
    BUFFERS = 5
    CACHES = 6
    STEPS = 7
    PROGRAM = 8
    PLANS = 9
    PLACEMENTS = 10
    OFFSETS = 11
    SCHEDULE = 12
    KERNELS = 13
    IMAGES = 14
    CODE = 15
    TOKENIZER = 16
    CHAT = 17
    SUMS = 18


class Limit(NamedTuple):
    record: int  # bytes
    least: int  # records
    most: int


LIMITS: dict[Kind, Limit] = {
    Kind.META: Limit(1, 0, 16 << 20),
    Kind.NAMES: Limit(1, 0, 16 << 20),
    Kind.TENSORS: Limit(64, 0, 1_000_000),
    Kind.SEGMENTS: Limit(32, 1, 1_000_000),
    Kind.BUFFERS: Limit(16, 1, 65_536),
    Kind.CACHES: Limit(16, 0, 65_536),
    Kind.STEPS: Limit(96, 1, 1_000_000),
    Kind.PROGRAM: Limit(32, 1, 1),
    Kind.PLANS: Limit(128, 1, 64),
    Kind.PLACEMENTS: Limit(16, 1, 4_000_000),
    Kind.OFFSETS: Limit(8, 1, 64 * 2 * 65_536),
    Kind.SCHEDULE: Limit(16, 0, 4_000_000),
    Kind.KERNELS: Limit(32, 0, 65_536),
    Kind.IMAGES: Limit(1, 16, 16 << 20),
    Kind.CODE: Limit(1, 0, 256 << 20),
    Kind.TOKENIZER: Limit(1, 0, 256 << 20),
    Kind.CHAT: Limit(1, 0, 1 << 20),
    Kind.SUMS: Limit(8, 1, 1 << 24),
}


class TensorRecord(NamedTuple):
    name_offset: int
    name_length: int
    format: int
    layout: int  # 0 vector, 1 tiled matrix
    rows: int
    cols: int
    segment: int
    zero: int
    offset: int  # bytes from the start of the segment
    size: int
    zeros: bytes


class SegmentRecord(NamedTuple):
    offset: int  # bytes from the start of the file
    size: int
    first_sum: int  # index into SUMS
    first_tensor: int
    tensor_count: int


class BufferRecord(NamedTuple):
    kind: int
    scope: int
    zero: int
    width: int
    zeros: int


class CacheRecord(NamedTuple):
    kv_heads: int
    head_dim: int
    window: int
    format: int
    zeros: bytes


class StepRecord(NamedTuple):
    op: int
    zero: int
    layer: int
    kernel: int
    in0: int
    in1: int
    in2: int
    out: int
    weight: int
    bias: int
    p0: int
    p1: int
    p2: int
    p3: int
    p4: int
    p5: int
    floats: bytes  # 4 x f32; raw, because unused ones are zero to the bit
    zeros: bytes


class ProgramRecord(NamedTuple):
    head_first: int
    logits: int
    vocab: int
    zeros: bytes


class PlanRecord(NamedTuple):
    arena_bytes: int
    vram_bytes: int
    context: int
    batch: int
    head_batch: int
    card_batch: int
    tokenizer_offset: int
    first_event: int
    event_count: int
    disk_bytes_per_token: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    disk_bytes_per_s: float
    read_bytes: int
    reads_in_flight: int
    experts_offset: int
    expert_places: int
    zeros: bytes


class PlacementRecord(NamedTuple):
    tier: int
    device: int
    zero: int
    zeros: int
    offset: int


class EventRecord(NamedTuple):
    action: int
    zero: int
    a: int
    b: int
    c: int


class KernelRecord(NamedTuple):
    op: int
    format: int
    zero: int
    rows: int
    cols: int
    zeros: bytes


class ImageRecord(NamedTuple):
    isa: int
    zero: int
    offset: int  # bytes from the start of CODE
    size: int
    zeros: int


class EntryRecord(NamedTuple):
    offset: int
    maker: int
    zeros: bytes


TENSOR = Struct(">IHBBIIIIQQ24s")
SEGMENT = Struct(">QQQII")
BUFFER = Struct(">BBHIQ")
CACHE = Struct(">IIIB3s")
STEP = Struct(">HHIIIIIIII6i16s20s")
FLOATS = Struct(">4f")
PROGRAM = Struct(">III20s")
PLAN = Struct(">QQIIIIQIIQddddIIQI20s")
PLACEMENT = Struct(">BBHIQ")
OFFSET = Struct(">Q")
EVENT = Struct(">HHIII")
SUM = Struct(">Q")
KERNEL = Struct(">HBBII20s")
IMAGES_HEAD = Struct(">IIQ")  # count, reserved, reserved
IMAGE = Struct(">IIQQQ")
ENTRY = Struct(">IB3s")
