"""Does the profile's prediction hold? Whole assignments of formats, run by n730-exec, beside what was foretold.

For random assignments, for mixed INT2/4/8 beside one format at the same size, and for what is chosen with the quicker
measurement that large models get, which is forced upon this model to see what it loses. Part of quality.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.subject import Subject
from n730c.draft import PASSES
from n730c.dtypes import Format
from n730c.frontend.calibrate import linear_inputs
from n730c.frontend.calibration_text import read_text, token_windows
from n730c.frontend.chat_template import read_chat_template
from n730c.frontend.tokenizer import compile_tokenizer
from n730c.measure import measure
from n730c.mixed import CANDIDATES, assignable, calibrate, items, read_basis, stack_bytes
from n730c.package import write_package
from n730c.passes import run_passes
from n730c.passes.assign import Item, assign
from n730c.passes.lower import lower
from n730c.passes.plan import Planner
from n730c.passes.precision import assign_uniform
from n730c.pipeline import _tensor_bytes
from n730c.profile import SensitivityProfile
from n730c.quant.calibrated import Rounder
from n730c.target import load_target
from n730c.verify import divergence_of_probes

SIZES = (2.75, 3.25, 4.0)  # bits a weight at which full and quick measurement choose


def assignments(bench: Assignments, count: int) -> list[str]:
    """Predicted against measured KL of random assignments, then mixed INT2/4/8 against uniform INT2."""
    random = np.random.default_rng(0)
    names = sorted(bench.profile.divergence)
    known = set.intersection(*(set(by) for by in bench.profile.divergence.values()))  # an older profile may lack some
    ladder = sorted(known, key=lambda fmt: (fmt.bits, fmt))
    found, drawn = [], []
    for i in range(count):
        low = int(random.integers(0, len(ladder) - 2))  # a few neighbouring formats, so that all sizes occur
        some = ladder[low : low + int(random.integers(2, 5))]
        formats = {name: some[int(random.integers(len(some)))] for name in names}
        found.append(bench.tried_and_measured(formats))
        drawn.append(formats)
        print(f"assignment {i}: tried {found[-1][0]:.5f}, measured {found[-1][1]:.5f}", flush=True)
    tried, measured = np.array(found).T
    lines = [
        f"{count} random assignments: what each method predicts, against the KL measured. Errors have no unit of their",
        "own: they are multiplied by whatever makes their median right.",
        "",
        "| method | rank correlation | predicted / measured: median | from | to |",
        "|---|---|---|---|---|",
    ]
    quick = bench.quick_profile()
    methods: dict[str, Any] = {"the profile: every format of every tensor carried": bench.profile.predicted}
    methods["the profile of large models: noise carried from each layer"] = quick.predicted
    for method, by in bench.errors().items():
        methods[method] = lambda formats, by=by: sum(by[name][fmt] for name, fmt in formats.items())
    columns = {"a trial of the finished package, on text that was set aside": tried}
    columns |= {method: np.array([predict(formats) for formats in drawn]) for method, predict in methods.items()}
    for method, predicted in columns.items():
        ranks = np.corrcoef(predicted.argsort().argsort(), measured.argsort().argsort())[0, 1]
        ratio = predicted / measured
        middle = float(np.median(ratio))
        if "error" in method:
            ratio, middle = ratio / middle, 1.0
        lines.append(f"| {method} | {ranks:.3f} | {middle:.2f} | {ratio.min():.2f} | {ratio.max():.2f} |")
        print(lines[-1], flush=True)
    lines += ["", "| | bits a weight | KL by the profile | by a trial | measured |", "|---|---|---|---|---|"]

    def row(title: str, formats: dict[str, Format], profile: SensitivityProfile) -> None:
        tried, kl = bench.tried_and_measured(formats)
        bits = 8 * bench.size(formats) / bench.subject.matrix_elements
        lines.append(f"| {title} | {bits:.2f} | {profile.predicted(formats):.4f} | {tried:.4f} | {kl:.4f} |")
        print(lines[-1], flush=True)

    three = (Format.INT2, Format.INT4, Format.INT8)
    for end in (Format.INT4, Format.INT8):
        uniform = {name: end if bench.is_end(name) else Format.INT2 for name in names}
        row(f"INT2, ends {end.name}", uniform, bench.profile)
        row("mixed INT2/4/8", {**uniform, **bench.best(three, bench.size(uniform), bench.profile)}, bench.profile)
    for bits in SIZES:
        for title, profile in (("", bench.profile), (", as large models are measured", quick)):
            row(f"mixed{title}", bench.best(CANDIDATES, bits / 8 * bench.subject.matrix_elements, profile), profile)
    return lines


class Assignments:
    """Packages with formats of our choice: built without kernels of their own, from rounded tensors that are kept."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        file = subject.folder / "profile.json"
        self.graph = run_passes(subject.graph, PASSES)
        self.calibrated = calibrate(
            self.graph, subject.checkpoint, subject.model, read_basis(subject.calibration, file),
            subject.calibration_tokens, lambda done, total, note: None,
        )  # fmt: skip
        self.profile = self.calibrated.profile
        self.tokenizer = compile_tokenizer(subject.model, self.graph.vocab, subject.checkpoint.eos_ids)
        self.target = load_target("gt730")
        self.shapes = {p.name: p.shape for p in self.graph.params}
        layer = {name: node.layer for node in self.graph.nodes for _, name in node.params}
        self.ends = {name for name in self.profile.divergence if layer[name] is None}

    def is_end(self, name: str) -> bool:
        return name in self.ends

    def size(self, formats: dict[str, Format]) -> int:
        return sum(stack_bytes(fmt, self.shapes[name]) for name, fmt in formats.items())

    def best(self, formats: tuple[Format, ...], size: float, profile: SensitivityProfile) -> dict[str, Format]:
        """The assignment of ``formats`` within ``size`` bytes that the profile thinks best."""

        def only(by: Any) -> dict[Format, float]:
            return {fmt: by[fmt] for fmt in formats}

        things = [Item(i.names, only(i.divergence), only(i.price)) for i in items(self.graph, profile)]
        return dict(assign(things, size).formats)

    def quick_profile(self) -> SensitivityProfile:
        """As it is measured in large models."""
        subject = self.subject
        content = read_text(subject.calibration)
        template = read_chat_template(subject.model)[0]
        windows = token_windows(subject.model, content, template, self.graph.context, subject.calibration_tokens)
        with tempfile.TemporaryDirectory() as folder:
            return measure(
                self.graph, subject.checkpoint.tensor, windows, CANDIDATES, assignable(self.graph), {}, Path(folder),
                lambda done, total, note: None, direct=False,
            )[0]  # fmt: skip

    def errors(self) -> dict[str, dict[str, dict[Format, float]]]:
        """What could be said of each tensor and format without carrying anything to the output."""
        subject = self.subject
        errors: dict[str, dict[str, dict[Format, float]]] = {"error of the weights": {}, "error of the outputs": {}}
        errors["error of the outputs, relative"] = {}
        moments = {}
        known = linear_inputs(self.graph.nodes)
        for name in self.profile.divergence:
            weight, value = subject.checkpoint.tensor(name), known.get(name)
            if value is not None:
                moments = {value: self.calibrated.calibration.moment(value)}
            plain, outputs, relative = (by.setdefault(name, {}) for by in errors.values())
            for fmt, rounded, error in Rounder(moments).trials(weight, value, CANDIDATES):
                plain[fmt] = float(np.square(weight - rounded).sum())
                outputs[fmt] = error
                whole = weight if value is None else weight @ moments[value]
                relative[fmt] = error / float((whole * weight).sum())
        return errors

    def tried_and_measured(self, formats: dict[str, Format]) -> tuple[float, float]:
        """KL of a package of these formats: on the probes of its calibration, and on the subject's text."""
        every = {**assign_uniform(self.graph, "int8"), **formats}
        program = lower(self.graph, every, Format.F16)
        plans = Planner(program, self.target, len(self.tokenizer), self.graph.context).plans(self.target.ram_bytes)
        path = self.subject.folder / "assignment.n730"
        encoded = _tensor_bytes(program, self.graph, self.subject.checkpoint, self.calibrated)
        write_package(path, program, plans, (), encoded, self.tokenizer, b"", {})
        tried = divergence_of_probes(path, self.calibrated.calibration, lambda done, total, note: None)
        return tried, self.subject.measured(path)[0]
