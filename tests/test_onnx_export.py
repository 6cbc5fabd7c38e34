"""ONNX out: onnxruntime, which shares no code with the interpreter, gives the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from n730c.cli import run
from n730c.errors import UsageError
from n730c.families import FAMILIES, Family
from n730c.frontend.model import load_model
from n730c.ir.interpret import interpret
from n730c.onnx_export import export
from tests.models import make_family

NAMES = ("Llama 1, 2", "Qwen2, Qwen2.5", "Gemma 2", "GPT-2", "GPT-NeoX, Pythia", "Cohere Command R", "Nemotron")
CHOSEN = [family for family in FAMILIES if family.name in NAMES]


def logits(model: Path, ids: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(str(model), full_check=True)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], {"ids": ids})[0]
    return found


@pytest.mark.parametrize("family", CHOSEN, ids=lambda family: family.name)
def test_onnxruntime_equals_the_interpreter(family: Family, tmp_path: Path) -> None:
    folder = make_family(tmp_path / "model", family)
    run(["export-onnx", str(folder), "-o", str(tmp_path / "m.onnx")])
    graph, checkpoint = load_model(folder)
    for length in (1, 40):
        ids = np.random.default_rng(length).integers(0, graph.vocab, length)
        expected, found = interpret(graph, ids, checkpoint.tensor), logits(tmp_path / "m.onnx", ids)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_large_weights_lie_beside_the_graph(tmp_path: Path) -> None:
    folder = make_family(tmp_path / "model", CHOSEN[0])
    inside, outside = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert export(folder, inside) == (inside,)
    beside = tmp_path / "b.onnx.data"
    assert export(folder, outside, most_inside=1000) == (beside, outside)
    assert outside.stat().st_size < 100_000 < beside.stat().st_size
    ids = np.arange(1, 30)
    assert np.array_equal(logits(inside, ids), logits(outside, ids))


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    folder = make_family(tmp_path / "model", CHOSEN[0])
    with pytest.raises(UsageError, match=r"will not overwrite .*expected a new file or an older ONNX model"):
        export(folder, folder / "config.json")
    with pytest.raises(UsageError, match=r"cannot write .*expected a file in an existing folder"):
        export(folder, tmp_path / "no" / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
