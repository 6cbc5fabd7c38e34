"""Named hostile packages: what each tries, and the code that must refuse it.

Every lie but those about checksums is told with checksums that fit, so that the rule itself is what refuses it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

from n730c.artifacts import NONE, PIECE, Action, Isa, StepOp, Tier
from n730c.chat_format import BUILTINS, ChatProgram, Op, write_chat
from n730c.dtypes import Format
from n730c.package.layout import Kind
from tests.hostile_packages.forge import U64, Forge, in_header, in_section_table, reseal
from tests.tiny_package import TINY_CHAT, Shape, tiny

PLAIN = Shape(
    format=Format.INT2, layers=1, hidden=16, heads=2, kv_heads=1, head_dim=8, ffn=8, vocab=260, context=8, batch=2
)
RICH = replace(PLAIN, format=Format.INT4, layers=2, images=(Isa.SSE2, Isa.AVX2), contexts=(4,), tied=True)
FLOAT = replace(PLAIN, format=Format.BF16, split_silu=True)
EXPERTS = replace(PLAIN, format=Format.INT4, layers=2, experts=3, places=2)
OTHER = replace(PLAIN, format=Format.BF16, other_ops=True)
CARD = replace(RICH, blocks=True, contexts=(), card=1)
BATCHES = replace(CARD, card=0, crossing=1, card_batch=2)
STREAMED = replace(PLAIN, window=3, layers=3, ffn=40, slots=2, rows=True, blocks=True)


class Case(NamedTuple):
    name: str
    code: str
    make: Callable[[], bytes]


@cache
def good(shape: Shape = RICH) -> bytes:
    """A package that both validators accept."""
    with TemporaryDirectory() as folder:
        return tiny(shape).write(Path(folder) / "good.n730").read_bytes()


def cases() -> Iterator[Case]:
    """All of them, in the order of FORMAT.md, section 5."""
    for group in (
        _file,
        _sections,
        _meta,
        _tensors,
        _segments,
        _buffers,
        _steps,
        _program,
        _plans,
        _streams,
        _card,
        _experts,
        _kernels,
        _rest,
    ):
        yield from group()


def _edited(name: str, code: str, kind: Kind, index: int, shape: Shape = RICH, /, **fields: Any) -> Case:
    return Case(name, code, lambda: Forge(good(shape)).edit(kind, index, **fields).build())


def _bytes(name: str, code: str, data: bytes) -> Case:
    return Case(name, code, lambda: data)


def _forged(name: str, code: str, lie: Callable[[Forge], object], shape: Shape = RICH) -> Case:
    def make() -> bytes:
        forge = Forge(good(shape))
        lie(forge)
        return forge.build()

    return Case(name, code, make)


def _file() -> Iterator[Case]:
    data = good()
    yield _bytes("empty_file", "E_TRUNCATED", b"")
    yield _bytes("seven_bytes_of_magic", "E_TRUNCATED", data[:7])
    yield _bytes("another_kind_of_file", "E_MAGIC", b"\x7fELF\x02\x01\x01\x00" + bytes(5000))
    yield _bytes("text_mode_transfer_turned_crlf_to_lf", "E_MAGIC", data.replace(b"\r\n", b"\n"))
    yield _bytes("cut_in_the_header", "E_TRUNCATED", data[:4095])
    yield _bytes("only_the_header", "E_TRUNCATED", data[:4096])
    yield _bytes("cut_in_the_last_segment", "E_TRUNCATED", data[:-1])
    yield _bytes("one_byte_too_many", "E_HEADER", data + b"\0")
    yield _bytes("header_checksum_of_zeros", "E_HEADER_CHECKSUM", data[:4088] + bytes(8) + data[4096:])
    yield _bytes("next_major_version", "E_VERSION", in_header(data, 8, b"\0\2"))
    yield _bytes("next_minor_version", "E_VERSION", in_header(data, 10, b"\0\1"))
    yield _bytes("header_size_of_zero", "E_HEADER", in_header(data, 12, bytes(4)))
    yield _bytes("file_size_too_small", "E_HEADER", in_header(data, 16, struct.pack(">Q", len(data) - 4096)))
    yield _bytes("file_size_of_2_to_the_64", "E_TRUNCATED", in_header(data, 16, b"\xff" * 8))
    yield _bytes("sixteen_sections", "E_HEADER", in_header(data, 24, struct.pack(">I", 16)))
    yield _bytes("four_billion_sections", "E_HEADER", in_header(data, 24, b"\xff" * 4))
    yield _bytes("message_in_reserved_header_bytes", "E_HEADER", in_header(data, 608, b"hello"))
    yield _bytes("message_in_the_reserved_word", "E_HEADER", in_header(data, 28, b"\0\0\0\1"))


def _sections() -> Iterator[Case]:
    data = good()
    first = struct.unpack_from(">IIQQQ", data, 32)
    meta_end = first[2] + first[3]

    def table(name: str, kind: Kind, **fields: int) -> Case:
        return _bytes(name, "E_SECTION", in_section_table(data, kind, **fields))

    yield table("section_kind_twice", Kind.NAMES, number=1)
    yield table("section_kind_unknown", Kind.CHAT, number=99)
    yield table("section_reserved_word", Kind.CHAT, reserved=1)
    yield table("sections_overlap", Kind.NAMES, offset=4096)
    yield table("section_in_the_header", Kind.META, offset=0)
    yield table("section_not_aligned", Kind.NAMES, offset=4097)
    yield table("section_offset_beyond_the_file", Kind.META, offset=1 << 40)
    yield table("section_offset_plus_size_overflows", Kind.CODE, size=U64 - 63)
    yield table("section_reaches_beyond_the_file", Kind.CHAT, size=1 << 19)
    yield table("tensors_of_a_size_that_does_not_divide", Kind.TENSORS, size=65)
    yield table("two_programs", Kind.PROGRAM, size=64)
    yield table("no_program", Kind.PROGRAM, size=0)
    yield table("no_steps", Kind.STEPS, size=0)
    yield table("no_plans", Kind.PLANS, size=0)
    yield table("no_segments", Kind.SEGMENTS, size=0)
    yield table("images_without_their_head", Kind.IMAGES, size=8)
    yield table("two_hundred_million_tensors", Kind.TENSORS, size=200_000_000 * 64)
    yield table("names_of_a_terabyte", Kind.NAMES, size=1 << 40)
    for kind, record in ((Kind.PLACEMENTS, 16), (Kind.OFFSETS, 8)):
        yield _forged(
            f"{kind.name.lower()}_too_few",
            "E_SECTION",
            lambda f, k=kind, r=record: f.sections[k].__delitem__(slice(-r, None)),
        )
        yield _forged(
            f"{kind.name.lower()}_too_many", "E_SECTION", lambda f, k=kind, r=record: f.sections[k].extend(bytes(r))
        )
    yield _forged("sixty_five_plans", "E_SECTION", lambda f: f.replace(Kind.PLANS, bytes(65 * 128)))
    yield _forged("chat_template_of_two_megabytes", "E_SECTION", lambda f: f.replace(Kind.CHAT, b" " * (2 << 20)))
    yield _forged("kernels_too_many", "E_SECTION", lambda f: f.replace(Kind.KERNELS, bytes(32 * 65_537)))
    assert meta_end % 64, "the base package must have padding after META"
    yield _bytes("message_in_padding_between_sections", "E_SECTION", data[:meta_end] + b"!" + data[meta_end + 1 :])
    start = Forge(data).first_segment
    yield _bytes("message_in_padding_before_segments", "E_SECTION", data[: start - 1] + b"!" + data[start:])
    yield _bytes(
        "byte_of_a_name_changed",
        "E_SECTION_CHECKSUM",
        data.replace(b"lm_head", b"lm_heab").replace(b"embed_tokens", b"embed_tokenz"),
    )
    yield _bytes("checksum_of_a_section_changed", "E_SECTION_CHECKSUM", in_section_table(data, Kind.CODE, hash=0))


def _meta() -> Iterator[Case]:
    texts = {
        "empty": b"",
        "no_object": b"[1]",
        "a_bare_string": b'"{}"',
        "not_utf8": b'{"a":"\xff"}',
        "overlong_utf8": b'{"a":"\xc0\xaf"}',
        "utf8_surrogate": b'{"a":"\xed\xa0\x80"}',
        "utf16": '{"a":1}'.encode("utf-16"),
        "byte_order_mark": b"\xef\xbb\xbf{}",
        "trailing_comma": b'{"a":1,}',
        "two_objects": b"{}{}",
        "zero_byte_behind": b"{}\0",
        "comment": b"{} // hello",
        "single_quotes": b"{'a':1}",
        "cut": b'{"a":',
        "nan": b'{"a":NaN}',
        "infinity": b'{"a":-Infinity}',
        "number_beyond_doubles": b'{"a":1e999}',
        "integer_beyond_doubles": b'{"a":' + b"9" * 400 + b"}",
        "integer_of_a_million_digits": b'{"a":' + b"9" * 1_000_000 + b"}",
        "leading_zero": b'{"a":01}',
        "lone_surrogate": b'{"a":"\\ud800"}',
        "lone_low_surrogate": b'{"\\udc00":1}',
        "control_character": b'{"a":"\n"}',
        "bad_escape": b'{"a":"\\x41"}',
        "nested_65_deep": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        "nesting_bomb": b'{"a":' * 1_000_000,
        "array_bomb": b"[" * 10_000_000,
        "unclosed_string_of_quotes": b'{"' + b'\\"' * 1_000_000,
        "closing_brackets_first": b"]" * 100_000 + b"[" * 100_000,
    }
    for name, text in texts.items():
        yield _forged(f"meta_{name}", "E_META", lambda f, t=text: f.replace(Kind.META, t))


def _tensors() -> Iterator[Case]:
    tensors = Kind.TENSORS
    vector = next(i for i in range(99) if Forge(good()).record(tensors, i).layout == 0)
    first = Forge(good()).record(tensors, 0)
    for name, fields in {
        "name_starts_late": {"name_offset": 1},
        "name_of_no_bytes": {"name_length": 0},
        "name_outside_names": {"name_length": 65535},
        "name_offset_outside_names": {"name_offset": NONE},
        "format_unknown": {"format": max(Format) + 1},
        "format_f32_in_a_matrix": {"format": 0},
        "size_of_another_format": {"format": Format.INT8},
        "size_of_a_format_with_super_blocks": {"format": Format.INT6},
        "layout_unknown": {"layout": 2},
        "matrix_called_a_vector": {"layout": 0},
        "no_rows": {"rows": 0},
        "no_columns": {"cols": 0},
        "four_billion_rows": {"rows": NONE},
        "four_billion_columns": {"cols": NONE},
        "rows_one_over_the_limit": {"rows": (1 << 24) + 1},
        "size_zero": {"size": 0},
        "size_of_2_to_the_64": {"size": U64},
        "size_one_tile_short": {"size": first.size - 64},
        "rows_do_not_match_size": {"rows": first.rows + 16},
        "segment_unknown": {"segment": 99},
        "offset_not_aligned": {"offset": 32},
        "reserved_word": {"zero": 1},
        "reserved_bytes": {"zeros": bytes(23) + b"\1"},
    }.items():
        yield _edited(f"tensor_{name}", "E_TENSOR", tensors, 0, **fields)
    yield _edited("tensor_vector_of_two_rows", "E_TENSOR", tensors, vector, rows=2)
    yield _edited("tensor_vector_of_f16", "E_TENSOR", tensors, vector, format=1)
    yield _edited("tensor_names_overlap", "E_TENSOR", tensors, 1, name_offset=0)
    yield _forged("names_not_utf8", "E_TENSOR", lambda f: f.poke(Kind.NAMES, 0, b"\xff"))
    yield _forged(
        "names_split_a_character", "E_TENSOR", lambda f: f.poke(Kind.NAMES, first.name_length - 1, b"\xc3\xa9")
    )
    yield _forged("names_with_bytes_left_over", "E_TENSOR", lambda f: f.sections[Kind.NAMES].extend(b"x"))
    yield _forged("no_tensors", "E_TENSOR", lambda f: f.replace(tensors, b""))


def _segments() -> Iterator[Case]:
    segments, tensors = Kind.SEGMENTS, Kind.TENSORS
    forge = Forge(good())
    s0, s1 = forge.record(segments, 0), forge.record(segments, 1)
    for name, fields in {
        "in_the_header": {"offset": 0},
        "offset_beyond_the_file": {"offset": U64 - 4095},
        "leaves_a_gap": {"offset": s0.offset + 4096},
        "of_no_bytes": {"size": 0},
        "of_half_a_page": {"size": s0.size - 2048},
        "of_2_to_the_64_bytes": {"size": U64 - 4095},
        "eats_the_next_one": {"size": s0.size + s1.size},
        "starts_at_the_second_tensor": {"first_tensor": 1},
        "without_tensors": {"tensor_count": 0},
        "takes_the_next_ones_tensors": {"tensor_count": s0.tensor_count + 1},
        "of_four_billion_tensors": {"tensor_count": NONE},
        "with_sums_of_another": {"first_sum": 1},
        "with_sums_that_overflow": {"first_sum": U64},
    }.items():
        yield _edited(f"segment_{name}", "E_SEGMENT", segments, 0, **fields)
    yield _edited("segments_overlap", "E_SEGMENT", segments, 1, offset=s0.offset)
    yield _forged("sums_one_short", "E_SEGMENT", lambda f: f.sections[Kind.SUMS].__delitem__(slice(-8, None)))
    yield _forged("sums_of_no_piece", "E_SEGMENT", lambda f: f.sections[Kind.SUMS].extend(bytes(8)))
    last = forge.count(segments) - 1
    left = forge.record(segments, last).tensor_count - 1
    yield _edited("segments_leave_a_tensor_out", "E_SEGMENT", segments, last, tensor_count=left)
    yield _forged("bytes_behind_the_last_segment", "E_SEGMENT", lambda f: f.weights.extend(bytes(4096)))
    yield _forged("last_segment_missing", "E_SEGMENT", lambda f: f.weights.__delitem__(slice(-4096, None)))
    yield _forged("no_segment_bytes_at_all", "E_SEGMENT", lambda f: f.weights.clear())
    yield _edited("tensor_in_another_segment", "E_SEGMENT", tensors, 0, segment=1)
    yield _edited("tensors_overlap", "E_SEGMENT", tensors, 1, offset=forge.record(tensors, 1).offset - 64)
    yield _edited("tensor_at_the_end_of_its_segment", "E_SEGMENT", tensors, 0, offset=s0.size)
    yield _edited("tensor_offset_plus_size_overflows", "E_SEGMENT", tensors, 0, offset=U64 - 63)


def _buffers() -> Iterator[Case]:
    for name, fields in {
        "kind_unknown": {"kind": 3},
        "scope_unknown": {"scope": 2},
        "of_no_width": {"width": 0},
        "of_four_billion_elements": {"width": NONE},
        "reserved_word": {"zero": 1},
        "reserved_bytes": {"zeros": 1},
    }.items():
        yield _edited(f"buffer_{name}", "E_BUFFER", Kind.BUFFERS, 0, **fields)
    for name, fields in {
        "without_heads": {"kv_heads": 0},
        "of_too_many_heads": {"kv_heads": 65537},
        "of_no_head_dim": {"head_dim": 0},
        "of_ragged_head_dim": {"head_dim": 12},
        "of_huge_head_dim": {"head_dim": 1032},
        "with_a_window_of_four_billion": {"window": NONE},
        "of_bf16": {"format": 2},
        "of_int4": {"format": 4},
        "reserved_bytes": {"zeros": b"\0\0\1"},
    }.items():
        yield _edited(f"cache_{name}", "E_CACHE", Kind.CACHES, 0, **fields)


def _steps() -> Iterator[Case]:
    forge = Forge(good())
    buffers, tensors = forge.count(Kind.BUFFERS), forge.count(Kind.TENSORS)
    nan, inf = struct.pack(">4f", float("nan"), 0, 0, 0), struct.pack(">4f", float("inf"), 0, 0, 0)
    matrix, vector = 0, forge.record(Kind.STEPS, forge.step(StepOp.ROPE_TABLE)).weight
    other_layer = forge.record(Kind.STEPS, forge.step(StepOp.ADD, 3)).out
    logits = forge.record(Kind.PROGRAM, 0).logits
    head_first = forge.record(Kind.PROGRAM, 0).head_first
    op = StepOp
    plain: dict[StepOp, dict[str, dict[str, Any]]] = {
        op.EMBED: {
            "op_unknown": {"op": 99},
            "of_what_nobody_knows": {"p0": 2},
            "of_negative_kind": {"p0": -1},
            "op_zero": {"op": 0},
            "op_of_another_shape": {"op": op.LINEAR},
            "reserved_word": {"zero": 1},
            "reserved_bytes": {"zeros": b"\1" + bytes(19)},
            "reads_a_buffer": {"in0": 0},
            "without_output": {"out": NONE},
            "output_out_of_range": {"out": buffers},
            "output_too_narrow": {"out": 1},
            "weight_out_of_range": {"weight": tensors},
            "without_weight": {"weight": NONE},
            "weight_is_a_vector": {"weight": vector},
            "with_a_bias": {"bias": vector},
            "kernel_out_of_range": {"kernel": 999},
            "unused_integer": {"p5": 1},
            "unused_float": {"floats": bytes(15) + b"\1"},
            "negative_zero_in_an_unused_float": {"floats": b"\x80" + bytes(15)},
        },
        op.RMS_NORM: {
            "input_out_of_range": {"in0": buffers},
            "without_input": {"in0": NONE},
            "input_never_written": {"in0": other_layer},
            "second_input": {"in1": 0},
            "in_place": {"out": forge.record(Kind.STEPS, forge.step(op.RMS_NORM)).in0},
            "weight_is_a_matrix": {"weight": matrix},
            "eps_zero": {"floats": bytes(16)},
            "eps_negative": {"floats": struct.pack(">4f", -1e-5, 0, 0, 0)},
            "eps_nan": {"floats": nan},
            "writes_the_logits": {"out": logits},
        },
        op.QUANTIZE: {"of_another_width": {"out": other_layer}, "reads_the_int8": {"in0": 3}},
        op.LINEAR: {
            "reads_floats_for_integer_weights": {"in0": 0},
            "weight_of_another_shape": {"weight": matrix},
            "weight_is_a_vector": {"weight": vector},
            "bias_is_a_matrix": {"bias": matrix},
            "bias_too_short": {"bias": vector},
            "bias_out_of_range": {"bias": tensors},
            "kernel_out_of_range": {"kernel": forge.count(Kind.KERNELS)},
        },
        op.ROPE_TABLE: {"scaling_infinite": {"floats": inf}, "weight_is_a_matrix": {"weight": matrix}},
        op.ROPE: {
            "without_heads": {"p0": 0},
            "of_negative_heads": {"p0": -2, "p1": -8},
            "heads_times_head_dim_overflows": {"p0": 1 << 30, "p1": 1 << 30},
            "of_odd_rotary_dim": {"p2": 7},
            "of_rotary_dim_zero": {"p2": 0},
            "rotary_dim_beyond_head_dim": {"p2": 16},
            "heads_too_wide": {"p0": 3},
            "table_too_narrow": {"p2": 4},
            "of_no_known_pairing": {"p3": 2},
            "of_negative_pairing": {"p3": -1},
            "writes_its_table": {"out": 1},
        },
        op.KV_STORE: {
            "cache_out_of_range": {"p0": 2},
            "cache_negative": {"p0": -1},
            "with_an_output": {"out": 0},
            "values_too_wide": {"in1": 0},
        },
        op.ATTENTION: {
            "cache_never_stored": {"p0": 1},
            "cache_out_of_range": {"p0": 1 << 30},
            "without_heads": {"p1": 0},
            "of_more_heads_than_its_input": {"p1": 4},
            "scale_nan": {"floats": nan},
            "cap_negative": {"floats": struct.pack(">4f", 0.25, -1, 0, 0)},
            "cap_infinite": {"floats": struct.pack(">4f", 0.25, float("inf"), 0, 0)},
            "third_float": {"floats": struct.pack(">4f", 0.25, 1, 1, 0)},
            "in_place": {"out": forge.record(Kind.STEPS, forge.step(op.ATTENTION)).in0},
        },
        op.SILU_MUL: {"inputs_of_different_widths": {"in1": 0}, "output_too_wide": {"out": other_layer}},
        op.ADD: {"third_input": {"in2": 0}, "reads_its_own_output_first": {"in0": other_layer}},
    }
    for step_op, lies in plain.items():
        for name, fields in lies.items():
            yield _edited(f"step_{step_op.name.lower()}_{name}", "E_STEP", Kind.STEPS, forge.step(step_op), **fields)
    yield _edited(
        "step_norm_writes_16_bits",
        "E_STEP",
        Kind.BUFFERS,
        forge.record(Kind.STEPS, forge.step(op.RMS_NORM)).out,
        kind=2,
    )
    last = forge.count(Kind.STEPS) - 1
    body = forge.record(Kind.STEPS, head_first - 1).out
    yield _edited("step_body_writes_a_head_buffer", "E_STEP", Kind.STEPS, head_first - 1, out=logits)
    yield _edited("step_head_writes_a_body_buffer", "E_STEP", Kind.STEPS, head_first, out=body - 3)
    yield _edited("step_attention_in_the_head", "E_STEP", Kind.PROGRAM, 0, head_first=forge.step(op.ATTENTION))
    yield _edited("step_embed_in_the_head", "E_STEP", Kind.PROGRAM, 0, head_first=0)
    yield _edited("step_head_runs_as_body", "E_STEP", Kind.PROGRAM, 0, head_first=last + 1)
    yield _edited("step_vocab_is_not_the_embeddings_rows", "E_STEP", Kind.PROGRAM, 0, vocab=100_000)
    bf16 = Forge(good(FLOAT))
    for step_op in (op.SILU, op.MUL):
        step = bf16.step(step_op)
        yield _edited(f"step_{step_op.name.lower()}_reads_another_width", "E_STEP", Kind.STEPS, step, FLOAT, in0=0)
    other = Forge(good(OTHER))
    unary, layer_norm = other.step(op.UNARY), other.step(op.LAYER_NORM)
    for name, at, fields in (
        ("unary_without_function", unary, {"p0": 0}),
        ("unary_of_an_unknown_function", unary, {"p0": 7}),
        ("unary_of_a_negative_function", unary, {"p0": -5}),
        ("unary_gelu_with_a_number", unary, {"floats": struct.pack(">4f", 1, 0, 0, 0)}),
        ("unary_softcap_of_zero", unary, {"p0": 6}),
        ("unary_softcap_negative", unary, {"p0": 6, "floats": struct.pack(">4f", -1, 0, 0, 0)}),
        ("unary_scale_nan", unary, {"p0": 5, "floats": nan}),
        ("unary_with_a_weight", unary, {"weight": 0}),
        ("unary_reads_another_width", unary, {"in0": 0}),
        (
            "layer_norm_weight_that_does_not_divide",
            layer_norm,
            {"weight": other.record(Kind.STEPS, layer_norm - 1).weight},
        ),
        ("layer_norm_weight_is_a_matrix", layer_norm, {"weight": 0}),
        ("layer_norm_bias_is_a_matrix", layer_norm, {"bias": 0}),
        ("layer_norm_bias_of_another_width", layer_norm, {"bias": vector}),
        ("layer_norm_bias_out_of_range", layer_norm, {"bias": 9999}),
        ("layer_norm_eps_zero", layer_norm, {"floats": bytes(16)}),
        ("layer_norm_in_place", layer_norm, {"out": other.record(Kind.STEPS, layer_norm).in0}),
    ):
        yield _edited(f"step_{name}", "E_STEP", Kind.STEPS, at, OTHER, **fields)
    yield _edited("step_bf16_linear_in_place", "E_STEP", Kind.STEPS, bf16.step(op.LINEAR), FLOAT, out=2)
    swapped = bytearray(forge.sections[Kind.STEPS])
    swapped[0:96], swapped[192:288] = swapped[192:288], swapped[0:96]
    yield _forged("steps_in_the_wrong_order", "E_STEP", lambda f: f.replace(Kind.STEPS, bytes(swapped)))
    yield _forged("caches_none_but_attention", "E_STEP", _without_caches)


def _without_caches(forge: Forge) -> None:
    forge.replace(Kind.CACHES, b"")
    offsets, buffers, plans = forge.sections[Kind.OFFSETS], forge.count(Kind.BUFFERS), forge.count(Kind.PLANS)
    each = len(offsets) // plans
    forge.replace(Kind.OFFSETS, b"".join(bytes(offsets[i * each : i * each + 8 * buffers]) for i in range(plans)))


def _program() -> Iterator[Case]:
    forge = Forge(good())
    record = forge.record(Kind.PROGRAM, 0)
    head_norm = forge.record(Kind.STEPS, record.head_first).out
    for name, fields in {
        "logits_out_of_range": {"logits": forge.count(Kind.BUFFERS)},
        "logits_nowhere": {"logits": NONE},
        "logits_are_a_body_buffer": {"logits": 0},
        "logits_of_another_width": {"logits": head_norm},
        "reserved_bytes": {"zeros": b"\1" + bytes(19)},
    }.items():
        yield _edited(f"program_{name}", "E_PROGRAM", Kind.PROGRAM, 0, **fields)

    def unwritten(f: Forge) -> None:  # a second buffer like the logits, which no step writes
        f.sections[Kind.BUFFERS] += bytes(f.sections[Kind.BUFFERS][16 * record.logits : 16 * record.logits + 16])
        each = len(f.sections[Kind.OFFSETS]) // f.count(Kind.PLANS)
        at = 8 * (f.count(Kind.BUFFERS) - 1)
        for plan in (1, 0):
            f.sections[Kind.OFFSETS][plan * each + at : plan * each + at] = bytes(8)
        f.edit(Kind.PROGRAM, 0, logits=f.count(Kind.BUFFERS) - 1)

    yield _forged("program_logits_never_written", "E_PROGRAM", unwritten)


def _plans() -> Iterator[Case]:
    forge = Forge(good())
    plan = forge.record(Kind.PLANS, 0)
    segments, steps = forge.count(Kind.SEGMENTS), forge.count(Kind.STEPS)
    for name, fields in {
        "arena_of_no_bytes": {"arena_bytes": 0},
        "arena_too_small": {"arena_bytes": plan.arena_bytes - 4096},
        "arena_not_of_pages": {"arena_bytes": plan.arena_bytes + 1},
        "arena_over_2_to_the_46": {"arena_bytes": (1 << 46) + 4096},
        "arena_of_2_to_the_64": {"arena_bytes": U64},
        "with_vram": {"vram_bytes": 4096},
        "vram_of_2_to_the_64": {"vram_bytes": U64},
        "without_context": {"context": 0},
        "context_too_long_for_its_cache": {"context": 9},
        "context_of_four_billion": {"context": NONE},
        "without_batch": {"batch": 0, "head_batch": 0},
        "batch_too_large": {"batch": 4097},
        "batch_overruns_the_buffers": {"batch": 64},
        "without_head_batch": {"head_batch": 0},
        "head_batch_over_batch": {"head_batch": plan.batch + 1},
        "card_batch_without_a_card": {"card_batch": 1},
        "reserved_bytes": {"zeros": bytes(19) + b"\1"},
        "disk_speed_nan": {"disk_bytes_per_s": float("nan")},
        "disk_speed_negative": {"disk_bytes_per_s": -1.0},
        "reads_of_no_bytes": {"read_bytes": 0},
        "reads_of_half_a_piece": {"read_bytes": PIECE // 2},
        "reads_of_four_billion_bytes": {"read_bytes": NONE - PIECE + 1},
        "no_reads_in_flight": {"reads_in_flight": 0},
        "65_reads_in_flight": {"reads_in_flight": 65},
        "tokenizer_outside_the_arena": {"tokenizer_offset": plan.arena_bytes},
        "tokenizer_offset_overflows": {"tokenizer_offset": U64 - 63},
        "tokenizer_on_the_weights": {"tokenizer_offset": 0},
        "tokenizer_not_aligned": {"tokenizer_offset": plan.tokenizer_offset + 8},
        "schedule_starts_late": {"first_event": 1},
        "schedule_of_four_billion_entries": {"event_count": NONE},
        "schedule_one_entry_short": {"event_count": plan.event_count - 1},
        "schedule_empty": {"event_count": 0},
        "speed_nan": {"decode_tokens_per_s": float("nan")},
        "speed_infinite": {"prefill_tokens_per_s": float("inf")},
        "time_negative": {"first_token_s": -1.0},
    }.items():
        yield _edited(f"plan_{name}", "E_PLAN", Kind.PLANS, 0, **fields)
    yield _edited("plans_in_the_wrong_order", "E_PLAN", Kind.PLANS, 1, arena_bytes=plan.arena_bytes + 4096)
    for name, fields in {
        "streamed": {"tier": 1},
        "in_vram": {"tier": 2},
        "on_another_device": {"device": 1},
        "reserved_word": {"zero": 1},
        "reserved_bytes": {"zeros": 1},
        "not_on_a_page": {"offset": 64},
        "outside_the_arena": {"offset": plan.arena_bytes},
        "offset_overflows": {"offset": U64 - 4095},
    }.items():
        yield _edited(f"placement_{name}", "E_PLAN", Kind.PLACEMENTS, 0, **fields)
    yield _edited("placements_overlap", "E_PLAN", Kind.PLACEMENTS, 1, offset=forge.record(Kind.PLACEMENTS, 0).offset)
    offsets = list(struct.iter_unpack(">Q", forge.sections[Kind.OFFSETS]))
    buffers = forge.count(Kind.BUFFERS)
    last_cache = buffers + forge.count(Kind.CACHES) - 1
    step = forge.record(Kind.STEPS, forge.step(StepOp.SILU_MUL))
    head = forge.record(Kind.STEPS, forge.record(Kind.PROGRAM, 0).head_first)
    for name, index, offset in (
        ("buffer_not_aligned", 0, offsets[0][0] + 8),
        ("buffer_outside_the_arena", 0, plan.arena_bytes),
        ("buffer_offset_overflows", 0, U64 - 63),
        ("buffer_on_the_weights", 0, 0),
        ("buffer_on_a_cache", 0, offsets[buffers][0]),
        ("buffer_on_the_tokenizer", 0, plan.tokenizer_offset),
        ("buffers_alive_together_share_bytes", step.in1, offsets[step.in0][0]),
        ("output_shares_bytes_with_an_input", step.out, offsets[step.in0][0]),
        ("output_overlaps_an_inputs_tail", step.out, offsets[step.in0][0] + 64),
        ("head_buffer_over_what_the_head_reads", head.out, offsets[head.in0][0]),
        ("table_of_all_layers_overwritten", 1, offsets[step.out][0]),
        ("cache_not_aligned", last_cache, offsets[last_cache][0] + 8),
        ("cache_outside_the_arena", last_cache, plan.arena_bytes),
        ("caches_overlap", last_cache, offsets[last_cache - 1][0]),
        ("second_plan_buffer_on_the_weights", last_cache + 1, 0),
    ):
        yield _forged(
            f"plan_{name}", "E_PLAN", lambda f, i=index, o=offset: f.poke(Kind.OFFSETS, 8 * i, struct.pack(">Q", o))
        )
    for name, index, fields in (
        ("misses_a_load", 0, {"a": 1}),
        ("loads_twice", 1, {"a": 0}),
        ("runs_before_loading", 0, {"action": 2, "a": 0, "b": steps}),
        ("action_unknown", 0, {"action": 5}),
        ("streams", 0, {"action": 3}),
        ("waits", segments, {"action": 4}),
        ("reserved_word", 0, {"zero": 1}),
        ("load_with_a_slot", 0, {"b": 1}),
        ("load_with_c", 0, {"c": 1}),
        ("run_with_c", segments, {"c": 1}),
        ("skips_the_first_step", segments, {"a": 1}),
        ("runs_no_steps", segments, {"b": 0}),
        ("runs_four_billion_steps", segments, {"b": NONE}),
        ("runs_steps_twice", segments + 1, {"a": 0}),
        ("stops_early", segments + 1, {"b": 1}),
    ):
        yield _edited(f"schedule_{name}", "E_PLAN", Kind.SCHEDULE, index, **fields)
    yield _forged("schedule_entries_of_no_plan", "E_PLAN", lambda f: f.sections[Kind.SCHEDULE].extend(bytes(16)))


def _streams() -> Iterator[Case]:
    """Lies about what is read when, told to a package that streams its layers, reads rows and has blocks."""
    forge = Forge(good(STREAMED))
    steps, places, schedule = Kind.STEPS, Kind.PLACEMENTS, Kind.SCHEDULE
    second = next(i for i in range(forge.count(steps)) if forge.record(steps, i).p0 and _op(forge, i) == StepOp.LINEAR)
    width = forge.record(Kind.BUFFERS, forge.record(steps, second).out).width
    for name, (index, fields) in {
        "starts_late": (second - 1, {"p0": 16}),
        "starts_within_the_one_before": (second, {"p0": 8}),
        "starts_where_it_did": (second, {"p0": 0}),
        "starts_before_zero": (second, {"p0": -16}),
        "reaches_beyond_out": (second, {"p0": width}),
        "starts_at_two_billion": (second, {"p0": (1 << 31) - 16}),
        "with_a_second_number": (second, {"p1": 1}),
    }.items():
        yield _edited(f"block_{name}", "E_STEP", steps, index, STREAMED, **fields)

    last = forge.count(Kind.SEGMENTS) - 1
    streamed = [i for i in range(last + 1) if forge.record(places, i).tier == Tier.STREAM]
    ram = next(i for i in range(last + 1) if forge.record(places, i).tier == Tier.RAM)
    ring = forge.record(places, streamed[1])
    for name, (index, fields) in {
        "head_streamed": (last, {"tier": Tier.STREAM}),
        "table_streamed": (ram, {"tier": Tier.STREAM}),
        "embedding_streamed": (0, {"tier": Tier.STREAM}),
        "embedding_in_vram": (0, {"tier": Tier.VRAM}),
        "unknown": (0, {"tier": 4}),
        "layer_by_rows": (streamed[0], {"tier": Tier.ROWS}),
        "head_by_rows": (last, {"tier": Tier.ROWS}),
        "rows_end_outside_the_arena": (0, {"offset": forge.record(Kind.PLANS, 0).arena_bytes - PIECE}),
        "rows_over_the_ring": (0, {"offset": ring.offset}),
        "ring_over_the_head": (streamed[0], {"offset": forge.record(places, last).offset}),
        "ring_outside_the_arena": (streamed[0], {"offset": forge.record(Kind.PLANS, 0).arena_bytes}),
        "ring_offset_overflows": (streamed[0], {"offset": U64 - 4095}),
        "ring_not_on_a_page": (streamed[0], {"offset": ring.offset + 64}),
        "two_reads_in_one_place": (streamed[0], {"offset": ring.offset}),
    }.items():
        yield _edited(f"tier_{name}", "E_PLAN", places, index, STREAMED, **fields)

    loads = sum(forge.record(places, i).tier == Tier.RAM for i in range(last + 1))
    count = forge.count(schedule)
    waits = [i for i in range(count) if forge.record(schedule, i).action == Action.WAIT]
    for name, (index, fields) in {
        "reads_before_loading": (0, {"action": Action.READ, "b": 1}),
        "loads_what_it_streams": (loads, {"action": Action.LOAD, "b": 0}),
        "reads_out_of_order": (loads, {"a": streamed[1]}),
        "reads_without_lead": (loads, {"b": 0}),
        "reads_with_too_much_lead": (loads + 3, {"b": 3}),
        "reads_with_a_lead_of_65": (loads + 3, {"b": 65}),
        "reads_with_a_lead_of_four_billion": (loads + 3, {"b": NONE}),
        "read_with_c": (loads, {"c": 1}),
        "waits_for_another": (waits[0], {"a": streamed[1]}),
        "waits_with_b": (waits[0], {"b": 1}),
        "runs_instead_of_waiting": (waits[0], {"action": Action.RUN, "a": 0, "b": 1}),
        "runs_past_a_wait": (waits[0] - 1, {"b": forge.record(schedule, waits[0] - 1).b + 1}),
        "waits_at_the_end": (count - 1, {"action": Action.WAIT, "a": streamed[0], "b": 0}),
    }.items():
        yield _edited(f"schedule_{name}", "E_PLAN", schedule, index, STREAMED, **fields)


def _card() -> Iterator[Case]:
    """Lies about what a graphics card computes, told to a package that gives it a tile of every matrix."""
    forge = Forge(good(CARD))
    plans, schedule = Kind.PLANS, Kind.SCHEDULE
    vram = forge.record(plans, 0).vram_bytes
    count = forge.count(schedule)
    cards = [i for i in range(count) if forge.record(schedule, i).action == Action.CARD]
    steps = [forge.record(schedule, i).a for i in cards]
    assert len(cards) > 4 and _op(forge, steps[0] - 1) == StepOp.QUANTIZE
    rows = forge.record(Kind.TENSORS, forge.record(Kind.STEPS, steps[0]).weight).rows
    for name, fields in {
        "vram_too_small": {"vram_bytes": vram - 256},
        "vram_too_large": {"vram_bytes": vram + 256},
        "no_vram": {"vram_bytes": 0},
        "vram_of_2_to_the_64": {"vram_bytes": U64 - 255},
        "vram_of_the_whole_program": {"vram_bytes": forge.record(plans, 0).arena_bytes + 8},
    }.items():
        yield _edited(f"card_{name}", "E_PLAN", plans, 0, CARD, **fields)
    for name, (index, fields) in {
        "has_no_tiles": (cards[0], {"b": 0}),
        "has_more_tiles_than_there_are": (cards[0], {"b": -(-rows // 16) + 1}),
        "has_four_billion_tiles": (cards[0], {"b": NONE}),
        "has_another_step": (cards[0], {"a": steps[0] - 1}),
        "has_a_step_twice": (cards[1], {"a": steps[0]}),
        "goes_back": (cards[-1], {"a": steps[0]}),
        "has_a_step_that_is_not_there": (cards[-1], {"a": forge.count(Kind.STEPS)}),
        "has_step_four_billion": (cards[-1], {"a": NONE}),
        "has_c": (cards[0], {"c": 1}),
        "has_reserved_bits": (cards[0], {"zero": 1}),
        "runs_in_between": (cards[1], {"action": Action.RUN, "a": 0, "b": 1}),
        "comes_behind_the_runs": (count - 1, {"action": Action.CARD, "a": steps[-1], "b": 1}),
        "comes_before_the_loads": (0, {"action": Action.CARD, "a": steps[0], "b": 1}),
    }.items():
        yield _edited(f"card_{name}", "E_PLAN", schedule, index, CARD, **fields)
    operand = forge.record(Kind.STEPS, steps[0]).in0
    yield _edited("card_reads_16_bits", "E_PLAN", Kind.BUFFERS, operand, CARD, kind=2)
    batches = Forge(good(BATCHES))
    entry = next(i for i in range(batches.count(schedule)) if batches.record(schedule, i).action == Action.CARD)
    assert batches.record(schedule, entry)[3:] == (0, 1)
    for name, fields in {
        "of_0": {"card_batch": 0},
        "over_batch": {"card_batch": 3},
        "of_2_to_the_32": {"card_batch": NONE},
    }.items():
        yield _edited(f"card_batch_{name}", "E_PLAN", plans, 0, BATCHES, **fields)
    for name, c in {"nothing": 0, "more_than_there_is": 2, "four_billion_tiles": NONE}.items():
        yield _edited(f"card_is_brought_{name}", "E_PLAN", schedule, entry, BATCHES, c=c)

    def in_head(f: Forge) -> None:
        f.edit(schedule, cards[-1], c=1)
        f.edit(plans, 0, card_batch=1)

    yield _forged("card_is_brought_the_head", "E_PLAN", in_head, CARD)
    small = batches.record(plans, 0).vram_bytes - 256
    yield _edited("card_has_no_place_for_what_is_brought", "E_PLAN", plans, 0, BATCHES, vram_bytes=small)
    both = replace(STREAMED, card=1)
    inside = Forge(good(both))
    first = next(i for i in range(inside.count(schedule)) if inside.record(schedule, i).action == Action.CARD)
    linear = next(i for i in range(inside.count(Kind.STEPS)) if _op(inside, i) == StepOp.LINEAR)
    yield _edited("card_has_what_is_streamed", "E_PLAN", schedule, first, both, a=linear)
    grouped = replace(EXPERTS, places=0, card=1)
    group = Forge(good(grouped))
    inner = next(i for i in range(group.count(Kind.STEPS)) if _op(group, i) == StepOp.EXPERT) + 2
    card = [i for i in range(group.count(schedule)) if group.record(schedule, i).action == Action.CARD]
    before = max(i for i in card if group.record(schedule, i).a < inner)
    yield _edited("card_has_an_experts_step", "E_PLAN", schedule, before, grouped, a=inner)

    def to_vram(f: Forge, segment: int) -> None:
        """The segment, and no LOAD of it."""
        f.edit(Kind.PLACEMENTS, segment, tier=Tier.VRAM, offset=0)
        events = range(f.count(schedule))
        load = next(i for i in events if f.record(schedule, i)[:3] == (Action.LOAD, 0, segment))
        del f.sections[schedule][16 * load : 16 * load + 16]
        f.edit(plans, 0, event_count=f.record(plans, 0).event_count - 1)

    only = replace(CARD, vram=True)
    held = Forge(good(only))
    tiers = [held.record(Kind.PLACEMENTS, i).tier for i in range(held.count(Kind.SEGMENTS))]
    assert tiers.count(Tier.VRAM) > 4
    place = tiers.index(Tier.VRAM)
    yield _edited("card_segment_with_an_offset", "E_PLAN", Kind.PLACEMENTS, place, only, offset=4096)
    normed = tiers.index(Tier.RAM, 1)
    yield _forged("card_segment_with_a_norm", "E_PLAN", lambda f: to_vram(f, normed), only)
    yield _edited("card_segment_without_its_load", "E_PLAN", Kind.PLACEMENTS, place, only, tier=Tier.RAM)
    part = replace(RICH, contexts=(), card=2)  # of matrices of more than two tiles the card has a part
    yield _forged("card_segment_half_of_which_it_has", "E_PLAN", lambda f: to_vram(f, 1), part)
    bare = replace(RICH, contexts=())
    yield _forged("card_segment_without_a_card", "E_PLAN", lambda f: to_vram(f, 1), bare)

    pair = replace(RICH, contexts=(8,), card=-1)
    yield _edited("card_plan_behind_one_without", "E_PLAN", plans, 0, pair, vram_bytes=0)
    whole = replace(RICH, contexts=(), card=-1)
    good_vram = Forge(good(whole)).record(plans, 0).vram_bytes
    yield _edited("card_has_all_and_less_vram", "E_PLAN", plans, 0, whole, vram_bytes=good_vram - 4)


def _op(forge: Forge, step: int) -> int:
    return int(forge.record(Kind.STEPS, step).op)


def _experts() -> Iterator[Case]:
    forge, op = Forge(good(EXPERTS)), StepOp
    expert, combine, route = (forge.step(kind) for kind in (op.EXPERT, op.COMBINE, op.ROUTE))
    first = forge.record(Kind.STEPS, expert)
    gates, linear = first.in1, expert + 1
    for name, step, fields in (
        ("route_keeps_none", route, {"p0": 0}),
        ("route_keeps_more_than_there_are", route, {"p0": 4}),
        ("route_normalized_twice", route, {"p1": 2}),
        ("route_in_place", route, {"out": forge.record(Kind.STEPS, route).in0}),
        ("zero_of_an_input", forge.step(op.ZERO), {"in0": 0}),
        ("gate_of_many_numbers", forge.step(op.GATE), {"in1": 0}),
        ("expert_of_no_column", expert, {"p0": 3}),
        ("expert_of_column_minus_one", expert, {"p0": -1}),
        ("expert_of_no_steps", expert, {"p1": 0}),
        ("expert_of_one_step", expert, {"p1": 1}),
        ("expert_ends_before_combine", expert, {"p1": first.p1 - 1}),
        ("expert_ends_behind_combine", expert, {"p1": first.p1 + 1}),
        ("expert_of_two_billion_steps", expert, {"p1": (1 << 31) - 1}),
        ("expert_of_minus_two_steps", expert, {"p1": -2}),
        ("expert_reaches_into_the_head", expert, {"p1": forge.record(Kind.PROGRAM, 0).head_first - expert}),
        ("expert_in_place", expert, {"out": first.in0}),
        ("expert_gates_of_another_width", expert, {"in1": 0}),
        ("expert_within_an_expert", linear, {"op": op.EXPERT}),
        ("expert_writes_its_gates", linear, {"out": gates}),
        ("combine_of_another_expert", combine, {"p0": 1}),
        ("combine_by_other_gates", combine, {"in1": forge.record(Kind.STEPS, route).in0}),
        ("combine_into_what_may_not_be_there", combine, {"out": forge.record(Kind.STEPS, combine).in0}),
        ("combine_outside", forge.step(op.ADD), {"op": op.COMBINE}),
    ):
        yield _edited(name, "E_STEP", Kind.STEPS, step, EXPERTS, **fields)
    inside = forge.record(Kind.STEPS, combine).in0  # what an expert's last matrix gives
    add = forge.step(op.ADD, 1)
    yield _edited("step_reads_what_an_expert_left", "E_STEP", Kind.STEPS, add, EXPERTS, in1=inside)
    other = forge.step(op.EXPERT, 1) + 1
    weight = forge.record(Kind.STEPS, linear).weight
    yield _edited("two_experts_of_one_matrix", "E_PLAN", Kind.STEPS, other, EXPERTS, weight=weight)
    plan = forge.record(Kind.PLANS, 0)
    for name, numbers in {
        "no_places_for_experts": {"expert_places": 0},
        "no_places_but_an_offset": {"expert_places": 0, "experts_offset": 4096},
        "four_billion_places_for_experts": {"expert_places": NONE},
        "places_for_experts_beyond_the_arena": {"expert_places": 60000},
        "experts_on_the_weights": {"experts_offset": plan.experts_offset + 4096},
        "experts_not_on_a_page": {"experts_offset": plan.experts_offset + 64},
        "experts_offset_overflows": {"experts_offset": U64 - 4095},
    }.items():
        yield _edited(name, "E_PLAN", Kind.PLANS, 0, EXPERTS, **numbers)
    yield _edited("places_but_no_experts", "E_PLAN", Kind.PLANS, 0, expert_places=1)
    cached = [i for i in range(forge.count(Kind.PLACEMENTS)) if forge.record(Kind.PLACEMENTS, i).tier == Tier.EXPERT]
    yield _edited("expert_with_a_place_of_its_own", "E_PLAN", Kind.PLACEMENTS, cached[0], EXPERTS, offset=4096)
    yield _edited("expert_streamed", "E_PLAN", Kind.PLACEMENTS, cached[0], EXPERTS, tier=Tier.STREAM)
    yield _edited("no_expert_but_read_like_one", "E_PLAN", Kind.PLACEMENTS, 0, EXPERTS, tier=Tier.EXPERT, offset=0)


def _kernels() -> Iterator[Case]:
    forge = Forge(good())
    k0 = forge.record(Kind.KERNELS, 0)
    for name, fields in {
        "of_another_op": {"op": StepOp.ADD},
        "of_format_f32": {"format": 0},
        "of_unknown_format": {"format": max(Format) + 1},
        "of_another_format": {"format": Format.INT8},
        "of_other_rows": {"rows": k0.rows + 1},
        "of_other_columns": {"cols": k0.cols + 1},
        "without_rows": {"rows": 0},
        "of_four_billion_columns": {"cols": NONE},
        "reserved_word": {"zero": 1},
        "reserved_bytes": {"zeros": bytes(19) + b"\1"},
    }.items():
        yield _edited(f"kernel_{name}", "E_KERNEL", Kind.KERNELS, 0, **fields)
    other = forge.step(StepOp.LINEAR)
    yield _edited("kernel_of_another_shape", "E_KERNEL", Kind.STEPS, other, kernel=forge.count(Kind.KERNELS) - 1)
    yield _edited("kernel_for_a_step_that_is_no_linear", "E_KERNEL", Kind.STEPS, 0, kernel=0)


def _rest() -> Iterator[Case]:
    forge = Forge(good())
    kernels = forge.count(Kind.KERNELS)
    isa0, size0, entry0, entry1 = 16, 32, 16 + 64, 16 + 64 + 8
    code = len(forge.sections[Kind.CODE])
    size = struct.unpack_from(">Q", forge.sections[Kind.IMAGES], size0)[0]
    for name, at, data in (
        ("count_of_four_billion", 0, b"\xff" * 4),
        ("count_one_short", 0, b"\0\0\0\1"),
        ("count_zero_with_records", 0, bytes(4)),
        ("reserved_word", 4, b"\0\0\0\1"),
        ("reserved_bytes", 15, b"\1"),
        ("isa_unknown", isa0, b"\0\0\0\5"),
        ("isa_twice", isa0, b"\0\0\0\3"),
        ("isa_of_no_card", isa0, b"\0\0\0\x24"),
        ("for_a_card_with_entries", isa0, b"\0\0\0\x23"),
        ("of_ptx_with_entries", isa0, b"\0\0\0\x1e"),
        ("record_reserved_word", isa0 + 4, b"\0\0\0\1"),
        ("record_reserved_bytes", isa0 + 31, b"\1"),
        ("offset_not_where_it_must_be", isa0 + 8, struct.pack(">Q", 64)),
        ("of_no_bytes", size0, bytes(8)),
        ("of_2_to_the_64_bytes", size0, b"\xff" * 8),
        ("larger_than_code", size0, struct.pack(">Q", code + 1)),
        ("overlaps_the_next", size0, struct.pack(">Q", size + 64)),
        ("entry_outside_the_image", entry1, struct.pack(">I", size)),
        ("entry_in_the_next_image", entry1, struct.pack(">I", size + 64)),
        ("entry_missing_but_made", entry1, b"\xff" * 4),
        ("entry_there_but_made_by_nobody", entry1 + 4, b"\0"),
        ("entry_made_by_an_unknown_maker", entry1 + 4, b"\3"),
        ("entry_reserved_bytes", entry0 + 7, b"\1"),
    ):
        yield _forged(f"image_{name}", "E_IMAGE", lambda f, a=at, d=data: f.poke(Kind.IMAGES, a, d))
    assert size % 64, "the base package must have a gap between its images"
    yield _forged("image_message_in_the_gap_of_code", "E_IMAGE", lambda f: f.poke(Kind.CODE, size, b"!"))
    yield _forged("code_behind_the_last_image", "E_IMAGE", lambda f: f.sections[Kind.CODE].extend(b"!"))
    yield _forged(
        "image_entries_missing", "E_IMAGE", lambda f: f.sections[Kind.IMAGES].__delitem__(slice(-8 * kernels, None))
    )
    yield _forged(
        "seventeen_images",
        "E_IMAGE",
        lambda f: f.replace(Kind.IMAGES, b"\0\0\0\x11" + bytes(12 + 17 * (32 + 8 * kernels))),
    )
    yield _forged("tokenizer_empty", "E_TOKENIZER", lambda f: f.replace(Kind.TOKENIZER, b""))
    yield _forged(
        "tokenizer_of_ones",
        "E_TOKENIZER",
        lambda f: f.replace(Kind.TOKENIZER, b"\xff" * len(f.sections[Kind.TOKENIZER])),
    )
    yield _forged("tokenizer_one_byte_short", "E_TOKENIZER", lambda f: f.sections[Kind.TOKENIZER].pop())
    yield _forged(
        "tokenizer_of_more_tokens_than_the_vocabulary",
        "E_TOKENIZER",
        lambda f: f.poke(Kind.TOKENIZER, 4, struct.pack(">I", 261)),
    )
    yield from _chat()
    data = good()
    yield _bytes("byte_of_a_weight_changed", "E_SEGMENT_CHECKSUM", _xor(data, forge.first_segment))
    yield _bytes("last_byte_of_the_file_changed", "E_SEGMENT_CHECKSUM", _xor(data, len(data) - 1))
    yield _forged("segment_checksum_changed", "E_SEGMENT_CHECKSUM", lambda f: f.poke(Kind.SUMS, 0, bytes(8)))

    def message(f: Forge) -> None:
        f.weights[-1] = 1
        f.rehash_segments()

    yield _forged("message_in_padding_at_the_end", "E_PADDING", message)

    def between(f: Forge) -> None:  # a hole of 64 bytes between two tensors
        last = f.count(Kind.TENSORS) - 1
        record = f.record(Kind.TENSORS, last)
        at = len(f.weights) - f.record(Kind.SEGMENTS, f.count(Kind.SEGMENTS) - 1).size
        moved = bytes(f.weights[at + record.offset : at + record.offset + record.size])
        f.weights[at + record.offset + 64 : at + record.offset + 64 + record.size] = moved
        f.edit(Kind.TENSORS, last, offset=record.offset + 64)
        f.weights[at + record.offset : at + record.offset + 64] = bytes(63) + b"!"
        f.rehash_segments()

    yield _forged("message_between_tensors", "E_PADDING", between)

    def both(f: Forge) -> None:  # dirt in the first segment, damage in the last
        message_at = f.record(Kind.SEGMENTS, 0).size - 1
        f.weights[message_at] = 1
        f.rehash_segments()
        f.poke(Kind.SUMS, len(f.sections[Kind.SUMS]) - 8, bytes(8))

    yield _forged("dirt_first_and_damage_later", "E_SEGMENT_CHECKSUM", both)


def _chat() -> Iterator[Case]:
    """Breaches of CHAT by a program that is right."""

    def written(name: str, code: Sequence[tuple[int, int]], macros: Sequence[tuple[int, int]] = ()) -> Case:
        program = ChatProgram([(cast(Op, op), operand) for op, operand in code], ["a", "b"], macros)
        return _forged(f"chat_{name}", "E_CHAT", lambda f: f.replace(Kind.CHAT, write_chat(program)))

    def poked(name: str, at: int, data: bytes) -> Case:
        return _forged(f"chat_{name}", "E_CHAT", lambda f: f.poke(Kind.CHAT, at, data))

    end = (Op.END, 0)
    size = len(TINY_CHAT)
    yield poked("of_another_version", 0, b"\0\0\0\2")
    yield poked("without_instructions", 4, bytes(4))
    yield poked("of_four_billion_instructions", 4, b"\xff" * 4)
    yield poked("of_four_billion_strings", 8, b"\xff" * 4)
    yield poked("of_four_billion_macros", 12, b"\xff" * 4)
    yield poked("not_utf8", size - 1, b"\xff")
    yield poked("strings_that_do_not_start_at_0", 16 + 4 * 9, b"\0\0\0\1")
    yield poked("strings_that_go_back", 16 + 4 * 9 + 4, b"\0\0\0\x10")
    yield _forged("chat_of_fifteen_bytes", "E_CHAT", lambda f: f.replace(Kind.CHAT, TINY_CHAT[:15]))
    yield _forged("chat_one_byte_short", "E_CHAT", lambda f: f.sections[Kind.CHAT].pop())
    yield _forged("chat_one_byte_too_long", "E_CHAT", lambda f: f.sections[Kind.CHAT].append(65))
    yield _forged("chat_cut_in_its_instructions", "E_CHAT", lambda f: f.replace(Kind.CHAT, TINY_CHAT[:40]))
    yield written("runs_off_its_end", [end, (Op.DROP, 0)])
    yield written("instruction_unknown", [(len(Op), 0), end])
    yield written("operand_where_there_is_none", [(Op.PRINT, 1), end])
    yield written("jumps_behind_its_end", [(Op.JUMP, 2), end])
    yield written("names_no_string", [(Op.LOAD, 2), end])
    yield written("calls_no_macro", [(Op.CALL, 0), end])
    yield written("constant_unknown", [(Op.VALUE, 5), end])
    yield written("comparison_unknown", [(Op.COMPARE, 8), end])
    yield written("arithmetic_unknown", [(Op.BINARY, 5), end])
    yield written("list_of_256", [(Op.LIST, 256), end])
    yield written("mapping_of_128", [(Op.MAPPING, 128), end])
    yield written("builtin_unknown", [(Op.BUILTIN, len(BUILTINS) << 8 | 1), end])
    yield written("builtin_with_too_little", [(Op.BUILTIN, BUILTINS["replace"][0] << 8 | 2), end])
    yield written("builtin_with_too_much", [(Op.BUILTIN, BUILTINS["abs"][0] << 8 | 2), end])
    yield written("macro_behind_its_end", [end], [(1, 0)])
    yield written("macro_of_256", [end], [(0, 256)])


def _xor(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def accepted() -> Iterator[tuple[str, bytes]]:
    """Odd packages that break no rule: both validators must take them."""
    for name, shape in (
        ("plain", PLAIN),
        ("rich", RICH),
        ("float", FLOAT),
        ("f16", replace(FLOAT, format=Format.F16)),
        ("streamed", STREAMED),
        ("experts", EXPERTS),
        ("experts_in_ram", replace(EXPERTS, places=0)),
        ("experts_of_16_bit_activations", replace(EXPERTS, wide=True)),
    ):
        yield name, good(shape)
    metas = {
        "empty_object": b"{}",
        "whitespace": b" \t\r\n{} \n",
        "nested_64_deep": b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        "brackets_in_strings": json.dumps({"[" * 100: ']{"\\' * 100}).encode(),
        "repeated_names": b'{"a":1,"a":2}',
        "surrogate_pair": b'{"a":"\\ud83d\\ude00"}',
        "numbers": b'{"a":[-0,1e-999,1.5E+300,18446744073709551616,' + b"9" * 300 + b"]}",
    }
    for name, text in metas.items():
        yield f"meta_{name}", Forge(good()).replace(Kind.META, text).build()
    yield "chat_empty", Forge(good()).replace(Kind.CHAT, b"").build()
    every = [(Op.BUILTIN, number << 8 | n) for number, least, most in BUILTINS.values() for n in {least, most}]
    program = ChatProgram([*every, (Op.CALL, 0), (Op.END, 0), (Op.RETURN, 0)], [], [(len(every) + 2, 255)])
    yield "chat_of_all_builtins", Forge(good()).replace(Kind.CHAT, write_chat(program)).build()
    forge = Forge(good())
    step = forge.record(Kind.STEPS, forge.step(StepOp.SILU_MUL))
    early = forge.record(Kind.STEPS, forge.step(StepOp.ROPE)).in0  # dead long before
    where = bytes(forge.sections[Kind.OFFSETS][8 * early : 8 * early + 8])
    yield "dead_buffer_reused", forge.poke(Kind.OFFSETS, 8 * step.out, where).build()
    forge = Forge(good())
    first, each = 16 + 64, 8 * forge.count(Kind.KERNELS)
    forge.poke(Kind.IMAGES, first, (b"\xff" * 4 + bytes(4)) * (each // 8))
    yield "image_for_a_card", forge.poke(Kind.IMAGES, 16, b"\0\0\0\x23").build()
    forge = Forge(good())
    yield "no_images", forge.replace(Kind.IMAGES, bytes(16)).replace(Kind.CODE, b"").build()
    forge = Forge(good())
    events = forge.sections[Kind.SCHEDULE]
    segments, steps = forge.count(Kind.SEGMENTS), forge.count(Kind.STEPS)
    for plan in (1, 0):  # one RUN for all steps
        at = 16 * (segments + 2) * plan
        events[at + 16 * segments : at + 16 * (segments + 2)] = struct.pack(">HHIII", 2, 0, 0, steps, 0)
        forge.edit(Kind.PLANS, plan, event_count=segments + 1, first_event=(segments + 1) * plan)
    yield "one_run_across_the_head", forge.build()
    assert reseal(good()) == good()
