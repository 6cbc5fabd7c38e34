"""Calibration: one pass through the model, layer by layer, that collects moments of linear layers' inputs.

In memory are one layer's weights and its moments; what goes from layer to layer is in files. Every finished layer is
recorded, so that a pass that was ended at any moment goes on behind the last one. What else is to be measured on the
way (the rounder's trials) is given as a ``Visitor``: it sees each layer with its weights and moments at hand.

Some windows, the *probes*, go through the model beside the others without a part in the moments. What the original
makes of them is kept: on text that the rounder never saw the finished package is compared with it (n730c/verify.py).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController

from n730c.errors import N730Error
from n730c.files import system_errors, write_whole
from n730c.frontend.walk import GO_ON, Activations, Multiply, Stage, Values, load_weights, run_stage, stages
from n730c.ir.core import Graph, Node, Op
from n730c.ir.ops import Array

_PRODUCT_TOKENS = 2048  # whose second moments are added at once
_PRODUCT_WIDTH = 512  # features that one thread works on
_LARGE = 1 << 28  # weights of linear layers from which on moments are worth BF16 where the processor multiplies it

Progress = Callable[[int, int, str], None]  # (done, total, note)
Moments = dict[str, Array]  # by the name of the value that linear layers read: mean of x xᵀ, f32[features, features]


class Visitor(Protocol):
    """What is done at each stage beside the pass itself. ``state`` is kept with the pass and given back on resuming."""

    def visit(self, stage: Stage, weights: Values, moments: Moments, state: dict[str, Any]) -> None: ...

    def recorded(self, stage: Stage) -> None:
        """A run that is ended from now on goes on behind this stage: what only it has read is of no more use."""


@lru_cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def in_order(count: int, work: Callable[[int], Any]) -> Iterator[Any]:
    """``work(0)`` … ``work(count - 1)`` on all cores, results in order, at most as many as there are cores held.

    Meanwhile numpy multiplies with one thread: threads of threads wait for each other most of the time.
    """
    workers = os.cpu_count() or 1
    with _libraries().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        for first in range(0, count, workers):
            yield from pool.map(work, range(first, min(count, first + workers)))


class _Short:
    """A pass in BF16, as models are made for: more than twice as fast where the processor has its products.

    Good enough for moments and for what coarse rounding changes, but not for what the original is compared by. Nor for
    the sums of the moments themselves: rounded to BF16 they are not positive definite any more.
    """

    def __init__(self, weights: Values) -> None:
        self.weights, self.held = weights, dict[str, torch.Tensor]()

    def multiply(self, x: Array, name: str) -> Array:
        torch.set_num_threads(1)  # of this thread
        if name not in self.held:
            self.held[name] = _bf16(self.weights[name])
        return np.asarray((_bf16(x) @ self.held[name].T).float().numpy())


def _bf16(x: Array) -> torch.Tensor:
    return torch.from_numpy(x if x.flags.writeable else x.copy()).bfloat16()


class Calibration:
    """One pass over ``windows`` and ``probes``, recorded in ``folder``. ``weights(name)`` reads a tensor.

    Both are token ids i64[windows, tokens], of the same length; only ``windows`` count in the moments.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Callable[[str], Array],
        windows: npt.NDArray[np.int64],
        probes: npt.NDArray[np.int64],
        folder: Path,
    ) -> None:
        self.graph, self.weights, self.windows, self.probes, self.folder = graph, weights, windows, probes, folder
        self.stages = stages(graph)
        shapes = {p.name: p.shape for p in graph.params}
        size = sum(math.prod(shapes[name]) for name in linear_inputs(graph.nodes))
        self.short = size >= _LARGE and bool(torch.cpu._is_avx512_bf16_supported())
        widths = {node.name: node.width for node in graph.nodes}
        self.activations = Activations(folder / "activations", windows.shape[1], widths)

    # ---- the pass ----

    def run(self, visitor: Visitor, progress: Progress) -> dict[str, Any]:
        """Go through the model, or on behind the last finished stage; the visitor's state at the end.

        Raises N730Error when the disk is full; what was recorded stays.
        """
        done, state = self._recorded()
        for stage in self.stages[done:]:
            progress(stage.index, len(self.stages), _title(stage))
            weights = load_weights(self.graph, stage, self.weights)
            moments = self._pass(stage, weights)
            for name, moment in moments.items():
                self._write(self.moment_file(name), _packed(moment))
            visitor.visit(stage, weights, moments, state)
            self._write(self.folder / "state.json", json.dumps({"done": stage.index + 1, "state": state}).encode())
            visitor.recorded(stage)
            self.activations.drop(stage.index - 1)
        progress(len(self.stages), len(self.stages), "")
        return state

    def _pass(self, stage: Stage, weights: Values) -> Moments:
        last = stage.index + 1 == len(self.stages)
        sums: Moments = {}
        count = self.windows.size
        short = self.short_products(weights)

        def one(index: int) -> dict[str, Array]:
            seen: dict[str, Array] = {}

            def observe(node: Node, x: Array) -> Array:
                seen[node.inputs[0]] = x
                return x

            probe = index - len(self.windows)
            # of the last stage only the linear layers' inputs are wanted, not the logits of every token
            wanted = self._before_logits(stage, last) if probe < 0 else None
            multiply = short if probe < 0 else None
            values = run_stage(stage, self.inputs(stage, index), weights, observe, wanted, multiply)
            if last and probe >= 0:
                self._write(self._logits_file(probe), values[self.graph.output].tobytes())
            elif last:
                for node in stage.nodes:
                    if node.op is Op.LINEAR and node.inputs[0] in values:
                        seen[node.inputs[0]] = values[node.inputs[0]]
            else:
                self.activations.put(stage.index, index, values, stage.writes)
            return seen if probe < 0 else {}

        pending: dict[str, list[Array]] = {}
        waiting = 0
        for index, seen in enumerate(in_order(len(self.windows) + len(self.probes), one)):
            for name, x in seen.items():
                pending.setdefault(name, []).append(x)
            waiting += self.windows.shape[1]
            if pending and (waiting >= _PRODUCT_TOKENS or index + 1 == len(self.windows)):
                _add_products(sums, {name: np.concatenate(some) for name, some in pending.items()})
                pending, waiting = {}, 0
        for moment in sums.values():
            moment /= np.float32(count)
            for at in range(0, len(moment), _PRODUCT_WIDTH):
                span = slice(at, at + _PRODUCT_WIDTH)
                moment[at:, span] = moment[span, at:].T.copy()
        return sums

    def short_products(self, weights: Values) -> Multiply | None:
        """How linear layers may multiply where BF16 is good enough; None: as their reference does, which is faster."""
        return _Short(weights).multiply if self.short else None

    def _before_logits(self, stage: Stage, last: bool) -> tuple[str, ...] | None:
        return tuple(node.name for node in stage.nodes if node.name != self.graph.output) if last else None

    def inputs(self, stage: Stage, index: int, tokens: int | None = None) -> Values:
        """What a stage reads of one window (behind the last: of a probe): the ids, and what the stage before left."""
        probe = index - len(self.windows)
        ids: Any = (self.windows[index] if probe < 0 else self.probes[probe])[:tokens]
        found: Values = dict.fromkeys(self.graph.inputs, ids)
        return found | self.activations.get(stage.index - 1, index, stage.reads, tokens)

    # ---- what is kept ----

    def _recorded(self) -> tuple[int, dict[str, Any]]:
        try:
            content = json.loads((self.folder / "state.json").read_bytes())
            return int(content["done"]), dict(content["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, {}

    def moment_file(self, value: str) -> Path:
        return self.folder / f"{value}.moment"

    def moment(self, value: str) -> Array:
        """Mean of x xᵀ of a value that linear layers read, f32[features, features]."""
        return _unpacked(np.fromfile(self.moment_file(value), dtype=np.float32))

    def _logits_file(self, probe: int) -> Path:
        return self.folder / f"logits-{probe}"

    def logits(self, probe: int) -> Array:
        """What the original makes of a probe, f32[tokens, vocab]."""
        flat = np.fromfile(self._logits_file(probe), dtype=np.float32)
        return flat.reshape(self.probes.shape[1], -1)

    def _write(self, file: Path, content: bytes) -> None:
        with system_errors(
            f"cannot write {file}", expected="room for what the calibration collects", hint=GO_ON, kind=N730Error
        ):
            write_whole(file, content)


def _add_products(sums: Moments, inputs: Moments) -> None:
    """Add xᵀ x of each input, what is right of the diagonal, to its sum. Many tokens at a time: the sums are large."""
    for name, x in inputs.items():
        if name not in sums:
            sums[name] = np.zeros((x.shape[1], x.shape[1]), dtype=np.float32)
    blocks = [(name, at) for name, x in inputs.items() for at in range(0, x.shape[1], _PRODUCT_WIDTH)]

    def add(index: int) -> None:
        name, at = blocks[index]
        x = inputs[name]
        sums[name][at : at + _PRODUCT_WIDTH, at:] += x[:, at : at + _PRODUCT_WIDTH].T @ x[:, at:]

    for _ in in_order(len(blocks), add):
        pass


def _title(stage: Stage) -> str:
    return "embedding and head" if stage.layer is None else f"layer {stage.layer}"


def _packed(moment: Array) -> bytes:
    """The upper triangle, row after row: half the bytes."""
    return b"".join(moment[i, i:].tobytes() for i in range(len(moment)))


def _unpacked(data: npt.NDArray[np.float32]) -> Array:
    width = int((np.sqrt(8.0 * len(data) + 1) - 1) / 2 + 0.5)
    moment = np.empty((width, width), dtype=np.float32)
    at = 0
    for i in range(width):
        row = data[at : at + width - i]
        moment[i, i:] = row
        moment[i:, i] = row
        at += width - i
    return moment


def linear_inputs(nodes: Sequence[Node]) -> dict[str, str]:
    """Of each matrix that linear layers multiply by: the name of the value they read.

    Experts' first matrices read what their router reads; nothing is known of what their last ones read.
    """
    found: dict[str, str] = {}
    for node in nodes:
        name = node.param("gate_up" if node.op is Op.EXPERTS else "weight")
        if node.op in (Op.LINEAR, Op.EXPERTS) and name is not None:
            found[name] = node.inputs[0]
    return found
