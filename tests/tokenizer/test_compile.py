"""Reading Hugging Face tokenizers: what is taken, what is refused and with which words."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from n730c.errors import UnsupportedModel
from n730c.frontend.tokenizer import check_tokenizer, compile_tokenizer
from n730c.tokenizer_format import TABLES
from n730c.tokenizer_validate import validate_tokenizer
from tests.tokenizer.conftest import Toy
from tests.tokenizer.native import ROOT, Native
from tests.tokenizer.texts import random_text
from tests.tokenizer.toys import GPT2, KINDS, VOCAB, added_texts, end_of_text, save

MakeToy = Callable[[str], Toy]


def changed(toy: Toy, folder: Path, **fields: Any) -> Path:
    """The toy's tokenizer.json with fields replaced (``model``: updated)."""
    spec = json.loads(toy.original.to_str())
    model = {**spec["model"], **fields.pop("model", {})}
    (folder / "tokenizer.json").write_text(json.dumps({**spec, **fields, "model": model}))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_to_the_same_bytes(kind: str, toy: MakeToy) -> None:
    compiled = toy(kind).native.compiled
    assert compile_tokenizer(toy(kind).folder, VOCAB, [end_of_text(toy(kind).original)]) == compiled
    assert validate_tokenizer(compiled, VOCAB) is None
    assert toy(kind).native.validate(VOCAB) is None


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen2", "deepseek"])
def test_the_build_time_check_passes_and_can_fail(kind: str, toy: MakeToy) -> None:
    native = toy(kind).native
    check_tokenizer(native.compiled, toy(kind).folder, native.encode)
    damaged = bytearray(native.compiled)
    index, pages = (
        struct.unpack_from(">I", damaged, 32 + 8 * TABLES.index(f"class_{t}"))[0] for t in ("index", "pages")
    )
    at = pages + 256 * struct.unpack_from(">H", damaged, index)[0]  # the page of ASCII
    damaged[at + ord("e")] ^= damaged[at + ord("1")] ^ damaged[at + ord("e")]  # e is a digit now
    other = Native(native._library, bytes(damaged))
    with pytest.raises(UnsupportedModel, match=r"differs from the original on .*expected .* at token"):
        check_tokenizer(other.compiled, toy(kind).folder, other.encode)


def test_the_demo_models_tokenizer(library: Any) -> None:
    folder = ROOT / "examples/demo-model"
    native = Native(library, compile_tokenizer(folder, 2048, [0]))
    check_tokenizer(native.compiled, folder, native.encode)
    assert (
        native.encode("<|im_start|>user")
        == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("<|im_start|>user").ids
    )


@pytest.mark.parametrize("variant", ["prefix space", "GPT-2 as Split", "Sequence of one", "merges as text", "no rule"])
def test_variations(variant: str, toy: MakeToy, library: Any, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(toy("gpt2").original.to_str())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if variant == "prefix space":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif variant == "GPT-2 as Split":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(GPT2), "isolated"), byte_level])
    elif variant == "Sequence of one":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    elif variant == "no rule":
        spec = json.loads(tokenizer.to_str())
        spec["added_tokens"] = [t for t in spec["added_tokens"] if t["special"]]
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    folder = save(tokenizer, tmp_path)
    if variant == "merges as text":
        spec = json.loads(tokenizer.to_str())
        spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
        (folder / "tokenizer.json").write_text(json.dumps(spec))
    native = Native(library, compile_tokenizer(folder, VOCAB, []))
    rng = random.Random(variant)
    added = added_texts(tokenizer)
    for _ in range(1500):
        text = random_text(rng, added)
        assert native.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids, ascii(text)


def test_bytes_without_a_token_are_dropped(toy: MakeToy, library: Any, tmp_path: Path) -> None:
    spec = json.loads(toy("llama3").original.to_str())
    model = spec["model"]
    for lost in "\u0120zQ\u00a9":  # space, z, Q, and the byte 0xA9
        model["vocab"]["lost " + lost] = model["vocab"].pop(lost)
    model["merges"] = [m for m in model["merges"] if set(m).isdisjoint(set("\u0120zQ\u00a9"))]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    native = Native(library, compile_tokenizer(tmp_path, VOCAB, []))
    rng = random.Random(1)
    for _ in range(1500):
        text = random_text(rng, ["zQ", "Q z"]) + "zaz Qé"
        assert native.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids, ascii(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"normalizer": {"type": "ByteLevel"}},
            r"normalizer is not supported \(expected one of NFC, .*, found ByteLevel",
        ),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKD"}]}},
            "expected one Unicode normal form, found NFC and NFKD",
        ),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAA"}},
            "normalizer is not supported .*found Precompiled",
        ),
        ({"decoder": None}, "decoder is not supported .expected ByteLevel .*, found null"),
        ({"decoder": {"type": "ByteFallback"}}, "decoder is not supported .*ByteFallback"),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "pre-tokenizer is not supported .*found UnicodeScripts"),
        ({"model": {"dropout": 0.5}}, "BPE option dropout is not supported .expected none, found 0.5"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix is not supported"),
    ],
)
def test_refusals(fields: dict[str, Any], message: str, toy: MakeToy, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message) as caught:
        compile_tokenizer(changed(toy("gpt2"), tmp_path, **fields), VOCAB, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        (r"a(?<=b)", r"expected groups .*, found \(\?<=b\)"),
        (r"(?>a|ab)c", r"expected groups .*found \(\?>"),
        (r"(a)\1", r"expected escapes of characters and classes, found \\\\1"),
        (r"\bword", "expected escapes of characters"),
        (r"^a", r"expected an expression without \^"),
        (r"a*", "expected matches that are not empty"),
        (r"(?:ab)++c", "possessive quantifiers behind single characters"),
        (r"\d{1,3}(?=(?:\d{3})*\b)", "expected"),
        (r"a{1,100000}", "expected a quantifier of at most 256"),
        (r"(?:(?:a{256}){256}){256}", "too large"),
        (r"(?i:\p{L})", r"expected \(\?i:\) around single characters"),
    ],
)
def test_refused_patterns(regex: str, message: str, toy: MakeToy, tmp_path: Path) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    steps = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    with pytest.raises(UnsupportedModel, match=message) as caught:
        compile_tokenizer(changed(toy("gpt2"), tmp_path, pre_tokenizer=steps), VOCAB, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("behavior", ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"])
@pytest.mark.parametrize(
    "regex",
    [
        r"[a-f]+?x?|[^\s\w]{2,}|\d(?!\d)",
        r"(?i)th|e(?=r|$)|[[:x]&&[^y]]|\.\z",
        r"\s++(?!a)|x*+y|q?+u|[^]a]{0,2}z",
        r"a+b|a|u+\n?h",
        r"(a|ab)(c|bcd)|[\u0061-\x{7a}]\n|\p{^L}\p{Greek}|.(?:\h)",
    ],
)
def test_expressions(regex: str, behavior: str, toy: MakeToy, library: Any, tmp_path: Path) -> None:
    """Every construct that is taken, with every behavior, inverted or not, against the library's own engine."""
    tokenizer = Tokenizer.from_str(toy("gpt2").original.to_str())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for invert in (False, True):
        split = pre_tokenizers.Split(Regex(regex), behavior, invert)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        native = Native(library, compile_tokenizer(save(tokenizer, tmp_path), VOCAB, []))
        rng = random.Random(regex)
        for _ in range(400):
            text = "".join(rng.choices("aabbccdefgthTHrquxyz]:. \n12\u03b1\u03b2\u00e9!?\u017f", k=rng.randint(1, 14)))
            expected = [len(word) for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
            assert native.words(text) == expected, text


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    with pytest.raises(UnsupportedModel, match=r"model is not supported .expected BPE, Unigram or WordPiece, found W"):
        compile_tokenizer(tmp_path, VOCAB, [])


@pytest.mark.parametrize("merge", [["a", "\u00ff\u00ff"], ["a", "z"]])
def test_inconsistent_merges(merge: list[str], toy: MakeToy, tmp_path: Path) -> None:
    merges = [*json.loads(toy("gpt2").original.to_str())["model"]["merges"][:50], merge]
    with pytest.raises(UnsupportedModel, match=r"is damaged .*out of vocabulary") as caught:
        compile_tokenizer(changed(toy("gpt2"), tmp_path, model={"merges": merges}), VOCAB, [])
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(tmp_path: Path, toy: MakeToy) -> None:
    with pytest.raises(UnsupportedModel, match="has no tokenizer"):
        compile_tokenizer(tmp_path, VOCAB, [])
    whole = toy("gpt2").original.to_str().encode()
    for data in (b"", b"{", b"[]", b"{}", b"\xff\xfe", whole[: len(whole) // 2], whole.replace(b'"vocab"', b'"v"')):
        (tmp_path / "tokenizer.json").write_bytes(data)
        with pytest.raises(UnsupportedModel, match="is damaged") as caught:
            compile_tokenizer(tmp_path, VOCAB, [])
        assert "\n" not in str(caught.value)


def test_other_files_are_converted_or_refused(toy: MakeToy, tmp_path: Path) -> None:
    """Without tokenizer.json: GPT-2's two files are enough, a SentencePiece file without its library is not."""
    spec = json.loads(toy("gpt2").original.to_str())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "vocab.json").write_text(json.dumps({**spec["model"]["vocab"], "<|endoftext|>": 2940}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, spec["model"]["merges"])))
    compiled = compile_tokenizer(tmp_path, VOCAB, [])
    assert validate_tokenizer(compiled, VOCAB) is None
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UnsupportedModel, match=r"has no tokenizer .*found tokenizer.model, which .* cannot") as caught:
        compile_tokenizer(tmp_path, VOCAB, [])
    assert "\n" not in str(caught.value)


def test_vocabulary_and_model_must_fit(toy: MakeToy, tmp_path: Path) -> None:
    count = toy("llama3").original.get_vocab_size()
    with pytest.raises(
        UnsupportedModel, match=rf"does not fit the model .expected 1 to {count - 1} tokens.* found {count}"
    ):
        compile_tokenizer(toy("llama3").folder, count - 1, [])
    padded = compile_tokenizer(toy("llama3").folder, 100_000, [])
    assert padded == compile_tokenizer(toy("llama3").folder, count, [])
    with pytest.raises(UnsupportedModel, match="does not fit"):
        compile_tokenizer(toy("llama3").folder, count, [count])


def test_limits_of_added_tokens(toy: MakeToy, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(toy("qwen2").original.to_str())
    tokenizer.add_tokens(["x" * 256])
    with pytest.raises(UnsupportedModel, match=r"added token is not supported .expected at most 255 bytes"):
        compile_tokenizer(save(tokenizer, tmp_path), VOCAB, [])
    tokenizer = Tokenizer.from_str(toy("qwen2").original.to_str())
    tokenizer.add_tokens([AddedToken("\u00e9x", normalized=True), AddedToken("e\u0301x", normalized=True)])
    with pytest.raises(UnsupportedModel, match="no two of the same normalized text"):
        compile_tokenizer(save(tokenizer, tmp_path), VOCAB, [])
