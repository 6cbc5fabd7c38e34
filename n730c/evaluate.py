"""What a package lost against its original: the runtime's own logits beside transformers' in FP32."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from n730c.errors import UsageError
from n730c.frontend.model import load_model
from n730c.frontend.reference import Reference, streamed_logits
from n730c.frontend.source import open_source
from n730c.package import describe, read_package
from n730c.profile import decides_logits
from n730c.runtime import run_runtime

HELD_BYTES = 2 << 30  # of the original in FP32; a larger one is run layer by layer
_ROWS = 64  # tokens that are compared at once: vocabularies are large


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64 over the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def compare_logits(reference: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per token: KL(reference ‖ tested) in nats, and whether the most likely token is the same. Both [tokens]."""
    divergence = np.empty(len(reference))
    for at in range(0, len(reference), _ROWS):
        p, q = log_softmax(reference[at : at + _ROWS]), log_softmax(tested[at : at + _ROWS])
        divergence[at : at + _ROWS] = (np.exp(p) * (p - q)).sum(axis=-1)
    return divergence, reference.argmax(axis=-1) == tested.argmax(axis=-1)


def _surprise(logits: np.ndarray, ids: list[int]) -> float:
    """-log of the probability of each token behind the first, summed; ``logits`` [tokens, vocab]."""
    total = 0.0
    for at in range(0, len(ids) - 1, _ROWS):
        targets = np.asarray(ids[at + 1 : at + 1 + _ROWS])
        total -= float(log_softmax(logits[at : at + len(targets)])[np.arange(len(targets)), targets].sum())
    return total


def _check_same_model(package: Path, model: Path, sources: object) -> None:
    """Compare the files that logits depend on with the SHA-256 that the package names for them. Raises UsageError."""
    if not isinstance(sources, dict):  # written by another compiler: nothing to compare with
        return
    found = open_source(model).sha256()
    for name in sorted(sources.keys() | found.keys()):
        if decides_logits(name) and sources.get(name) != found.get(name):
            raise UsageError(
                f"{model} is not the model of {package}: {name} differs",
                expected=f"SHA-256 {str(sources[name])[:16]}…" if name in sources else "no such file",
                found=f"{found[name][:16]}…" if name in found else "none",
                hint="Name the folder that the package was built from.",
            )


def _original_logits(
    model: Path, vocab: int, package: Path, windows: list[list[int]], folder: Path, progress: Progress
) -> Iterator[np.ndarray]:
    """Logits of the original for each window: as transformers runs it, or layer by layer where it is large."""
    checkpoint = open_source(model)
    size = 4 * sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names)
    if size > HELD_BYTES:
        graph, checkpoint = load_model(model)
        _check_vocab(graph.vocab, vocab, model, package)
        task = progress.add_task("the original, layer by layer", total=None)
        report = partial(_report, progress, task)
        yield from streamed_logits(graph, checkpoint.tensor, windows, folder / "layers", report)
        return
    reference = Reference(model)
    _check_vocab(reference.vocab, vocab, model, package)
    for window in windows:
        yield reference.logits(window)


def _report(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _check_vocab(found: int, expected: int, model: Path, package: Path) -> None:
    if found != expected:
        raise UsageError(
            f"{model} is not the model of {package}",
            expected=f"a vocabulary of {expected}",
            found=str(found),
            hint="Name the folder that the package was built from.",
        )


def evaluate_package(package: Path, model: Path, text: Path, tokens: int, console: Console) -> dict[str, float | int]:
    """Score ``text`` with both, window by window of the package's context.

    Perplexities leave out the first token of each window (there is nothing before it); KL and agreement count all.
    Raises UsageError when the text is shorter than two tokens, and when the package is not ``model``'s.
    """
    content = read_package(package)
    context = content.plans[0].context
    try:
        ids = json.loads(run_runtime("tokenize", package, "--text", text))[:tokens]
    except FileNotFoundError as error:
        raise UsageError(f"cannot read {text}") from error
    if len(ids) < 2:
        raise UsageError(f"{text} is too short to measure", expected="at least 2 tokens", found=str(len(ids)))
    _check_same_model(package, model, content.meta.get("sources"))
    windows = [w for start in range(0, len(ids), context) if len(w := ids[start : start + context]) >= 2]
    divergences, agreements = [], []
    nll_reference = nll_tested = 0.0
    scored = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        file, out = Path(folder) / "ids.txt", Path(folder) / "logits.npy"
        originals = _original_logits(model, content.program.vocab, package, windows, Path(folder), progress)
        for window in progress.track(windows, description="scoring windows"):
            original = next(originals)
            file.write_text(" ".join(map(str, window)))
            run_runtime("score", package, "--tokens", file, "--logits", out)
            tested = np.load(out)
            kl, same = compare_logits(original, tested)
            divergences.append(kl)
            agreements.append(same)
            nll_reference += _surprise(original, window)
            nll_tested += _surprise(tested, window)
            scored += len(window) - 1
    kl = np.concatenate(divergences)
    return {
        "tokens": len(kl),
        "perplexity": math.exp(nll_tested / scored),
        "reference_perplexity": math.exp(nll_reference / scored),
        "kl_mean": float(kl.mean()),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1_agreement": float(np.concatenate(agreements).mean()),
        "bits_per_weight": float(describe(content)["bits_per_weight"]),
        "file_bytes": package.stat().st_size,
    }
