"""Calibration: layer by layer gives what the whole graph gives; what a killed pass left is gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n730c.dtypes import Format
from n730c.errors import UsageError
from n730c.files import write_whole
from n730c.frontend.calibrate import Calibration, Moments, linear_inputs
from n730c.frontend.calibration_text import as_conversation, read_text, token_windows
from n730c.frontend.chat_template import read_chat_template
from n730c.frontend.checkpoint import Checkpoint
from n730c.frontend.model import load_model
from n730c.frontend.reference import streamed_logits
from n730c.frontend.walk import Stage, Values, quantize_activations, stages
from n730c.ir.core import Graph
from n730c.ir.interpret import interpret
from n730c.measure import measure
from n730c.profile import SensitivityProfile
from tests.models import DEMO, make_model

IDS, PROBES = np.split(np.random.default_rng(0).integers(0, 2048, (5, 20)), [3])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Checkpoint]:
    return load_model(make_model(tmp_path_factory.mktemp("window"), "qwen2_window"))


class Recorder:
    """Sees every stage; stops the pass when told to."""

    def __init__(self, until: int = 1 << 30) -> None:
        self.until = until
        self.seen: list[int] = []
        self.moments: Moments = {}

    def recorded(self, stage: Stage) -> None:
        pass

    def visit(self, stage: Stage, weights: Values, moments: Moments, state: dict[str, Any]) -> None:
        if stage.index == self.until:
            raise KeyboardInterrupt
        self.seen.append(stage.index)
        self.moments |= moments
        state["stages"] = [*state.get("stages", []), stage.index]


def silent(done: int, total: int, note: str = "") -> None:
    return


def test_stages_are_the_layers(model: tuple[Graph, Checkpoint]) -> None:
    graph, _ = model
    cut = stages(graph)
    assert [stage.layer for stage in cut] == [None, 0, 1, 2, 3, None]
    assert [node for stage in cut for node in stage.nodes] == list(graph.nodes)
    for stage in cut[1:]:
        assert set(stage.reads) <= set(cut[stage.index - 1].writes)


def test_layer_by_layer_gives_the_same_logits(model: tuple[Graph, Checkpoint], tmp_path: Path) -> None:
    graph, checkpoint = model
    windows = [list(map(int, row)) for row in (IDS[0], IDS[1][:7], IDS[2])]
    streamed = list(streamed_logits(graph, checkpoint.tensor, windows, tmp_path, silent))
    for window, logits in zip(windows, streamed, strict=True):
        np.testing.assert_array_equal(logits, interpret(graph, window, checkpoint.tensor))


@pytest.mark.parametrize(("short", "tolerance"), [(False, 1e-4), (True, 2e-2)])
def test_moments_are_those_of_the_inputs(
    short: bool, tolerance: float, model: tuple[Graph, Checkpoint], tmp_path: Path
) -> None:
    graph, checkpoint = model
    calibration = Calibration(graph, checkpoint.tensor, IDS, PROBES, tmp_path)
    calibration.short = short
    recorder = Recorder()
    calibration.run(recorder, silent)
    for index, probe in enumerate(PROBES):  # which have no part in the moments
        np.testing.assert_array_equal(
            calibration.logits(index), interpret(graph, list(map(int, probe)), checkpoint.tensor)
        )
    assert set(recorder.moments) == set(linear_inputs(graph.nodes).values())
    first = next(node for node in graph.nodes if node.layer == 0)  # the norm in front of q, k, v
    weight = checkpoint.tensor(dict(first.params)["weight"])
    x = checkpoint.tensor("model.embed_tokens.weight")[IDS.reshape(-1)]
    normed = weight * x / np.sqrt((x * x).mean(axis=1, keepdims=True) + dict(first.attrs)["eps"])
    np.testing.assert_allclose(
        calibration.moment(first.name), normed.T @ normed / IDS.size, rtol=tolerance, atol=tolerance / 10
    )


@pytest.mark.parametrize("until", [0, 2, 5])
def test_a_pass_goes_on_behind_the_last_finished_layer(
    until: int, model: tuple[Graph, Checkpoint], tmp_path: Path
) -> None:
    graph, checkpoint = model
    whole = Recorder()
    Calibration(graph, checkpoint.tensor, IDS, PROBES, tmp_path / "whole").run(whole, silent)
    with pytest.raises(KeyboardInterrupt):
        Calibration(graph, checkpoint.tensor, IDS, PROBES, tmp_path / "cut").run(Recorder(until), silent)
    second = Recorder()
    state = Calibration(graph, checkpoint.tensor, IDS, PROBES, tmp_path / "cut").run(second, silent)
    assert second.seen == list(range(until, 6)) and state["stages"] == list(range(6))
    for name, moment in second.moments.items():
        np.testing.assert_array_equal(moment, whole.moments[name])


@pytest.mark.parametrize("direct", [False, True])
def test_a_measurement_goes_on_where_the_record_of_a_stage_could_not_be_written(
    direct: bool, model: tuple[Graph, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, checkpoint = model
    names = [name for name in linear_inputs(graph.nodes) if ".1." not in name]

    def profile(folder: Path) -> SensitivityProfile:
        formats = (Format.INT3, Format.INT8)
        return measure(graph, checkpoint.tensor, IDS, formats, names, {}, folder, silent, direct)[0]

    whole = profile(tmp_path / "whole")
    writes = 0

    def write(file: Path, content: bytes) -> None:
        """Every second record of a finished stage does not come about: each stage is measured twice."""
        nonlocal writes
        if file.name == "state.json":
            writes += 1
            if writes % 2:
                raise KeyboardInterrupt
        write_whole(file, content)

    monkeypatch.setattr("n730c.frontend.calibrate.write_whole", write)
    for _ in stages(graph):
        with pytest.raises(KeyboardInterrupt):
            profile(tmp_path / "cut")
    assert profile(tmp_path / "cut") == whole


def test_windows_are_of_one_length_and_spread_over_the_text() -> None:
    text = read_text(None)
    windows = token_windows(DEMO, text, "", 512, 2048)
    assert windows.shape == (4, 512) and len(np.unique(windows[:, :8], axis=0)) == 4
    template = read_chat_template(DEMO)[0]
    chats = token_windows(DEMO, text, template, 512, 2048)
    assert (chats[:2] == windows[::2]).all()
    start = 1  # <|im_start|>
    assert (chats[2:] == start).any() and not (chats[:2] == start).any()
    assert not (windows == token_windows(DEMO, text, "", 512, 2048, seed=1)).all()
    short = token_windows(DEMO, text[:2000], "", 512, 2048)  # of which one can be set aside
    assert len(short) == 4 and 64 <= short.shape[1] < 512
    with pytest.raises(UsageError, match=r"too short .*at least 256 tokens"):
        token_windows(DEMO, "a few words", "", 512, 2048)


def test_a_template_that_refuses_leaves_the_text_as_it_is() -> None:
    text = "some text " * 500
    for template in ("{{ raise_exception('no') }}", "{% broken", "{{ messages[9].content }}"):
        assert as_conversation(text, template) == text
    assert as_conversation("short", read_chat_template(DEMO)[0]) == "short"


def test_activations_are_quantized_as_the_runtime_does() -> None:
    x = np.random.default_rng(1).standard_normal((3, 70)).astype(np.float32)
    x[1, 32:64] = 0
    y = quantize_activations(x)
    assert y.shape == x.shape and (y[1, 32:64] == 0).all()
    steps = np.abs(x[:, :32]).max(axis=1, keepdims=True) / 127
    np.testing.assert_allclose(y[:, :32] / steps, np.rint(x[:, :32] / steps), atol=1e-3)
