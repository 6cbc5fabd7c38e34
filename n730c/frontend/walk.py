"""Run a graph layer by layer over many sequences, with the weights of one layer in memory at a time.

A *stage* is a run of nodes of one layer (or of none: the embedding, the head). What a stage leaves to later ones is
kept in files, so that memory does not grow with the number of layers or of tokens. The arithmetic is that of the IR's
references: whatever op the compiler knows can be calibrated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from n730c.errors import N730Error
from n730c.files import system_errors
from n730c.ir.core import Graph, Node, Op
from n730c.ir.ops import OPS, Array

GO_ON = "Free some space; the next run goes on from the last finished layer."

Values = dict[str, Array]
Multiply = Callable[[Array, str], Array]  # x f32[s, features] and a matrix's name → x Wᵀ
Observe = Callable[[Node, Array], Array]  # sees a linear layer's input, gives what the layer shall read


@dataclass(frozen=True)
class Stage:
    """Consecutive nodes of one layer. ``reads``, ``writes``: values from earlier stages and for later ones."""

    index: int
    layer: int | None
    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def weights(self) -> tuple[str, ...]:
        """Names of the tensors and tables that the stage reads, each once."""
        return tuple(dict.fromkeys(name for node in self.nodes for _, name in node.params))

    def behind(self, weight: str) -> frozenset[str]:
        """Nodes whose results depend on this tensor."""
        return self._reached(lambda node: weight in (name for _, name in node.params))

    def reading(self, value: str) -> frozenset[str]:
        """Linear nodes that read this value, and those whose results depend on theirs."""
        return self._reached(lambda node: node.op is Op.LINEAR and node.inputs[0] == value)

    def _reached(self, begins: Callable[[Node], bool]) -> frozenset[str]:
        changed: set[str] = set()
        for node in self.nodes:
            if begins(node) or changed.intersection(node.inputs):
                changed.add(node.name)
        return frozenset(changed)


def stages(graph: Graph) -> tuple[Stage, ...]:
    """The graph cut at the borders of its layers."""
    runs = [tuple(nodes) for _, nodes in groupby(graph.nodes, key=lambda node: node.layer)]
    made: list[Stage] = []
    for index, nodes in enumerate(runs):
        own = {node.name for node in nodes}
        later = {name for run in runs[index + 1 :] for node in run for name in node.inputs} | {graph.output}
        reads = tuple(dict.fromkeys(n for node in nodes for n in node.inputs if n not in own | {*graph.inputs}))
        writes = tuple(node.name for node in nodes if node.name in later)
        # what an earlier stage left and a later one still wants is handed on
        passed = tuple(n for n in (made[-1].writes if made else ()) if n in later and n not in own)
        made.append(Stage(index, nodes[0].layer, nodes, tuple(dict.fromkeys((*reads, *passed))), (*writes, *passed)))
    return tuple(made)


def load_weights(graph: Graph, stage: Stage, weights: Callable[[str], Array]) -> Values:
    """The tensors and tables of one stage as float32."""
    consts = {c.name: np.array(c.values, dtype=np.float32) for c in graph.consts}
    return {name: consts[name] if name in consts else weights(name) for name in stage.weights()}


def run_stage(
    stage: Stage,
    values: Mapping[str, Array],
    weights: Mapping[str, Array],
    observe: Observe | None = None,
    changed: Collection[str] | None = None,
    multiply: Multiply | None = None,
) -> Values:
    """All values that the stage computes for one sequence, by name.

    ``values``: the ids and what the stage reads, ``[s, features]``; with ``changed`` also the results of all its nodes
    that are not in it: only those in it are computed again. ``multiply``: how linear layers do it, if not as their
    reference does.
    """
    known: Values = dict(values)
    for node in stage.nodes:
        if changed is not None and node.name not in changed:
            continue
        operands = tuple(known[name] for name in node.inputs)
        if observe is not None and node.op is Op.LINEAR:
            operands = (observe(node, operands[0]),)
        params = {role: weights[name] for role, name in node.params}
        if multiply is not None and node.op is Op.LINEAR:
            known[node.name] = multiply(operands[0], str(node.param("weight"))) + params.get("bias", np.float32(0))
            continue
        known[node.name] = OPS[node.op].reference(operands, params, dict(node.attrs))
    return known


class Activations:
    """What stages leave to later ones: files of float32 sequences of one length, in ``folder``."""

    def __init__(self, folder: Path, tokens: int, widths: Mapping[str, int]) -> None:
        self.folder, self.tokens, self.widths = folder, tokens, dict(widths)
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, stage: int, value: str) -> Path:
        return self.folder / f"{stage:04}.{value}.f32"

    def put(self, stage: int, index: int, values: Mapping[str, Array], names: Collection[str]) -> None:
        """Keep the values ``names`` of sequence ``index``. Raises N730Error when the disk is full."""
        for name in names:
            file = self._file(stage, name)
            data = np.ascontiguousarray(values[name], dtype=np.float32)
            room = "room for what the calibration leaves from layer to layer"
            with (
                system_errors(f"cannot write {file}", expected=room, hint=GO_ON, kind=N730Error),
                # never truncated: several threads write their sequences side by side
                os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as out,
            ):
                out.seek(index * self.tokens * self.widths[name] * 4)
                out.write(data.tobytes())

    def get(self, stage: int, index: int, names: Collection[str], tokens: int | None = None) -> Values:
        """The first ``tokens`` tokens (all by default) of the values ``names`` of sequence ``index``."""
        found: Values = {}
        count = tokens or self.tokens
        for name in names:
            width = self.widths[name]
            with self._file(stage, name).open("rb") as file:
                file.seek(index * self.tokens * width * 4)
                data = np.frombuffer(file.read(count * width * 4), dtype=np.float32)
            found[name] = data.reshape(count, width)
        return found

    def drop(self, stage: int) -> None:
        """Forget what this stage left."""
        for file in self.folder.glob(f"{stage:04}.*.f32"):
            file.unlink()


def quantize_activations(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What an integer matrix reads (FORMAT.md §4, QUANTIZE): groups of 32 in steps of a 127th of the largest."""
    tokens, width = x.shape
    padded = np.zeros((tokens, -(-width // 32) * 32), dtype=np.float32)
    padded[:, :width] = x
    groups = padded.reshape(tokens, -1, 32)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    rounded: npt.NDArray[np.float32] = np.rint(groups * inverse) * (largest / np.float32(127))
    return rounded.reshape(tokens, -1)[:, :width]
