"""From a model to a format per tensor: calibrate, measure, assign under a budget; and then to the rounded bytes."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import numpy as np

from n730c.codegen.select import cache_folder
from n730c.dtypes import Format, matrix_bytes
from n730c.errors import BudgetExceeded, UsageError
from n730c.files import destination, locked, write_whole
from n730c.frontend.calibrate import Calibration, Moments, Progress, linear_inputs
from n730c.frontend.calibration_text import read_text, token_windows
from n730c.frontend.chat_template import read_chat_template
from n730c.frontend.checkpoint import Checkpoint
from n730c.frontend.walk import Stage, Values
from n730c.ir.core import Graph, Op
from n730c.measure import MATRICES, measure, split_windows
from n730c.passes.assign import Assignment, Item, assign, curve
from n730c.passes.precision import assign_uniform
from n730c.profile import SensitivityProfile, check_profile, read_profile
from n730c.quant.calibrated import Rounder

CALIBRATION_TOKENS = 16_384
CANDIDATES = tuple(fmt for fmt in Format if fmt.is_integer)
ORIGINAL_BITS = 16  # a weight: more than that loses nothing
OTHERS = "int4"  # of the matrices that are not assigned
_POINTS = 24  # of the Pareto curve
_RECORD = 6  # of what a calibration that was ended leaves; another compiler's is not gone on with


@dataclass(frozen=True)
class Calibrated:
    """What one pass over the calibration text left: the profile, and the moments that the rounder wants."""

    profile: SensitivityProfile
    calibration: Calibration
    folder: Path
    lock: TextIO  # held as long as this process works in the folder

    def forget(self) -> None:
        """Remove what was kept for resuming."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _claim(wanted: Path) -> tuple[Path, TextIO]:
    """A folder to work in and the lock on it: the one that is wanted, or one beside it while another build is in it."""
    for number in count():
        folder = wanted.with_name(f"{wanted.name}-{number}") if number else wanted
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("a")
        except FileNotFoundError:  # removed by the build that was in it, just now
            continue
        except OSError as error:
            raise UsageError(
                f"cannot write {folder}",
                expected="a folder that can be written to",
                found=error.strerror or str(error),
                hint="Name another with N730C_CACHE.",
            ) from error
        if locked(lock):
            return folder, lock
        lock.close()
    raise AssertionError  # count() does not end


class _Nothing:
    """A visitor that measures nothing: the profile is known already."""

    def visit(self, stage: Stage, weights: Values, moments: Moments, state: dict[str, object]) -> None:
        return

    def recorded(self, stage: Stage) -> None:
        return


@dataclass(frozen=True)
class Basis:
    """What is calibrated on: the text, and what is known of its outcome. ``file``: of the profile, to read or write."""

    text: str
    known: SensitivityProfile | None = None
    file: Path | None = None


def read_basis(text: Path | None, profile: Path | None, bits_per_weight: float | None = None) -> Basis:
    """Read both before the work begins, once (they may be pipes). Raises N730Error for what cannot be right."""
    content = read_text(text)
    known = None
    if profile is not None and profile.exists():
        known = read_profile(profile)
    elif profile is not None:
        destination(profile, b"{", "profile", "--profile")
    if bits_per_weight is not None and bits_per_weight > ORIGINAL_BITS:
        raise above_original("--bpw", f"at most {ORIGINAL_BITS}", f"{bits_per_weight:g}")
    return Basis(content, known, profile)


def calibrate(
    graph: Graph,
    checkpoint: Checkpoint,
    texts: Path,
    basis: Basis,
    tokens: int,
    progress: Progress,
    measured: bool = True,
    seed: int = 0,
) -> Calibrated:
    """Run the calibration, or go on with one that was ended; measure the profile, unless it is known.

    ``texts``: the folder of the tokenizer and the chat template. Without ``measured`` there is no profile (it
    is empty): one format for all needs none.
    A measured profile is written to the file if one is named. Raises N730Error for a text or profile of no use.
    """
    windows = token_windows(texts, basis.text, read_chat_template(texts)[0], graph.context, tokens, seed)
    sources = checkpoint.sha256()
    known = None if measured else SensitivityProfile(sources, "", 0, "none", 0.0, {})
    if measured and basis.known is not None and basis.file is not None:
        known = basis.known
        check_profile(known, sources, assignable(graph), basis.file)
    kind = [_RECORD, sources, sorted(f.name for f in CANDIDATES), known is None, graph.context, graph.tables_for]
    digest = hashlib.sha256(json.dumps(kind).encode())
    digest.update(np.ascontiguousarray(windows).tobytes())
    folder, lock = _claim(cache_folder() / "calibration" / digest.hexdigest()[:24])
    if known is not None:
        calibration = Calibration(graph, checkpoint.tensor, *split_windows(windows), folder)
        calibration.run(_Nothing(), progress)
        return Calibrated(known, calibration, folder, lock)
    found, calibration = measure(
        graph, checkpoint.tensor, windows, CANDIDATES, assignable(graph), sources, folder, progress
    )
    if basis.file is not None:
        found.write(basis.file)
    return Calibrated(found, calibration, folder, lock)


# ---- the choice ----


@dataclass(frozen=True)
class Choice:
    """The formats of all tensors, the assignment that they come from, and the curve that it lies on (bytes, KL)."""

    formats: Mapping[str, Format]
    assignment: Assignment
    curve: tuple[tuple[float, float], ...]
    predicted: float
    wide: frozenset[str] = frozenset()  # values that matrices read in 16 bits
    activations: float = 0.0  # of what is predicted: the 8 bits of the other values
    factor: float = 1.0  # all losses above are the profile's times this

    def corrected(self, whole: float) -> Choice:
        """The same where a trial of the whole package lost ``whole`` nats: everything predicted in that proportion.

        Only sums need it: which tensors want more bits than others, what each costs alone says well.
        """
        factor = whole / self.predicted if self.predicted > 0 else 1.0
        curve = tuple((price, factor * loss) for price, loss in self.curve)
        return replace(self, curve=curve, predicted=whole, activations=factor * self.activations, factor=factor)


Prices = Callable[[str, Format], float]  # of a tensor in a format


def items(graph: Graph, profile: SensitivityProfile, prices: Prices | None = None) -> list[Item]:
    """The knapsack's items, by default priced in bytes of the file."""
    shapes = {p.name: p.shape for p in graph.params}
    price = prices or (lambda name, fmt: float(stack_bytes(fmt, shapes[name])))
    return [
        Item((name,), by, {fmt: price(name, fmt) for fmt in by})
        for name, by in profile.divergence.items()
        if name in shapes
    ]


def least_price(graph: Graph, profile: SensitivityProfile, prices: Prices | None = None) -> float:
    """Of all matrices with the cheapest formats; what is not assigned costs bytes alone."""
    least = sum(min(item.price.values()) for item in items(graph, profile, prices))
    return least if prices else least + others_bytes(graph, profile.divergence.keys())


def choose(
    graph: Graph,
    profile: SensitivityProfile,
    budget: float,
    prices: Prices | None = None,
    activations: str = "auto",
) -> Choice:
    """The best formats whose matrices cost at most ``budget`` together, by default bytes. Raises BudgetExceeded.

    ``activations``: as for ``SensitivityProfile.widened``.
    """
    things = items(graph, profile)
    if prices is None:
        chosen = assign(things, budget - others_bytes(graph, profile.divergence.keys()))
    else:
        chosen = assign(items(graph, profile, prices), budget)
        size = sum(item.price[chosen.formats[item.names[0]]] for item in things)
        chosen = replace(chosen, price=size)
    formats = {**assign_uniform(graph, OTHERS), **chosen.formats}
    least, most = (sum(f(i.price.values()) for i in things) for f in (min, max))
    budgets = [least + (most - least) * (k / (_POINTS - 1)) ** 1.5 for k in range(_POINTS)]

    def widened(divergence: float) -> tuple[float, frozenset[str], float]:
        """What is predicted of such formats, and of it the inputs: see ``Choice``."""
        weights = profile.expected(divergence) - profile.activations
        wide, left = profile.widened(weights, activations)
        return weights + left, wide, left

    points = tuple((a.price, widened(a.divergence)[0]) for a in curve(things, budgets))
    return Choice(MappingProxyType(formats), chosen, points, *widened(chosen.divergence))


def above_original(option: str, expected: str, found: str) -> BudgetExceeded:
    return BudgetExceeded(
        f"{option} is above the size of the original",
        expected=expected,
        found=found,
        hint="Build with --precision bf16 or fp16, which lose nothing.",
    )


def assignable(graph: Graph) -> frozenset[str]:
    """Matrices that get a format of their own, all experts of a layer one for both their first and one for their last.

    What chooses experts is left alone, and so are learned positions.
    """
    measured = {node.param(role) for node in graph.nodes for role in MATRICES.get(node.op, ())}
    return frozenset(n for n, f in assign_uniform(graph, OTHERS).items() if n in measured and f.is_integer)


def others_bytes(graph: Graph, assigned: Collection[str]) -> int:
    """Bytes of the matrices that are not assigned."""
    formats = assign_uniform(graph, OTHERS)
    shapes = {p.name: p.shape for p in graph.params}
    return sum(stack_bytes(formats[name], shapes[name]) for name in matrices(graph) - set(assigned))


def stack_bytes(fmt: Format, shape: tuple[int, ...]) -> int:
    """What a matrix, or a stack of them, takes in the file."""
    *stack, rows, cols = shape
    return math.prod(stack) * matrix_bytes(fmt, rows, cols)


def weights_of(graph: Graph) -> int:
    """Elements of all matrices, each counted once."""
    names = matrices(graph)
    return sum(int(np.prod(p.shape)) for p in graph.params if p.name in names)


def matrices(graph: Graph) -> frozenset[str]:
    """Names of the tensors that are stored as matrices."""
    formats = assign_uniform(graph, OTHERS)
    return frozenset(name for name, fmt in formats.items() if fmt is not Format.F32)


# ---- the bytes ----


class _Stored(Mapping[str, np.ndarray]):
    """The calibration's moments, read when they are asked for."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        return self._calibration.moment(name)

    def __contains__(self, name: object) -> bool:
        return self._calibration.moment_file(str(name)).exists()

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(())

    def __len__(self) -> int:
        return 0


def rounded_bytes(
    graph: Graph, calibrated: Calibrated
) -> Callable[[str, slice, Format, Callable[[], np.ndarray]], bytes]:
    """A function (tensor, rows, format, weights) → bytes of the file, that remembers what a run before has rounded."""
    known = linear_inputs(graph.nodes)
    tied = {n.param("weight") for n in graph.nodes if n.op is Op.EMBEDDING} & known.keys()
    rounder = Rounder(_Stored(calibrated.calibration))
    folder = calibrated.folder / "rounded"
    with suppress(OSError):
        folder.mkdir(exist_ok=True)

    def encode(name: str, rows: slice, fmt: Format, weight: Callable[[], np.ndarray]) -> bytes:
        key = hashlib.sha256(f"{name} {rows.start} {rows.stop} {fmt.name}".encode()).hexdigest()[:24]
        file = folder / key
        if file.exists():
            return file.read_bytes()
        made = rounder.encode(weight(), known.get(name), fmt, name in tied)
        with suppress(OSError):  # no room to remember it for another run: this one does not need it
            write_whole(file, made)
        return made

    return encode
