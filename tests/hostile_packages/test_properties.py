"""What must hold of any damage to a package: refused, never a crash, and by both validators for the same reason."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n730c.package import validate
from n730c.package.layout import Kind
from tests.hostile_packages.cases import FLOAT, PLAIN, RICH, good
from tests.hostile_packages.forge import RECORDS, U64, Forge
from tests.hostile_packages.judge import Harness, build_harness, compiler_says


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing: it builds the harness of the runtime's validator")
    harness = Harness(build_harness())
    yield harness
    harness.close()


def test_cut_at_every_byte(harness: Harness) -> None:
    data = good(PLAIN)
    assert harness.says(data) == "OK"
    assert harness.cut_everywhere() == {"E_TRUNCATED": len(data)}
    assert Counter(compiler_says(data[:size]) for size in range(len(data))) == {"E_TRUNCATED": len(data)}


def test_every_bit_flipped_before_the_segments(harness: Harness) -> None:
    data = good(PLAIN)
    end = Forge(data).first_segment
    assert harness.says(data) == "OK"
    runtime = harness.flip_every_bit(end)
    assert set(runtime) == {"E_MAGIC", "E_HEADER_CHECKSUM", "E_SECTION", "E_SECTION_CHECKSUM"}
    tokenizer = Forge(data).offset(Kind.TOKENIZER)  # large and of no structure before its checksum: one bit a byte
    bits = [*range(8 * tokenizer), *range(8 * tokenizer, 8 * end, 9)]
    damaged = bytearray(data)
    compiler: Counter[str] = Counter()
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
        compiler[compiler_says(damaged)] += 1
        damaged[bit // 8] ^= 1 << bit % 8
    assert set(compiler) == set(runtime)
    assert sum(compiler.values()) == len(bits)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_bit_flipped_in_a_segment(harness: Harness, data: st.DataObject) -> None:
    package = bytearray(good(FLOAT))
    bit = data.draw(st.integers(8 * Forge(good(FLOAT)).first_segment, 8 * len(package) - 1))
    package[bit // 8] ^= 1 << bit % 8
    assert compiler_says(bytes(package)) == harness.says(bytes(package)) == "E_SEGMENT_CHECKSUM"


_LIMITS = [
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    64,
    255,
    256,
    4096,
    65535,
    65536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 46,
]
_LIMITS += [U64, U64 - 63, U64 - 4095, 1 << 63]
_FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, 3e38])


@st.composite
def forged(draw: st.DrawFn) -> bytes:
    """A right package with a few fields changed to what breaks parsers: limits, neighbours' values, one more."""
    forge = Forge(good(draw(st.sampled_from((PLAIN, RICH, FLOAT)))))
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from([*RECORDS, Kind.OFFSETS, Kind.IMAGES]))
        if kind not in RECORDS:
            section = forge.sections[kind]
            at = draw(st.integers(0, len(section) // 4 - 1)) * 4
            forge.poke(kind, at, struct.pack(">I", draw(st.sampled_from([v for v in _LIMITS if v < 1 << 32]))))
            continue
        index = draw(st.integers(0, forge.count(kind) - 1))
        record = forge.record(kind, index)
        name = draw(st.sampled_from(record._fields))
        value = getattr(record, name)
        changed: object
        if isinstance(value, bytes) and name == "floats":
            changed = struct.pack(">4f", *draw(st.tuples(_FLOATS, *[st.sampled_from([0.0, 0.0, 0.0, -0.0])] * 3)))
        elif isinstance(value, bytes):
            changed = draw(st.binary(min_size=len(value), max_size=len(value)))
        elif isinstance(value, float):
            changed = draw(_FLOATS)
        else:
            other = getattr(forge.record(kind, draw(st.integers(0, forge.count(kind) - 1))), name)
            near = [v for v in (value - 1, value + 1, value - 64, value + 64, 2 * value, other) if v >= 0]
            changed = draw(st.sampled_from([*near, *_LIMITS]))
        with contextlib.suppress(struct.error, OverflowError):  # the field may be too narrow for this value
            forge.edit(kind, index, **{name: changed})
    return forge.build()


@given(forged())
@settings(max_examples=1000, deadline=None)
def test_both_validators_agree(harness: Harness, package: bytes) -> None:
    assert compiler_says(package) == harness.says(package)


@given(st.sampled_from([Kind.META, Kind.NAMES, Kind.TOKENIZER, Kind.CHAT]), st.data())
@settings(max_examples=300, deadline=None)
def test_both_validators_agree_on_text(harness: Harness, kind: Kind, data: st.DataObject) -> None:
    forge = Forge(good(PLAIN))
    section = forge.sections[kind]
    at = data.draw(st.integers(0, min(len(section), 400)))
    end = data.draw(st.integers(at, min(len(section), at + 8)))
    text = data.draw(st.one_of(st.binary(max_size=8), st.text('{}[]",:\\u0d8e+-.tfn \n', max_size=8).map(str.encode)))
    section[at:end] = text
    package = forge.build()
    assert compiler_says(package) == harness.says(package)


def test_same_answer_from_a_file_object_and_a_path(tmp_path: Path) -> None:
    file = tmp_path / "good.n730"
    file.write_bytes(good())
    validate(file, full=True)
    validate(io.BytesIO(good()), full=True)
