"""A package gives back what was written, is the same bytes every time, and says what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from n730c.artifacts import Isa, Step, StepOp
from n730c.dtypes import Format
from n730c.errors import InvalidIR, PackageError, UsageError
from n730c.package import describe, extract, read_package, validate, write_package
from tests.package.hexdump import BEGIN, PAGE, page
from tests.tiny_package import TINY_CHAT, Shape, Tiny, tiny

ROOT = Path(__file__).parents[2]

shapes = st.builds(
    Shape,
    format=st.sampled_from([f for f in Format if f is not Format.F32]),
    layers=st.integers(0, 2),
    hidden=st.sampled_from([8, 31, 32, 33, 64]),
    heads=st.sampled_from([2, 4]),
    kv_heads=st.sampled_from([1, 2]),
    head_dim=st.sampled_from([8, 16]),
    ffn=st.integers(1, 70),
    vocab=st.sampled_from([1, 16, 257, 300]),
    bias=st.booleans(),
    wide=st.booleans(),
    tied=st.booleans(),
    split_silu=st.booleans(),
    images=st.sampled_from([(), (Isa.AVX2,), (Isa.SSE2, Isa.AVX2)]),
    context=st.integers(20, 40),
    batch=st.integers(2, 9),
    head_batch=st.integers(1, 2),
    contexts=st.sampled_from([(), (20,), (10, 10, 3)]),
    seed=st.integers(0, 9),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    shapes,
    st.sampled_from([b"", TINY_CHAT]),
    st.dictionaries(texts, st.one_of(texts, st.integers(-(2**70), 2**70), st.none(), st.floats(-1e9, 1e9))),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path: Path, shape: Shape, chat: bytes, meta: dict[str, object]) -> None:
    made = replace(tiny(shape), chat=chat, meta=meta)
    path = made.write(tmp_path / "a.n730")
    validate(path, full=True)
    package = read_package(path)
    assert package.program == made.program
    assert package.plans == made.plans
    assert package.images == made.images
    assert (package.tokenizer, package.chat, package.meta) == (made.tokenizer, chat, meta)
    assert package.logits == made.program.steps[-1].out
    assert tuple(package.tensor_bytes(i) for i in range(len(made.tensors))) == made.tensors


def test_floats_come_back_as_float32(tmp_path: Path) -> None:
    made = tiny()
    steps = tuple(replace(s, floats=(1e-6,)) if s.op is StepOp.RMS_NORM else s for s in made.program.steps)
    path = replace(made, program=replace(made.program, steps=steps)).write(tmp_path / "a.n730")
    eps = {s.floats for s in read_package(path).program.steps if s.op is StepOp.RMS_NORM}
    assert eps == {(float(np.float32(1e-6)),)}


def test_same_bytes_in_every_process(tmp_path: Path) -> None:
    digests = set()
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.n730"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "tests.tiny_package", str(out)], check=True, env=environment, cwd=ROOT)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_meta_does_not_depend_on_the_order_of_its_keys(tmp_path: Path) -> None:
    made = tiny()
    first = replace(made, meta={"a": 1, "b": {"c": 2, "d": 3}}).write(tmp_path / "1.n730").read_bytes()
    second = replace(made, meta={"b": {"d": 3, "c": 2}, "a": 1}).write(tmp_path / "2.n730").read_bytes()
    assert first == second


def test_weights_lie_in_stream_order_on_4k_pages(tmp_path: Path) -> None:
    path = tiny().write(tmp_path / "a.n730")
    package = read_package(path)
    assert list(package.tensor_offsets) == sorted(package.tensor_offsets)
    assert all(offset % 4096 == 0 for offset in package.segment_offsets)
    ends = [offset + s.size for offset, s in zip(package.segment_offsets, package.program.segments, strict=True)]
    assert ends == [*package.segment_offsets[1:], path.stat().st_size]


def test_describe(tmp_path: Path) -> None:
    made = tiny(format=Format.INT8, images=(Isa.SSE2, Isa.AVX2))
    path = made.write(tmp_path / "a.n730")
    facts = json.loads(json.dumps(describe(read_package(path))))
    assert facts["file_bytes"] == path.stat().st_size
    padding = facts["file_bytes"] - sum(facts["sections"].values())
    assert 0 <= padding < 18 * 64 + 4096
    assert [t["name"] for t in facts["tensors"]] == [t.name for t in made.program.tensors]
    assert 8.5 <= facts["bits_per_weight"] < 9  # INT8 with its scales, and some padding of rows
    assert facts["formats"]["INT8"]["bytes"] + facts["formats"]["F32"]["bytes"] == sum(map(len, made.tensors))
    assert sum(kernel["steps"] for kernel in facts["kernels"]) == sum(
        step.op is StepOp.LINEAR for step in made.program.steps
    )
    assert facts["kernels"][0]["makers"] == {"SSE2": "NONE", "AVX2": "NONE"}
    assert facts["kernels"][1]["makers"] == {"SSE2": "TEMPLATE", "AVX2": "TEMPLATE"}
    assert facts["plans"][0]["ram_bytes"] == made.plans[0].ram_bytes


def test_extract(tmp_path: Path) -> None:
    made = tiny(images=(Isa.SSE2, Isa.AVX2))
    files = extract(read_package(made.write(tmp_path / "a.n730")), tmp_path / "deep" / "folder")
    assert [file.name for file in files] == ["kernels.sse2.bin", "kernels.avx2.bin"]
    assert [file.read_bytes() for file in files] == [image.code for image in made.images]
    with pytest.raises(UsageError, match="cannot write to"):
        extract(read_package(tmp_path / "a.n730"), tmp_path / "a.n730")


def test_a_tensor_of_a_file_that_shrank(tmp_path: Path) -> None:
    path = tiny().write(tmp_path / "a.n730")
    package = read_package(path)
    os.truncate(path, 8192)
    with pytest.raises(PackageError, match="E_TRUNCATED"):
        package.tensor_bytes(len(package.program.tensors) - 1)
    path.unlink()
    with pytest.raises(PackageError, match="E_OPEN"):
        package.tensor_bytes(0)


def _first_step(made: Tiny, step: Step) -> Tiny:
    return replace(made, program=replace(made.program, steps=(step, *made.program.steps)))


def _arena(made: Tiny, size: int) -> Tiny:
    return replace(made, plans=(replace(made.plans[0], arena_bytes=size),))


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (_first_step(tiny(), Step(StepOp.ADD, (0, 0), 0)), "E_STEP: step 0"),
        (replace(tiny(), program=replace(tiny().program, steps=())), "the program has no steps"),
        (_arena(tiny(), 4096), "E_PLAN: plan 0"),
        (_arena(tiny(), 1 << 64), "does not fit its field"),
        (replace(tiny(), plans=()), "E_SECTION: size of section PLANS"),
        (replace(tiny(), tokenizer=b""), "E_TOKENIZER: "),
        (replace(tiny(), meta={"name": "\ud800"}), "E_META: "),
    ],
    ids=["step", "no_steps", "arena", "huge_arena", "no_plans", "tokenizer", "meta"],
)
def test_never_writes_what_it_would_refuse(tmp_path: Path, made: Tiny, error: str) -> None:
    with pytest.raises((PackageError, InvalidIR), match=error):
        made.write(tmp_path / "a.n730")
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_to_the_files_size(tmp_path: Path) -> None:
    made, seen = tiny(), []
    path = tmp_path / "a.n730"
    write_package(
        path, made.program, made.plans, (), made.tensors.__getitem__, made.tokenizer, b"", {},
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_the_page_shows_todays_bytes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) :] == page(), "run `python -m tests.package.hexdump`"
