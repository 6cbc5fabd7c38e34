"""Damaged sections: both validators give the same verdict in the same words, and what they accept is safe to use."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from n730c.tokenizer_format import HEADER, TABLES
from n730c.tokenizer_validate import validate_tokenizer
from tests.tokenizer.conftest import Toy
from tests.tokenizer.native import ROOT, SOURCES, Native
from tests.tokenizer.toys import VOCAB

MakeToy = Callable[[str], Toy]
Case = tuple[int, tuple[tuple[int, int], ...]]  # size, (offset, byte) …


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("hostile") / "hostile"
    sources = [*SOURCES, Path(__file__).with_name("hostile.cpp")]
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["g++", *flags, "-o", program, f"-I{ROOT / 'runtime/src'}", *sources], check=True)
    return program


def tables_of(section: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size of each table."""
    return dict(zip(TABLES, struct.iter_unpack(">II", section[32:HEADER]), strict=True))


def cases_for(section: bytes, rng: random.Random) -> list[Case]:
    """Every header byte, bytes of every table, cuts and lies about sizes."""
    size = len(section)
    cases: list[Case] = [(size, ())]
    for offset in range(HEADER):
        for byte in {0, 1, 255, section[offset] ^ 1, section[offset] ^ 0x80} - {section[offset]}:
            cases.append((size, ((offset, byte),)))
    for offset, length in tables_of(section).values():
        for _ in range(25 if length else 0):
            places = rng.sample(range(offset, offset + length), min(length, rng.choice((1, 1, 2, 8))))
            cases.append(
                (size, tuple((place, rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))) for place in places))
            )
    cases += [(cut, ()) for cut in (0, 1, HEADER - 1, HEADER, size - 1, *rng.sample(range(size), 20))]
    cases += [(size, ((rng.randrange(size), rng.randrange(256)),)) for _ in range(100)]
    return cases


def apply(section: bytes, case: Case) -> bytes:
    size, edits = case
    damaged = bytearray(section[:size])
    for offset, byte in edits:
        damaged[offset] = byte
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "llama2", "unigram", "bert"])
def test_damage_is_refused_alike_or_harmless(kind: str, toy: MakeToy, hostile: Path, tmp_path: Path) -> None:
    section = toy(kind).native.compiled
    cases = cases_for(section, random.Random(kind))
    file = tmp_path / "section"
    file.write_bytes(section)
    lines = "".join(f"{size} {' '.join(f'{at} {byte}' for at, byte in edits)}\n" for size, edits in cases)
    done = subprocess.run([hostile, file, str(VOCAB)], input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == len(cases)
    refused = set()
    for case, verdict in zip(cases, verdicts, strict=True):
        expected = validate_tokenizer(apply(section, case), VOCAB)
        found = None if verdict.startswith("valid ") else verdict
        assert found == expected, case
        refused.add(verdict.split(" ")[0] if found is None else verdict)
    assert "valid" in refused and len(refused) > 10  # the cases reach most of the checks


def test_every_check_is_reached(toy: MakeToy) -> None:
    """One deliberate breach of each rule, named as FORMAT.md's limits are."""
    section = toy("qwen2").native.compiled
    at = {name: offset for name, (offset, _) in tables_of(section).items()}
    words = at["words"] + 4 * next(
        i for i in range(10_000) if section[at["words"] + 4 * i : at["words"] + 4 * i + 4] != b"\xff" * 4
    )
    first_added = at["added_raw"] + 257 * 4
    breaches: list[tuple[int, bytes, str]] = [
        (0, struct.pack(">I", 5), "its kind is unknown"),
        (0, struct.pack(">I", 3), "its unknown token is no token"),
        (4, struct.pack(">I", VOCAB + 1), "its number of tokens does not fit the model"),
        (4, struct.pack(">I", VOCAB - 100), "a table has the wrong size"),
        (8, b"\x04", "a flag or a reserved field is not as it must be"),
        (9, b"\xff", "a text lies outside its table"),
        (12, struct.pack(">I", 65536), "a limit is too large"),
        (16, struct.pack(">H", 256), "a limit is too large"),
        (20, struct.pack(">I", VOCAB), "its unknown token is no token"),
        (24, struct.pack(">H", 0), "its number of classes is out of range"),
        (26, b"\x01", "a flag or a reserved field is not as it must be"),
        (28, struct.pack(">I", 0xFFFFFFFF), "a text lies outside its table"),
        (32, struct.pack(">I", HEADER + 16), "a table lies in the wrong place"),
        (36, struct.pack(">I", 0xFFFFFFFF), "a table lies in the wrong place"),
        (at["token_offsets"], struct.pack(">I", 1), "token offsets are out of order"),
        (at["token_offsets"] + 40, struct.pack(">I", 0xFFFFFFF), "token offsets are out of order"),
        (at["token_flags"] + 5, b"\x04", "a token has unknown flags"),
        (at["bytes"], struct.pack(">I", VOCAB), "a byte names no token"),
        (at["merges"], b"\xff\xff\xff\x00", "a merge names no token"),
        (words + 1, b"\xff\xff\xfe", "a word names no token"),
        (at["added_raw"] + 4, struct.pack(">I", 1), "added tokens are not as they must be"),
        (first_added + 8, b"\x00", "added tokens are not as they must be"),
        (first_added + 9, b"\x08", "added tokens are not as they must be"),
        (first_added + 4, struct.pack(">I", 0xFFFFFFFF), "added tokens are not as they must be"),
        (at["class_index"], b"\xff\xff", "a class page is missing"),
        (at["class_pages"], b"\xfe", "a class is not as it must be"),
        (at["byte_classes"], b"\xfe", "a class is not as it must be"),
        (at["class_flags"], b"\x10", "a class is not as it must be"),
        (at["automata"] + 4, b"\xff\xff", "an automaton is not as it must be"),
        (at["automata"] + 4, b"\x00\x00", "an automaton is not as it must be"),
        (at["automata"] + 7, b"\x01", "an automaton is not as it must be"),
        (at["automata"], b"\xff\xff\xff\xff", "an automaton is not as it must be"),
        (at["transitions"], b"\x80\x00", "an automaton is not as it must be"),
        (at["transitions"], b"\x7f\xff", "an automaton is not as it must be"),
        *((at["pre_tokenizer"] + i, b"\xff", "a step is not as it must be") for i in range(16)),
        (at["pre_tokenizer"], b"\x02", "a step is not as it must be"),
        (at["normalizer"], b"\x00", "a step is not as it must be"),
        (at["normalizer"], b"\x08", "a step is not as it must be"),
        (at["chars"] + 5, b"\x13", "decompositions are not as they must be"),
        (at["chars"], struct.pack(">I", 0xD800), "decompositions are not as they must be"),
        (at["decompositions"], struct.pack(">I", 0x110000), "decompositions are not as they must be"),
        (at["compositions"] + 8, struct.pack(">I", 0), "compositions are not as they must be"),
        (at["compositions"], struct.pack(">I", 0xFFFFFFFF), "compositions are not as they must be"),
    ]
    check(toy("qwen2").native, breaches)
    unigram = toy("unigram").native
    at = {name: offset for name, (offset, _) in tables_of(unigram.compiled).items()}
    second = unigram.compiled[at["sorted"] + 258 * 4 :][:4]
    breaches = [
        (0, struct.pack(">I", 2), "a table has the wrong size"),
        (at["sorted"], struct.pack(">I", 1), "sorted tokens are not as they must be"),
        (at["sorted"] + 257 * 4, struct.pack(">I", VOCAB), "sorted tokens are not as they must be"),
        (at["sorted"] + 257 * 4, second, "sorted tokens are not as they must be"),
        (at["maps"], struct.pack(">I", 0x110000), "a map is not as it must be"),
        (at["maps"] + 13, b"\x02", "a map is not as it must be"),
        (at["maps"] + 15, b"\x01", "a map is not as it must be"),
        (at["maps"] + 8, struct.pack(">I", 0xFFFFFFFF), "a map is not as it must be"),
        (at["decoder"] + 12, b"\x00\x00", "a step is not as it must be"),
        (at["decoder"] + 4, struct.pack(">I", 0xFFFFFFFF), "a step is not as it must be"),
    ]
    check(unigram, breaches)
    assert validate_tokenizer(section, VOCAB) is None
    assert validate_tokenizer(section, 10) == "its number of tokens does not fit the model"


def check(native: Native, breaches: list[tuple[int, bytes, str]]) -> None:
    section = native.compiled
    for offset, new, expected in breaches:
        damaged = section[:offset] + new + section[offset + len(new) :]
        assert validate_tokenizer(damaged, VOCAB) == expected, (offset, new)
        assert Native(native._library, damaged).validate(VOCAB) == expected, (offset, new)
