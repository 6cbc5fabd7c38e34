"""GGUF files through the whole road: bits kept where a format holds them, logits of the weights that they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM

from n730c.artifacts import split_block_name
from n730c.cli import run
from n730c.dtypes import Format
from n730c.evaluate import compare_logits
from n730c.package import read_package
from n730c.quant import dequantize
from tests.e2e.conftest import n730c
from tests.e2e.test_parity import held_out_ids, runtime_logits
from tests.gguf_files import write_gguf
from tests.models import DEMO

KEEPS = {Type.Q8_0: "INT8", Type.Q4_0: "INT4", Type.F16: "F16"}


@pytest.mark.parametrize("kind", KEEPS, ids=lambda kind: kind.name)
def test_the_demo_model_as_gguf(kind: Type, tmp_path: Path) -> None:
    weights = write_gguf(DEMO, tmp_path / "demo.gguf", lambda _: kind)
    package = tmp_path / "demo.n730"
    run(["build", str(tmp_path / "demo.gguf"), "--target", "gt730", "--no-tune", "-o", str(package)])
    content = read_package(package)
    for index, tensor in enumerate(content.program.tensors):
        if not tensor.is_vector:
            assert tensor.format.name == KEEPS[kind]
            stored = dequantize(tensor.format, content.tensor_bytes(index), tensor.rows, tensor.cols)
            assert np.array_equal(stored, weights[tensor.name]), tensor.name
    ids = held_out_ids(200)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = runtime_logits(package, ids, tmp_path, "--trust")
    kl, same = compare_logits(expected, found)
    assert kl.mean() <= (1e-6 if kind is Type.F16 else 1e-3)  # the rest is our int8 activations
    assert same.mean() >= (0.99 if kind is Type.F16 else 0.95)


def test_other_types_are_rounded_again_with_a_notice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(DEMO, tmp_path / "a.gguf", lambda name: Type.Q6_K if "o_proj" not in name else Type.Q4_0)
    run(["build", str(tmp_path / "a.gguf"), "--target", "gt730", "--no-tune", "-o", str(tmp_path / "a.n730"), "--json"])
    out, err = capfd.readouterr()
    assert json.loads(out)["precision"] == "stored"
    assert [line for line in err.splitlines() if "note:" in line] == [
        "n730c: note: tensors that no format here holds bit for bit are decoded and rounded again: 25 of type Q6_K."
    ]


def test_experts_of_a_gguf_file(models: Callable[[str], Path], tmp_path: Path) -> None:
    """Mixtral as llama.cpp stores it: all experts of a layer in one tensor for gate, one for up, one for down."""
    router = "block_sparse_moe.gate.weight"
    weights = write_gguf(
        models("mixtral"), tmp_path / "a.gguf", lambda name: Type.F32 if name.endswith(router) else Type.Q4_0
    )
    run(["build", str(tmp_path / "a.gguf"), "--target", "gt730", "--no-tune", "-o", str(tmp_path / "a.n730")])
    content = read_package(tmp_path / "a.n730")
    experts = 0
    for index, tensor in enumerate(content.program.tensors):
        name, rows = split_block_name(tensor.name)
        if "experts" in name:
            assert tensor.format is Format.INT4
            stored = dequantize(tensor.format, content.tensor_bytes(index), tensor.rows, tensor.cols)
            assert np.array_equal(stored, weights[name].reshape(-1, tensor.cols)[rows]), tensor.name
            experts += 1
    assert experts == 3 * 8 * 3
    assert np.isfinite(runtime_logits(tmp_path / "a.n730", held_out_ids(30), tmp_path)).all()


def test_a_plan_from_a_gguf_file(tmp_path: Path) -> None:
    write_gguf(DEMO, tmp_path / "demo.gguf", lambda _: Type.Q4_0)
    done = n730c("plan", tmp_path / "demo.gguf", "--target", "gt730", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["fits"] and facts["precision"] == "stored" and 4.5 <= facts["bits_per_weight"] < 4.6


def test_a_damaged_file_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0")
    done = n730c("build", tmp_path / "cut.gguf", "--target", "gt730", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cut short" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf"]
