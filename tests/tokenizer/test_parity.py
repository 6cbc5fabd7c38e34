"""The native tokenizer gives the ids that the ``tokenizers`` library gives."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tokenizers import normalizers

from tests.tokenizer.conftest import Toy
from tests.tokenizer.texts import boundaries, mixed_text, random_text
from tests.tokenizer.toys import BYTE_KINDS, CHAR_KINDS, KINDS, PIECE_KINDS, VOCAB, added_texts, end_of_text

MakeToy = Callable[[str], Toy]
CORE = ("gpt2", "llama3", "qwen2")


@pytest.mark.parametrize("kind", KINDS)
def test_random_strings(kind: str, toy: MakeToy) -> None:
    subject = toy(kind)
    added = added_texts(subject.original)
    rng = random.Random(f"strings {kind}")
    for _ in range(6000 if kind in CORE else 2500):
        text = random_text(rng, added)
        assert subject.native.encode(text) == subject.original.encode(text, add_special_tokens=False).ids, ascii(text)


@pytest.mark.parametrize("kind", [*BYTE_KINDS, "chars", *PIECE_KINDS])
def test_words(kind: str, toy: MakeToy) -> None:
    """The pre-tokenizer itself: where it cuts, whatever ids the words get."""
    subject = toy(kind)
    rng = random.Random(f"words {kind}")
    contexts = [f"a{c}b {c}1{c} {c}'{c}s{c}{c}\u0301\n{c}\r" for c in boundaries()[:: 1 if kind in CORE else 5]]
    for text in [*(random_text(rng, []) for _ in range(5000 if kind in CORE else 1500)), *contexts]:
        cut = [word for word, _ in subject.original.pre_tokenizer.pre_tokenize_str(text)]
        expected = [len(word) if kind in BYTE_KINDS else len(word.encode()) for word in cut]
        assert subject.native.words(text) == expected, ascii(text)


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_text(kind: str, toy: MakeToy) -> None:
    subject = toy(kind)
    for text in mixed_text(1_000_000 if kind in CORE else 250_000, seed=11):
        expected = subject.original.encode(text, add_special_tokens=False).ids
        assert subject.native.encode(text) == expected, ascii(text[:80])


@pytest.mark.parametrize("kind", KINDS)
def test_every_boundary_character_in_every_context(kind: str, toy: MakeToy) -> None:
    """Both sides of every change of category, between letters, digits, spaces, marks and quotes."""
    subject = toy(kind)
    text = "".join(f"a{c}b {c}1{c} {c}'{c}s{c}{c}\u0301\n{c}" for c in boundaries())
    assert subject.native.encode(text) == subject.original.encode(text, add_special_tokens=False).ids


def test_rules_about_neighbours_of_added_tokens(toy: MakeToy) -> None:
    """lstrip, rstrip and single_word beside every boundary character: the library's own idea of spaces and words."""
    subject = toy("gpt2")
    for c in boundaries():
        text = f"x{c}<mask>{c}y<sep>{c}z{c}<both>{c}{c}word{c} word {c}word"
        assert subject.native.encode(text) == subject.original.encode(text, add_special_tokens=False).ids, ascii(c)


def test_words_found_whole_without_merging(toy: MakeToy) -> None:
    """ignore_merges: tokens that no merge reaches any more are found as words, and only there."""
    subject = toy("llama3")
    reached = {t.id for t in subject.original.model.tokenize("".join(["x"]))}
    unreachable = 0
    for token in range(VOCAB - 60):
        text = subject.native.piece(token).decode("utf-8", errors="replace")
        if "\ufffd" in text:
            continue
        ids = subject.native.encode(text)
        assert ids == subject.original.encode(text, add_special_tokens=False).ids
        longer = subject.native.encode(text + text)
        assert longer == subject.original.encode(text + text, add_special_tokens=False).ids
        unreachable += ids == [token] and token not in reached and longer[:1] != [token]
    assert unreachable > 50


def test_normalization(toy: MakeToy) -> None:
    """Texts that are equal in Normalization Form C get the same ids (no added token stands in the way)."""
    subject = toy("qwen2")
    nfc = normalizers.NFC()
    rng = random.Random(3)
    changed = 0
    for _ in range(3000):
        text = random_text(rng, []).replace("a\u0308", "a")  # an added token that is looked for before normalization
        normal = nfc.normalize_str(text)
        changed += normal != text
        assert subject.native.encode(text) == subject.native.encode(normal), ascii(text)
    assert changed > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_in_front_and_behind(kind: str, toy: MakeToy) -> None:
    subject = toy(kind)
    for text in ("", "Hello", " <|endoftext|><|begin_of_text|></s>", "<s>two words"):
        assert subject.native.encode(text, add_special=True) == subject.original.encode(text).ids
    if kind == "llama3":
        bos = subject.original.token_to_id("<|begin_of_text|>")
        assert subject.native.encode("", add_special=True) == [bos]


@pytest.mark.parametrize("kind", KINDS)
def test_decoding(kind: str, toy: MakeToy) -> None:
    """Streamed token by token, the text is what the library decodes, with and without special tokens."""
    subject = toy(kind)
    rng = random.Random(kind)
    names = [i for i in range(VOCAB) if subject.native.piece(i).startswith(b"<0x")]
    for _ in range(1000):
        ids = rng.choices(range(VOCAB), k=rng.randint(0, 30))
        if names and rng.random() < 0.5:
            ids[len(ids) // 2 : 0] = rng.choices(names, k=rng.randint(1, 5))
            ids += [i for i in subject.native.encode(rng.choice("\u00e9\u4e2d\U0001f642\U0010ffff"))]
        for skip in (False, True):
            expected = subject.original.decode(ids, skip_special_tokens=skip)
            assert subject.native.decode(ids, skip_special=skip) == expected, ids


@pytest.mark.parametrize("kind", ["llama2", "t5", "bert"])
def test_decoding_behind_a_prompt(kind: str, toy: MakeToy) -> None:
    """Text that goes on behind another keeps the space that the beginning of a text would lose."""
    subject = toy(kind)
    ids = subject.native.encode("the word")
    assert subject.native.decode(ids) == "the word"
    assert subject.native.decode(ids, continues=True) == " the word"


def test_flags_and_ids_without_a_token(toy: MakeToy) -> None:
    native = toy("gpt2").native
    assert native.flags(end_of_text(toy("gpt2").original)) == 3  # special, and an end of text as the fixture says
    assert native.flags(1) == 0
    for missing in (-1, VOCAB - 1, VOCAB, 2**31 - 1):
        assert native.piece(missing) == b"" and native.flags(missing) == 0


@pytest.mark.parametrize("kind", CORE)
def test_long_words(kind: str, toy: MakeToy) -> None:
    """Words on both sides of the length from which merging uses a heap."""
    subject = toy(kind)
    rng = random.Random(kind)
    for length in [*range(40, 60), *rng.choices(range(60, 400), k=400)]:
        pieces = [subject.native.piece(i).decode(errors="ignore") for i in rng.choices(range(300, VOCAB), k=length)]
        text = "".join(c for piece in pieces for c in piece if c.isalpha())[:length]
        assert subject.native.encode(text) == subject.original.encode(text, add_special_tokens=False).ids, ascii(text)


@pytest.mark.parametrize(
    "unit", ["a", " ", "\u0301", "\u0327\u0301", "ab", "\n ", "  <mask>", "<ma", "word", "\u1100", "\u2603"]
)
@pytest.mark.parametrize("kind", [*CORE, "gpt4o", "deepseek", "falcon", *CHAR_KINDS, "unigram", "bert"])
def test_long_runs(kind: str, unit: str, toy: MakeToy) -> None:
    """Runs that make a careless encoder quadratic: at this length it would take hours."""
    subject = toy(kind)
    text = unit * 3000
    assert subject.native.encode(text) == subject.original.encode(text, add_special_tokens=False).ids
    long = (unit * (300_000 // len(unit))).encode()
    subject.native.encode(long)


@pytest.mark.parametrize("kind", CORE)
def test_bytes_that_are_no_utf8(kind: str, toy: MakeToy) -> None:
    """No byte is lost: the pieces give the text back (NFC leaves stray bytes alone)."""
    subject = toy(kind)
    rng = random.Random(9)
    for _ in range(2000):
        data = bytes(rng.choices((0x61, 0x20, 0x0A, 0x80, 0xBF, 0xC2, 0xE2, 0xF0, 0xF4, 0xFF), k=rng.randint(0, 20)))
        if kind == "qwen2":
            data = data.replace(b"\xe2\x80\x80", b"").replace(b"\xe2\x80\x81", b"")  # NFC changes these
        ids = subject.native.encode(data)
        assert b"".join(map(subject.native.piece, ids)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_utf8_are_safe(kind: str, toy: MakeToy) -> None:
    subject = toy(kind)
    rng = random.Random(10)
    for _ in range(500):
        ids = subject.native.encode(rng.randbytes(rng.randint(0, 40)))
        assert all(0 <= i < VOCAB for i in ids)
        subject.native.decode(ids)
