"""GGUF files: what they hold comes out as the gguf package has it; what is damaged ends in one line."""

from __future__ import annotations

import json
import re
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from gguf import GGMLQuantizationType as Type

from n730c.dtypes import Format
from n730c.errors import UnsupportedModel
from n730c.families import FAMILIES
from n730c.frontend.chat_template import read_chat_template
from n730c.frontend.gguf_checkpoint import open_gguf_checkpoint
from n730c.frontend.gguf_file import is_gguf, open_gguf
from n730c.frontend.gguf_patterns import WORDS
from n730c.frontend.model import load_model
from n730c.frontend.source import open_source, text_folder
from n730c.frontend.tokenizer import compile_tokenizer
from n730c.ir.text import to_text
from n730c.quant import dequantize, pack
from tests.gguf_files import write_gguf
from tests.models import DEMO, make_family, make_model
from tests.tokenizer.toys import PATTERNS

TYPES = (Type.Q4_0, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.F16, Type.BF16, Type.F32)
Weights = dict[str, np.ndarray]


def mixed(name: str) -> Type:
    """A type for each matrix, all of them in one layer; rows of 688 (down_proj) no block divides."""
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
    return next((kind for part, kind in zip(parts, TYPES, strict=True) if part in name), Type.F16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    """A Llama (256 wide, two layers' worth of every type), and what it stands for."""
    folder = tmp_path_factory.mktemp("gguf")
    make_model(folder / "model", "llama2")
    path = folder / "mixed.gguf"
    return path, write_gguf(folder / "model", path, mixed)


def test_weights_are_those_of_the_gguf_package(file: tuple[Path, Weights]) -> None:
    path, expected = file
    graph, checkpoint = load_model(path)
    assert {param.name for param in graph.params} == set(expected)
    for name, values in expected.items():
        assert np.array_equal(checkpoint.tensor(name), values), name


def test_q4_0_and_q8_0_are_repacked_bit_for_bit(file: tuple[Path, Weights]) -> None:
    path, expected = file
    checkpoint = open_source(path)
    exact = 0
    for name, values in expected.items():
        fmt = (checkpoint.stored_formats() or {})[name]
        found = checkpoint.fields(name, fmt)
        if found is not None:
            stored = pack(fmt, *found)
            assert np.array_equal(dequantize(fmt, stored, *values.shape), values), name
            exact += 1
    assert exact == 8  # q_proj and k_proj of four layers
    assert checkpoint.rounded_again(checkpoint.stored_formats() or {}) == {"Q4_K": 4, "Q5_K": 4, "Q6_K": 4}
    assert checkpoint.rounded_again(dict.fromkeys(expected, Format.INT2))["Q4_0"] == 4


FAMILIES_IN_GGUF = (
    *("Llama 1, 2", "Qwen2, Qwen2.5", "Qwen3", "Gemma", "Gemma 2", "Gemma 3 (text)", "Phi-3, Phi-4"),
    *("Phi-3, long context", "OLMo 2", "Granite", "SmolLM3", "Qwen3-MoE", "OLMoE"),
)


def in_fp32(text: str) -> str:
    """With all numbers as GGUF files store them."""
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", lambda number: str(np.float32(number[0])), text)


@pytest.mark.parametrize("name", FAMILIES_IN_GGUF)
def test_a_family_is_what_its_own_folder_says(name: str, tmp_path: Path) -> None:
    """The same graph with the same weights: every number of the configuration has come through."""
    family = next(f for f in FAMILIES if f.name == name)
    if name == "Gemma 3 (text)":  # the larger ones scale RoPE where there is no window
        rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}}  # fmt: skip
        family = replace(family, settings={**family.settings, "rope_parameters": rope})
    folder = make_family(tmp_path / "model", family)
    write_gguf(folder, tmp_path / "model.gguf", lambda _: Type.F16)
    (own, weights), (found, stored) = load_model(folder, 60), load_model(tmp_path / "model.gguf", 60)
    assert in_fp32(to_text(replace(found, name=own.name))) == in_fp32(to_text(own))
    for param in own.params:
        assert np.array_equal(stored.tensor(param.name), weights.tensor(param.name)), param.name


def test_llama_3_frequencies_are_recognized(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama31")
    config = json.loads((folder / "config.json").read_text())
    for original, fits in ((8192, True), (128, False)):
        config["rope_parameters"]["original_max_position_embeddings"] = original
        (folder / "config.json").write_text(json.dumps(config))
        write_gguf(folder, tmp_path / "model.gguf", lambda _: Type.F16)
        if fits:
            found = open_source(tmp_path / "model.gguf").config["rope_parameters"]
            assert found == config["rope_parameters"]
        else:
            with pytest.raises(UnsupportedModel, match="rope_freqs"):
                open_source(tmp_path / "model.gguf")


def test_text_becomes_tokens_as_in_the_models_folder(tmp_path: Path) -> None:
    write_gguf(DEMO, tmp_path / "demo.gguf", lambda _: Type.Q8_0)
    original = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    with text_folder(tmp_path / "demo.gguf") as folder:
        found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        text = (DEMO / "heldout.txt").read_text()[:20000] + "<|im_start|>user\nà la 2025's  <|im_end|>\t\n\n x"
        assert found.encode(text, add_special_tokens=False).ids == original.encode(text, add_special_tokens=False).ids
        assert read_chat_template(folder)[0] == read_chat_template(DEMO)[0] != ""
        compile_tokenizer(folder, 2048, [0])
    assert open_source(tmp_path / "demo.gguf").eos_ids == (0, 2)  # <|im_end|> ends a turn


def test_words_are_cut_as_the_models_own_tokenizers_do() -> None:
    """The expressions that tests/tokenizer holds against the tokenizers library, and what stands beside them."""
    names = {"llama-bpe": "llama3", "qwen2": "qwen2", "gpt-4o": "gpt4o", "tekken": "tekken", "qwen35": "qwen3.5"}
    for name, kind in {**names, "deepseek-v3": "deepseek", "deepseek-coder": "deepseek-coder"}.items():
        assert list(WORDS[name].splits) == PATTERNS[kind], name
    text = "don't 12 x"
    expected = {"gpt-2": 4, "starcoder": 6, "llama-bpe": 5, "qwen2": 6, "deepseek-coder": 7}
    for name, count in expected.items():
        spec = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
        spec["pre_tokenizer"] = WORDS[name].pre_tokenizer
        words = tokenizers.Tokenizer.from_str(json.dumps(spec)).pre_tokenizer.pre_tokenize_str(text)
        assert len(words) == count, (name, words)


def test_the_first_token_is_put_in_front(tmp_path: Path) -> None:
    write_gguf(DEMO, tmp_path / "a.gguf", lambda _: Type.Q8_0, {"add_bos_token": None, "bos_token_id": 1})
    with text_folder(tmp_path / "a.gguf") as folder:
        found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert found.encode("x").ids[0] == 1  # llama-bpe's default


def joined_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece BPE as it is defined: of all neighbours that make a piece, those of the highest score, leftmost."""
    pieces = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in scores]
        if not pairs:
            return pieces
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def test_sentencepiece_from_pieces_and_scores(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    letters = ["\u2581", *"abcdé"]
    pieces = list(letters)
    while len(pieces) < 300:
        pieces += [p for p in ["".join(random.choice(pieces, 2))] if p not in pieces and len(p) < 9]
    byte_pieces = [f"<0x{b:02X}>" for b in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_pieces, *pieces]
    scores = {p: -float(i) if len(p) > 1 else -1e4 for i, p in enumerate(pieces)}
    changes = {
        "model": "llama",
        "pre": None,
        "merges": None,
        "add_bos_token": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tokens": tokens,
        "token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "scores": [0.0] * 259 + [scores[p] for p in pieces],
    }
    write_gguf(DEMO, tmp_path / "spm.gguf", lambda _: Type.Q8_0, changes)
    with text_folder(tmp_path / "spm.gguf") as folder:
        compile_tokenizer(folder, 2048, [2])
        found = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for _ in range(200):
            text = "".join(random.choice([*"abcdé", " "], 20))
            expected = [tokens.index(p) for p in joined_by_score(f" {text}", scores)]
            assert found.encode(text).ids == [1, *expected], text
        assert [tokens[i] for i in found.encode("aZ", add_special_tokens=False).ids][-1] == "<0x5A>"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown pattern": ({"pre": "nosuch"}, "nosuch"),
    "no pattern": ({"pre": None}, "pre"),
    "other tokenizer": ({"model": "t5"}, "t5"),
    "no scores": ({"model": "llama"}, "scores"),
    "odd merges": ({"merges": ["a b c"]}, "merges"),
    "merge of no tokens": ({"merges": ["zzz yyy"]}, "zzz"),
    "types too short": ({"token_type": [1, 2]}, "token_type"),
    "one text twice": ({"tokens": ["a"] * 2048}, "two tokens"),
    "too many tokens": ({"tokens": [f"t{i}" for i in range(2049)], "token_type": None}, "2048"),
    "end beyond": ({"eos_token_id": 5000}, "eos_token_id"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_odd_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    changes, says = REFUSED[kind]
    write_gguf(DEMO, tmp_path / "a.gguf", lambda _: Type.Q8_0, changes)
    with pytest.raises(UnsupportedModel) as caught, text_folder(tmp_path / "a.gguf"):
        open_source(tmp_path / "a.gguf")
    assert says in str(caught.value) and "\n" not in str(caught.value)


# --- damage ---


def head(file: Path) -> int:
    """Where the first tensor's data begin."""
    return min(tensor.offset for tensor in open_gguf(file).tensors.values())


def test_a_file_that_was_cut_is_refused_wherever(file: tuple[Path, Weights], tmp_path: Path) -> None:
    content = file[0].read_bytes()
    begins = head(file[0])
    random = np.random.default_rng(0)
    places = {
        *range(0, 400),
        *random.integers(400, begins, 60).tolist(),
        begins,
        *(len(content) - n for n in (1, 5000)),
    }
    for size in sorted(places):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(UnsupportedModel, match="cut short") as caught:
            open_gguf_checkpoint(tmp_path / "cut.gguf")
        assert "\n" not in str(caught.value)


def damaged(content: bytes, at: int, kind: str, value: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(kind, changed, at, value)
    return bytes(changed)


def record(content: bytes, name: str) -> int:
    """Where the record of a tensor begins, behind its name."""
    key = name.encode()
    return content.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)


LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "magic": (lambda c: b"GGUX" + c[4:], "first bytes"),
    "version": (lambda c: damaged(c, 4, "<I", 9), "version 9"),
    "big-endian": (lambda c: damaged(c, 4, ">I", 3), "big-endian"),
    "tensor count": (lambda c: damaged(c, 8, "<Q", 1 << 60), "cut short"),
    "value count": (lambda c: damaged(c, 16, "<Q", 1 << 60), "cut short"),
    "key's length": (lambda c: damaged(c, 24, "<Q", 1 << 62), "length of a key"),
    "array's length": (lambda c: damaged(c, c.index(b"ggml.merges") + 19, "<Q", 1 << 61), "length of"),
    "array that is not there": (lambda c: damaged(c, c.index(b"ggml.merges") + 19, "<Q", 1 << 23), "cut short"),
    "dimensions": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight"), "<I", 1 << 31), "dimensions"),
    "shape": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 4, "<Q", 1 << 61), "shape"),
    "no columns": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 4, "<Q", 0), "shape"),
    "other shape": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 4, "<Q", 288), "offset"),
    "part of a block": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 4, "<Q", 250), "multiple of 32"),
    "unknown type": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 20, "<I", 999), "999"),
    "other type": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 20, "<I", 16), "IQ2_XXS|offset"),
    "offset": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 24, "<Q", 64), "offset"),
    "huge offset": (lambda c: damaged(c, record(c, "blk.0.attn_q.weight") + 24, "<Q", (1 << 64) - 32), "offset"),
    "name of no tensor": (lambda c: c.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"), "attn_x"),
    "name twice": (lambda c: c.replace(b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"), "twice"),
    "architecture": (lambda c: c.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxama", 1), "lxama"),
    "layers": (lambda c: damaged(c, c.index(b"llama.block_count") + 21, "<I", 4_000_000_000), "block_count"),
    "heads": (lambda c: damaged(c, c.index(b"llama.attention.head_count") + 30, "<I", 0), "head_count"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_lie_in_the_header_is_refused(kind: str, file: tuple[Path, Weights], tmp_path: Path) -> None:
    damage, says = LIES[kind]
    (tmp_path / "lie.gguf").write_bytes(damage(file[0].read_bytes()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnsupportedModel, match=says) as caught:
        open_gguf_checkpoint(tmp_path / "lie.gguf")
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_random_damage_ends_in_one_line(file: tuple[Path, Weights], tmp_path: Path) -> None:
    content = file[0].read_bytes()
    begins, random = head(file[0]), np.random.default_rng(1)
    for _ in range(150):
        changed = bytearray(content)
        for at in random.integers(0, begins, 3):
            changed[at] = int(random.integers(256))
        (tmp_path / "odd.gguf").write_bytes(changed)
        try:
            with text_folder(tmp_path / "odd.gguf"):
                open_source(tmp_path / "odd.gguf")
        except UnsupportedModel as error:
            assert "\n" not in str(error)


def test_nan_and_unknown_types_name_the_tensor(file: tuple[Path, Weights], tmp_path: Path) -> None:
    content = file[0].read_bytes()
    tensor = open_gguf(file[0]).tensors["blk.1.attn_q.weight"]
    (tmp_path / "nan.gguf").write_bytes(damaged(content, tensor.offset, "<H", 0x7C01))
    checkpoint = open_source(tmp_path / "nan.gguf")
    name = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(UnsupportedModel, match="NaN"):
        checkpoint.tensor(name)
    with pytest.raises(UnsupportedModel, match="NaN"):
        checkpoint.fields(name, Format.INT4)


def test_what_is_called_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"GGUF")
    (tmp_path / "c").write_bytes(b"GG")
    assert [is_gguf(tmp_path / name) for name in ("a.gguf", "b", "c", "d")] == [True, True, False, False]
