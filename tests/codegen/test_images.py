"""Flat images from both makers: really loaded into executable memory, equal to the built-in kernels bit for bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import NONE, Isa, KernelSpec, Maker, StepOp
from n730c.codegen import build, build_images, make_kernels
from n730c.codegen.candidates import TEMPLATE, Candidate, candidates, recorded
from n730c.codegen.image import compile_c, link
from n730c.codegen.native import LoadedImage, host_isa
from n730c.codegen.render import render
from n730c.codegen.select import ChoiceCache, faster
from n730c.dtypes import Format, round_up
from n730c.errors import ToolchainError
from n730c.quant import encode, encode_vector
from tests.codegen import reference
from tests.codegen.conftest import BUILTIN_ISAS, Lookup, Run, aligned, strided

needs_avx2 = pytest.mark.skipif(host_isa() < Isa.AVX2, reason="this CPU has no AVX2")

FORMATS = tuple(fmt for fmt in Format if fmt is not Format.F32)
SHAPES = ((9, 33), (137, 320))
SPECS = tuple(KernelSpec(StepOp.LINEAR, fmt, *shape) for fmt in FORMATS for shape in SHAPES)


def linked_candidates(spec: KernelSpec, isa: Isa) -> list[Candidate]:
    """All makers' kernels, those of the larger shape unrolled; but one only where built-in kernels cover the level.

    TVM takes seconds for the formats with coded scales: the larger shape has whole super-blocks and a part of one.
    """
    large = spec.rows == SHAPES[1][0]
    if (isa < Isa.AVX2 and spec.format is not Format.INT4) or (isa is not Isa.AVX2 and not large):
        return []
    unroll = 2 if large else 1
    by_tvm = isa is Isa.AVX2 and (large or not spec.format.has_coded_scales)
    makers = (Maker.TEMPLATE, Maker.TVM) if by_tvm else (Maker.TEMPLATE,)
    return [c for c in candidates(spec, isa) if (c.ahead, c.unroll) == (3072, unroll) and c.maker in makers]


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> dict[Isa, tuple[bytes, dict[str, int]]]:
    """For each level one image."""
    images = {}
    for isa in Isa:
        workshop = build.Workshop(isa, tmp_path_factory.mktemp(isa.name))
        images[isa] = workshop.link((spec, candidate) for spec in SPECS for candidate in linked_candidates(spec, isa))
    return images


@needs_avx2
@pytest.mark.parametrize("fmt", FORMATS)
def test_all_makers_and_levels_give_the_same_bits(
    linked: dict[Isa, tuple[bytes, dict[str, int]]], builtin: Lookup, fmt: Format
) -> None:
    rng = np.random.default_rng(1)
    for spec in (spec for spec in SPECS if spec.format is fmt):
        rows, cols = spec.rows, spec.cols
        tiles = -(-rows // 16)
        data = aligned(encode(rng.standard_normal((rows, cols)).astype(np.float32), fmt))
        bias = np.frombuffer(encode_vector(rng.standard_normal(rows)), np.uint8)
        padded = round_up(cols, 32)
        for tokens in (1, 2, 3, 4, 5, 9):
            x = strided(tokens, cols)
            x[:] = rng.standard_normal((tokens, cols))
            entering = reference.q8_bytes(x, round_up(padded + padded // 4, 64)) if fmt.is_integer else x
            numbers = {"weight": data, "rows": rows, "cols": cols} | ({"bias": bias} if tokens % 2 else {})
            want = strided(tokens, rows)
            Run(want, entering, **numbers).go(builtin(Isa.SSE2, StepOp.LINEAR, fmt), 0, tiles)
            for isa, (code, offsets) in linked.items():
                if isa > host_isa():
                    continue  # test_levels.py runs what qemu can
                with LoadedImage(code) as image:
                    for candidate in linked_candidates(spec, isa):
                        cuts = sorted({0, tiles, *rng.integers(0, tiles + 1, 2).tolist()})
                        out = strided(tokens, rows, fill=7.0)
                        Run(out, entering, **numbers).go(image.kernel(offsets[build.symbol(spec, candidate)]), *cuts)
                        np.testing.assert_array_equal(
                            out.view(np.uint32), want.view(np.uint32), f"{isa.name} {candidate}"
                        )
                        assert (out.base[:, rows:] == 7.0).all(), "wrote beyond the last row"
            for isa in BUILTIN_ISAS[1:]:
                out = strided(tokens, rows)
                Run(out, entering, **numbers).go(builtin(isa, StepOp.LINEAR, fmt), 0, tiles)
                np.testing.assert_array_equal(out.view(np.uint32), want.view(np.uint32))


def test_tvm_serves_the_integer_formats_from_avx2_on() -> None:
    for spec in SPECS:
        for isa in Isa:
            makers = {candidate.maker for candidate in candidates(spec, isa)}
            assert (Maker.TVM in makers) == (spec.format.is_integer and isa >= Isa.AVX2)
            assert recorded(spec, isa) in candidates(spec, isa) and TEMPLATE in candidates(spec, isa)
    assert candidates(KernelSpec(StepOp.RMS_NORM, Format.F32, 1, 64), Isa.AVX2) == ()


def test_every_candidate_of_a_kernel_gives_the_same_bits(tmp_path: Path, builtin: Lookup) -> None:
    isa = min(host_isa(), Isa.AVX2)
    spec = KernelSpec(StepOp.LINEAR, Format.INT4, 40, 128)
    rng = np.random.default_rng(3)
    data = aligned(encode(rng.standard_normal((40, 128)).astype(np.float32), Format.INT4))
    x, want = strided(1, 128), strided(1, 40)
    x[:] = rng.standard_normal((1, 128))
    entering = reference.q8_bytes(x, 192)
    Run(want, entering, weight=data, rows=40, cols=128).go(builtin(Isa.SSE2, StepOp.LINEAR, Format.INT4), 0, 3)
    code, offsets = build.Workshop(isa, tmp_path).link((spec, candidate) for candidate in candidates(spec, isa))
    with LoadedImage(code) as image:
        for candidate in candidates(spec, isa):
            assert Candidate.parse(str(candidate)) == candidate
            out = strided(1, 40)
            call = Run(out, entering, weight=data, rows=40, cols=128)
            call.go(image.kernel(offsets[build.symbol(spec, candidate)]), 0, 3)
            np.testing.assert_array_equal(out.view(np.uint32), want.view(np.uint32), str(candidate))


def test_build_images_is_deterministic_and_tells_the_makers() -> None:
    kernels = (*SPECS[4:6], KernelSpec(StepOp.RMS_NORM, Format.F32, 1, 64), SPECS[0])
    images, told = build_images(kernels, Isa.AVX2, tune=False)
    again, told_again = build_images(kernels, Isa.AVX2, tune=False)
    assert images == again and told == told_again
    (image,) = images
    assert [entry.maker for entry in image.entries] == [Maker.TEMPLATE, Maker.TEMPLATE, Maker.NONE, Maker.TEMPLATE]
    assert image.entries[2].offset == NONE
    assert all(entry.offset < len(image.code) for entry in image.entries if entry.offset != NONE)
    assert [t["format"] for t in told] == ["INT8", "INT8", "F16"]
    for text in (b"/tmp", b"n730c", b"home"):
        assert text not in image.code


def test_no_kernels_no_image() -> None:
    assert build_images((), Isa.AVX2) == ((), [])


@needs_avx2
def test_measured_choices_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N730C_CACHE", str(tmp_path))
    monkeypatch.setattr("n730c.codegen.tune._BUDGET", 0.05)
    kernels = (KernelSpec(StepOp.LINEAR, Format.INT4, 160, 288),)
    images, choices = make_kernels(kernels, Isa.AVX2, tune=True)
    assert [candidate for candidate, _ in choices[0].seconds] == sorted(candidates(kernels[0], Isa.AVX2))
    assert images[0].entries[0].maker is choices[0].candidate.maker
    stored = (tmp_path / "kernels.json").read_bytes()
    assert make_kernels(kernels, Isa.AVX2, tune=True) == (images, choices)
    assert (tmp_path / "kernels.json").read_bytes() == stored
    # what is remembered decides: with the roles turned round the other maker is taken
    key = next(iter(ChoiceCache(tmp_path)._read()))
    for winner in (Candidate(Maker.TVM, 3072, 1), Candidate(Maker.TEMPLATE, 1024, 1)):
        times = {candidate: 2e-4 for candidate, _ in choices[0].seconds} | {winner: 1e-4}
        ChoiceCache(tmp_path).put(key, times)
        (image,), (choice,) = make_kernels(kernels, Isa.AVX2, tune=True)
        assert image.entries[0].maker is winner.maker and choice.candidate == winner


def test_a_broken_cache_is_no_error(tmp_path: Path) -> None:
    cache = ChoiceCache(tmp_path)
    for text in (
        "",
        "[1]",
        '{"k": {"TEMPLATE 1 1": "x"}}',
        '{"k": {"NOBODY 1 1": 1}}',
        '{"k": {"TVM": 1}}',
        '{"k": 3}',
    ):
        (tmp_path / "kernels.json").write_text(text)
        assert cache.get("k") is None
    cache.put("k", {TEMPLATE: 0.5})
    assert cache.get("k") == {TEMPLATE: 0.5}
    ChoiceCache(tmp_path / "kernels.json" / "below").put("k", {})  # cannot be written


def test_a_close_race_keeps_the_default() -> None:
    spec = KernelSpec(StepOp.LINEAR, Format.INT4, 64, 64)
    default = recorded(spec, Isa.AVX2)
    other = next(candidate for candidate in candidates(spec, Isa.AVX2) if candidate != default)
    assert faster(spec, Isa.AVX2, {default: 1.0, other: 0.97}) is default
    assert faster(spec, Isa.AVX2, {default: 1.0, other: 0.5}) is other


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("int outside(void); int f(void) { return outside(); }", "ld failed|calls outside"),
        ("int counter; int f(void) { return counter++; }", "ld failed|writable"),
        ("static int a; int *const table[1] = {&a}; int *f(int i) { return table[i]; }", "ld failed|relocations"),
        ("int f(int i) { volatile char big[5000]; big[i] = 1; return big[0]; }", "gcc failed.*frame size"),
        ("int f(void) { return }", "gcc failed"),
    ],
)
def test_what_an_image_may_not_hold(tmp_path: Path, source: str, complaint: str) -> None:
    with pytest.raises(ToolchainError, match=complaint):
        compile_c(source, tmp_path / "f.o", Isa.SSE2)
        link([tmp_path / "f.o"], ["f"], tmp_path)


def test_missing_compiler_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ToolchainError, match=r"gcc is missing \(expected gcc and GNU binutils\).*apt install gcc"):
        compile_c("int x;", tmp_path / "f.o", Isa.SSE2)


def test_sse2_image_needs_no_more_than_sse2(linked: dict[Isa, tuple[bytes, dict[str, int]]], tmp_path: Path) -> None:
    file = tmp_path / "image.bin"
    file.write_bytes(linked[Isa.SSE2][0])
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn", file]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "pmaddwd" in text
    assert "ymm" not in text and "vpmadd" not in text and "pmaddubsw" not in text


def test_templates_name_their_parameters() -> None:
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        render("linear.c.j2")
    with pytest.raises(jinja2.UndefinedError, match="cols"):
        render("linear.c.j2", kernels=[{"symbol": "s", "format": "INT4", "rows": 1}])
