"""Measure what every tensor costs at every format: the KL divergence of the model's output.

During the calibration pass, with a layer's weights at hand, its matrices are rounded, and the layer's output with one
of them in place is carried on through all later layers, beside the unchanged one, up to the logits (`_Trials`). Windows
that the rounder never saw are used, so that what it learned by heart does not count. Trials of all tensors at once say
by how much the sum of the parts falls short of the whole.

In large models that is done once a layer instead of once a matrix and format: all matrices of the layer get noise like
that of rounding, and the sum of what it changes at the layer's end is carried on. The divergence that comes of it is
divided among the matrices by what each alone changed there, relative to the token's own length, and among the formats
by the rounder's error under the inputs' second moments (benchmarks/quality shows both ways against the truth).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from n730c.dtypes import Format
from n730c.frontend.calibrate import Calibration, Moments, Progress, in_order, linear_inputs
from n730c.frontend.walk import Activations, Stage, Values, quantize_activations, run_stage
from n730c.ir.core import Graph, Node, Op
from n730c.ir.ops import Array
from n730c.profile import SensitivityProfile
from n730c.quant.calibrated import Rounder, coarse

PROBES = 4  # windows that the rounder does not see
TRIED = (PROBES, 256)  # of these, and of the tokens of each, at most: what trials are carried on for
LARGE_TRIED = (2, 128)  # the same of large models
DIRECT = 1e12  # multiplications of trials above which a model is large
ANCHOR = Format.INT3  # on which the rounder's error is compared with its estimate then
# Trials that round no tensor, only what integer matrices read: all of it, and by the name of the value that is read.
ACTIVATIONS = "(activations)"
TOGETHER = "(together)"  # trials that round every tensor at once: by how much divergences do not add up
WHOLE = (Format.NL2, Format.INT3, Format.NL4, Format.INT5)  # to which they round, spread over what is chosen
# Params that are measured, by op
MATRICES: Mapping[Op, tuple[str, ...]] = {
    Op.LINEAR: ("weight",),
    Op.EMBEDDING: ("weight",),
    Op.EXPERTS: ("gate_up", "down"),
}


@dataclass
class _Trials:
    """A visitor that makes trials, carries them on, and compares them at the end."""

    calibration: Calibration
    probes: npt.NDArray[np.int64]  # i64[probes, tokens]: the beginnings of the calibration's
    formats: tuple[Format, ...]
    direct: bool
    names: Collection[str]  # of the matrices that are tried
    known: dict[str, str]  # by matrix: the value it reads
    store: Activations = field(init=False)

    def __post_init__(self) -> None:
        widths = {node.name: node.width for node in self.calibration.graph.nodes}
        self.store = Activations(self.calibration.folder / "trials", self.probes.shape[1], widths)

    # ---- the visitor ----

    def visit(self, stage: Stage, weights: Values, moments: Moments, state: dict[str, Any]) -> None:
        trials: list[list[str]] = state.setdefault("trials", [])
        last = stage.index + 1 == len(self.calibration.stages)
        if stage.index == 0:
            whole = [fmt for fmt in WHOLE if fmt in self.formats] if self.direct else [ANCHOR]
            trials += [[ACTIVATIONS, ""], *([TOGETHER, fmt.name] for fmt in whole)]
        carried = [k for k, trial in enumerate(trials) if trial[0] != TOGETHER]
        bases = list(in_order(len(self.probes), lambda j: run_stage(stage, self._inputs(stage, j), weights)))
        reference = [_log_softmax(base[self.calibration.graph.output]) for base in bases] if last else []
        found: dict[str, dict[str, float]] = state.setdefault("divergence", {})

        def settle(trial: Sequence[str], outputs: Sequence[Values]) -> None:
            kl = np.mean(
                [_divergence(r, o[self.calibration.graph.output]) for r, o in zip(reference, outputs, strict=True)]
            )
            by = found.setdefault(trial[0], {})
            by[trial[1]] = by.get(trial[1], 0.0) + float(kl)  # a tied matrix has two trials: as embedding, as head

        # a layer's coarse noise is some ten times that of products in BF16; its logits' divergence is not
        short = None if self.direct or last else self.calibration.short_products(weights)

        def carry(k: int, own: Mapping[str, Array] = weights) -> list[Values]:
            observe = _quantized if trials[k] == [ACTIVATIONS, ""] else None
            multiply = short if observe is None and own is weights else None
            outputs = []
            for j in range(len(self.probes)):
                start = stage.index == 0
                values = self._inputs(stage, j) if start else self._own(stage, k, j)
                outputs.append(run_stage(stage, values, own, observe, multiply=multiply))
            return outputs

        for k, outputs in zip(carried, in_order(len(carried), lambda i: carry(carried[i])), strict=True):
            self._keep(stage, k, outputs, last, trials[k], settle)
        rounder = Rounder(moments)
        names = [name for name in _matrices(stage) if name in self.names]

        def rerun(name: str, rounded: Array) -> list[Values]:
            own = {**weights, name: rounded.reshape(weights[name].shape)}
            again = partial(_rerun, stage, bases, own, stage.behind(name))
            return list(in_order(len(bases), again))

        def begin(trial: list[str], outputs: Sequence[Values]) -> None:
            trials.append(trial)
            self._keep(stage, len(trials) - 1, outputs, last, trial, settle)

        changed: dict[str, Values] = {name: {} for kind, name in trials if kind == TOGETHER}

        def read_in_8_bits(value: str) -> list[Values]:
            again = partial(_in_8_bits, stage, bases, weights, value)
            return list(in_order(len(bases), again))

        linear = (node for node in stage.nodes if node.op is Op.LINEAR and node.param("weight") in self.names)
        inputs = list(dict.fromkeys(node.inputs[0] for node in linear))
        if self.direct or last:
            for value in inputs:
                begin([ACTIVATIONS, value], read_in_8_bits(value))
        if self.direct:
            for name in names:
                for fmt, rounded, _ in rounder.trials(_flat(weights[name]), self.known.get(name), self.formats):
                    begin([name, fmt.name], rerun(name, rounded))
                    if fmt.name in changed:
                        changed[fmt.name][name] = rounded.reshape(weights[name].shape)
        else:
            parts: list[list[Any]] = state.setdefault("parts", [])
            sum_of_changes = _Together(stage, bases)
            for name, (noisy, noise, errors) in self._estimates(rounder, names, weights, bases, moments):
                outputs = rerun(name, noisy)
                trial = [name if last else f"(stage {stage.index})", ANCHOR.name]
                share = 1.0 if last else sum_of_changes.add(outputs)
                parts.append([name, trial, share, noise, {fmt.name: error for fmt, error in errors.items()}])
                if last:
                    begin(trial, outputs)
            if names and not last:
                begin(trial, sum_of_changes.outputs)
                total = sum_of_changes.change(sum_of_changes.outputs)
                for part in parts[-len(names) :]:
                    part[2] /= max(total, 1e-30)
                shares: list[list[Any]] = state.setdefault("inputs", [])
                for value in inputs:
                    share = sum_of_changes.change(read_in_8_bits(value)) / max(total, 1e-30)
                    shares.append([value, trial, share])
            del rounder  # and its factorization: the noise of a whole layer is as large as the layer
            changed[ANCHOR.name] = {name: coarse(_flat(weights[name])).reshape(weights[name].shape) for name in names}
        for k, trial in enumerate(trials):
            if trial[0] == TOGETHER:
                self._keep(stage, k, carry(k, {**weights, **changed[trial[1]]}), last, trial, settle)

    def recorded(self, stage: Stage) -> None:
        self.store.drop(stage.index - 1)

    def _estimates(
        self, rounder: Rounder, names: Sequence[str], weights: Values, bases: Sequence[Values], moments: Moments
    ) -> Iterator[tuple[str, tuple[Array, float, dict[Format, float]]]]:
        """What ``Rounder.estimates`` says of each matrix, those that read the same together."""
        for read, group in groupby(names, self.known.get):
            some = list(group)
            seen = np.concatenate([base[read] for base in bases]) if read and read in moments else None
            found = rounder.estimates([_flat(weights[name]) for name in some], read, self.formats, ANCHOR, seen)
            yield from zip(some, found, strict=True)

    def _keep(
        self,
        stage: Stage,
        k: int,
        outputs: Sequence[Values],
        last: bool,
        trial: Sequence[str],
        settle: Callable[..., None],
    ) -> None:
        if last:
            settle(trial, outputs)
            return
        for j, values in enumerate(outputs):
            self.store.put(stage.index, self._slot(k, j), values, stage.writes)

    # ---- sequences ----

    def _slot(self, trial: int, probe: int) -> int:
        return trial * len(self.probes) + probe

    def _inputs(self, stage: Stage, j: int) -> Values:
        """Of the unchanged model."""
        return self.calibration.inputs(stage, len(self.calibration.windows) + j, self.probes.shape[1])

    def _own(self, stage: Stage, trial: int, j: int) -> Values:
        ids: Any = self.probes[j]
        found: Values = dict.fromkeys(self.calibration.graph.inputs, ids)
        return found | self.store.get(stage.index - 1, self._slot(trial, j), stage.reads)


class _Together:
    """What several matrices change at a stage's end, added up."""

    def __init__(self, stage: Stage, bases: Sequence[Values]) -> None:
        self.writes = stage.writes
        self.bases = bases
        self.outputs: list[Values] = [{name: base[name].copy() for name in stage.writes} for base in bases]

    def add(self, outputs: Sequence[Values]) -> float:
        """Add what these differ by from the unchanged; how much that is."""
        for total, base, own in zip(self.outputs, self.bases, outputs, strict=True):
            for name in self.writes:
                total[name] += own[name] - base[name]
        return self.change(outputs)

    def change(self, outputs: Sequence[Values]) -> float:
        """The squared change of a token, relative to the token's own squared length, summed."""
        found = 0.0
        for base, own in zip(self.bases, outputs, strict=True):
            for name in self.writes:
                length = np.square(base[name], dtype=np.float64).sum(axis=1)
                found += float(
                    (np.square(own[name] - base[name], dtype=np.float64).sum(axis=1) / (length + 1e-30)).sum()
                )
        return found


def _rerun(stage: Stage, bases: Sequence[Values], weights: Values, changed: Collection[str], j: int) -> Values:
    return run_stage(stage, bases[j], weights, None, changed)


def _in_8_bits(stage: Stage, bases: Sequence[Values], weights: Values, value: str, j: int) -> Values:
    """The stage again, where linear layers read this value in 8 bits."""

    def observe(node: Node, x: Array) -> Array:
        return quantize_activations(x) if node.inputs[0] == value else x

    return run_stage(stage, bases[j], weights, observe, stage.reading(value))


def _quantized(_: Node, x: Array) -> Array:
    return quantize_activations(x)


def _matrices(stage: Stage) -> list[str]:
    """Matrices, or stacks of them, of a stage that may be rounded, each once."""
    names = [node.param(role) for node in stage.nodes for role in MATRICES.get(node.op, ())]
    return list(dict.fromkeys(name for name in names if name is not None))


def _flat(weight: Array) -> Array:
    """A stack of matrices as one."""
    return weight.reshape(-1, weight.shape[-1])


def _log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _divergence(reference: npt.NDArray[np.float64], logits: Array) -> float:
    return float((np.exp(reference) * (reference - _log_softmax(logits))).sum(axis=-1).mean())


def split_windows(windows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(what the rounder learns from, the probes): these are spread over the text."""
    count = min(PROBES, max(1, len(windows) // 4)) if len(windows) > 1 else 0
    held = [(2 * i + 1) * len(windows) // (2 * count) for i in range(count)]
    rest = [i for i in range(len(windows)) if i not in held]
    return windows[rest], windows[held or [0]]


def measure(
    graph: Graph,
    weights: Callable[[str], Array],
    windows: npt.NDArray[np.int64],
    formats: Sequence[Format],
    names: Collection[str],
    sources: Mapping[str, str],
    folder: Path,
    progress: Progress,
    direct: bool | None = None,
) -> tuple[SensitivityProfile, Calibration]:
    """The profile of a model, and the calibration whose moments the rounder will want.

    ``names``: matrices that are measured. ``windows``: token ids i64[windows, tokens]; ``folder`` keeps what a
    run that was ended left. ``direct``: carry a
    trial of every format of every tensor; by default where the model is not large. Raises N730Error.
    """
    learned, probes = split_windows(windows)
    shapes = {p.name: p.shape for p in graph.params}
    known = linear_inputs(graph.nodes)
    size = sum(int(np.prod(shapes[name])) for name in known)
    work = size / 2 * len(known) * len(formats) * probes[:, : TRIED[1]].size
    if direct is None:
        direct = work <= DIRECT
    calibration = Calibration(graph, weights, learned, probes, folder)
    count, length = TRIED if direct else LARGE_TRIED
    visitor = _Trials(calibration, probes[:count, :length], tuple(formats), direct, names, known)
    state = calibration.run(visitor, progress)
    found: dict[str, dict[str, float]] = state["divergence"]
    inputs = found.pop(ACTIVATIONS)
    activations = inputs.pop("")
    together = found.pop(TOGETHER)
    sums = {name: sum(by[name] for by in found.values()) for name in together}
    for value, trial, share in state.get("inputs", ()):
        inputs[value] = found[trial[0]][trial[1]] * share
    if direct:
        divergence = {name: {fmt: by[fmt.name] for fmt in formats} for name, by in found.items()}
    else:
        divergence = _divided(found, state["parts"], formats)
    digest = hashlib.sha256(np.ascontiguousarray(windows).tobytes()).hexdigest()
    method = "every format carried" if direct else "noise carried from each layer, divided by change and error"
    pairs = tuple(sorted((sums[name], both) for name, both in together.items()))
    profile = SensitivityProfile(
        dict(sources), digest, int(windows.size), method, activations, divergence, pairs, inputs
    )
    return profile, calibration


def _divided(
    found: Mapping[str, Mapping[str, float]], parts: Sequence[Sequence[Any]], formats: Sequence[Format]
) -> dict[str, dict[Format, float]]:
    """The divergence of each tensor and format, from that of trials that several tensors share."""
    divergence: dict[str, dict[Format, float]] = {}
    for name, trial, share, noise, errors in parts:
        by = divergence.setdefault(name, dict.fromkeys(formats, 0.0))  # a tied matrix is in two stages
        for fmt in formats:
            by[fmt] += found[trial[0]][trial[1]] * share * errors[fmt.name] / max(noise, 1e-30)
    return divergence
