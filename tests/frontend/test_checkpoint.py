"""Reading a Hugging Face folder: exact bits, lazily; every kind of damage in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from n730c.dtypes import Format
from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import open_checkpoint
from tests.frontend.conftest import CONFIGS, save

TENSOR = "model.norm.weight"


@pytest.fixture
def folder(models: Callable[[str], Path], tmp_path: Path) -> Path:
    """A sound folder with one weight file, free to be damaged."""
    return Path(shutil.copytree(models("llama2"), tmp_path / "model"))


def refusal(folder: Path, tensor: str | None = None) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        checkpoint = open_checkpoint(folder)
        if tensor:
            checkpoint.raw(tensor)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bits_are_kept(tmp_path: Path) -> None:
    tensors = {
        "f32": torch.tensor([[1.1, -2.0], [0.0, 3e-39]]),
        "f16": torch.tensor([[1.1, -2.0, 6e-8]], dtype=torch.float16),
        "bf16": torch.tensor([1.1, -0.0, 3e38], dtype=torch.bfloat16),
        "nothing": torch.zeros(0, 3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.names == ("bf16", "f16", "f32", "nothing")
    for name, tensor in tensors.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert np.array_equal(checkpoint.tensor(name), tensor.float().numpy())
    for name, fmt, bits in (("f16", Format.F16, tensors["f16"]), ("bf16", Format.BF16, tensors["bf16"])):
        raw = checkpoint.raw(name)
        assert raw.format is fmt and raw.data.dtype == np.uint16
        assert np.array_equal(raw.data, bits.view(torch.int16).numpy().view(np.uint16))


@given(st.integers(0, 0xFFFF))
def test_every_bfloat16_is_read_as_torch_reads_it(bits: int) -> None:
    from n730c.frontend.checkpoint import RawTensor

    found = RawTensor(Format.BF16, np.array([bits], dtype=np.uint16)).to_float32()
    expected = torch.tensor([bits - (bits >> 15 << 16)], dtype=torch.int16).view(torch.bfloat16).float().numpy()
    assert np.array_equal(found, expected, equal_nan=True)


def test_name_eos_and_hashes(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert checkpoint.name == "model"
    assert checkpoint.eos_ids == (2,)
    weights = (folder / "model.safetensors").read_bytes()
    assert checkpoint.sha256()["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert list(checkpoint.sha256()) == ["config.json", "generation_config.json", "model.safetensors"]
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert open_checkpoint(folder).eos_ids == (5, 7)
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(UnsupportedModel, match="eos_token_id"):
        _ = open_checkpoint(folder).eos_ids
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).eos_ids == (2,)


def test_broken_folders(folder: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").startswith("no folder ")
    assert "is not a folder" in refusal(folder / "config.json")
    for content, expected in (("{", "is not JSON"), ("\xff", "is not JSON"), ("[1]", "expected a JSON object")):
        (folder / "config.json").write_bytes(content.encode("latin-1"))
        assert expected in refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no weights" in refusal(folder) and "found pytorch_model.bin" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "found neither" in refusal(folder)


def header(entries: object, data: bytes = b"") -> bytes:
    content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(content).to_bytes(8, "little") + content + data


def entry(dtype: object = "F32", shape: object = (2,), span: object = (0, 8)) -> dict[str, object]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": span}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cut short (expected 8 bytes, found 0)"),
        (b"\0" * 7, "cut short (expected 8 bytes, found 7)"),
        (b"\xff" * 20, "header length"),
        (header({})[:-1], "cut short"),
        (header(b"{]"), "header (expected JSON"),
        (header(b"[" * 100_000), "header (expected JSON"),
        (header([]), "header (expected a JSON object, found list)"),
        (header({"t": 3}), "header of tensor t"),
        (header(entry(dtype="F4")), "dtype of tensor t"),
        (header(entry(dtype=None)), "dtype of tensor t"),
        (header(entry(shape=[-1])), "shape of tensor t"),
        (header(entry(shape=[2.0])), "shape of tensor t"),
        (header(entry(shape=[True])), "shape of tensor t"),
        (header(entry(span=[0])), "data_offsets of t"),
        (header(entry(span=[8, 0])), "size of tensor t"),
        (header(entry(span=[0, 12])), "size of tensor t"),
        (header(entry(shape=[2**40, 2**40])), "size of tensor t"),
        (header(entry(span=[4, 12]), b"\0" * 12), "offset of tensor t"),
        (header(entry() | {"u": entry()["t"]}, b"\0" * 16), "offset of tensor"),
        (header(entry(), b"\0" * 7), "cut short"),
        (header(entry(), b"\0" * 9), "length of the file"),
    ],
)
def test_damaged_weight_files(content: bytes, expected: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert expected in refusal(folder)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_cut_and_any_flipped_header_bit_is_read_or_refused(
    models: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = models("llama2")
    content = bytearray((source / "model.safetensors").read_bytes())
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copy(source / "config.json", folder)
    cut = data.draw(st.integers(0, len(content) - 1), label="cut")
    (folder / "model.safetensors").write_bytes(content[:cut])
    assert refusal(folder)
    bit = data.draw(st.integers(0, 8 * (8 + int.from_bytes(content[:8], "little")) - 1), label="bit")
    content[bit // 8] ^= 1 << bit % 8
    (folder / "model.safetensors").write_bytes(content)
    try:
        open_checkpoint(folder)  # a flipped letter of a name is no damage that a header shows
    except UnsupportedModel as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    tensor = torch.ones(3, 4, dtype=dtype)
    tensor[1, 2] = value
    save_file({"good": torch.ones(2), "bad": tensor}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    open_checkpoint(tmp_path).raw("good")
    assert refusal(tmp_path, "bad").startswith("tensor bad holds NaN or Inf at [1, 2]")


def test_shards(tmp_path: Path) -> None:
    save(tmp_path, CONFIGS["llama2"](), max_shard_size="30KB")
    index = tmp_path / "model.safetensors.index.json"
    sound = json.loads(index.read_text())
    shard = sound["weight_map"][TENSOR]
    assert open_checkpoint(tmp_path).tensor(TENSOR).shape == (48,)
    assert {index.name, shard, "config.json"} <= set(open_checkpoint(tmp_path).sha256())

    def damaged(weight_map: object) -> str:
        index.write_text(json.dumps({"weight_map": weight_map}))
        return refusal(tmp_path)

    assert f"tensor no.such.tensor (expected it in {shard}" in damaged(sound["weight_map"] | {"no.such.tensor": shard})
    assert "expected the name of a file" in damaged({TENSOR: "../elsewhere.safetensors"})
    assert "expected the name of a file" in damaged({TENSOR: 3})
    assert "expected a weight_map" in damaged({})
    index.write_text(json.dumps(sound))
    (tmp_path / shard).write_bytes((tmp_path / shard).read_bytes()[:-5])
    assert f"{shard} is cut short" in refusal(tmp_path)
    (tmp_path / shard).unlink()
    assert refusal(tmp_path).startswith(f"shard {shard} is missing")
    index.write_text("not JSON")
    assert "is not JSON" in refusal(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    last = max(checkpoint.names, key=lambda name: checkpoint.entries[name].offset)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnsupportedModel, match="is cut short"):
        checkpoint.raw(last)
