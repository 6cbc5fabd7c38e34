"""The original model in FP32, as transformers runs it: the oracle of ``n730c eval``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from n730c.errors import UnsupportedModel
from n730c.frontend.config import error_text, read_config
from n730c.frontend.gguf_file import is_gguf
from n730c.frontend.source import open_source
from n730c.frontend.trace import quiet
from n730c.frontend.walk import Activations, Values, load_weights, run_stage, stages
from n730c.ir.core import Graph
from n730c.ir.ops import Array


class Reference:
    """Holds the whole model in memory. Raises UnsupportedModel when transformers cannot load the folder."""

    def __init__(self, folder: Path) -> None:
        if is_gguf(folder):
            self._model: Any = _from_gguf(folder)
            return
        if not (folder / "config.json").is_file():
            raise UnsupportedModel(
                f"{folder} is no model folder", expected="config.json", hint="Name the original model."
            )
        try:
            with quiet():
                self._model = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, local_files_only=True
                ).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise UnsupportedModel(
                f"cannot load {folder}",
                expected="a model that transformers can load",
                found=error_text(error),
                hint="Name the original model.",
            ) from error

    @property
    def vocab(self) -> int:
        """Number of logits a token."""
        return int(self._model.config.vocab_size)

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [tokens, vocab] for one sequence of token ids."""
        batch = torch.tensor([list(ids)], dtype=torch.long)
        return np.asarray(self._model(batch, use_cache=False).logits[0].float().numpy())


def _from_gguf(path: Path) -> Any:
    """transformers' model with the file's weights, dequantized."""
    checkpoint = open_source(path)
    with quiet():
        model = AutoModelForCausalLM.from_config(read_config(checkpoint.config), dtype=torch.float32)
        state = {name: torch.from_numpy(checkpoint.tensor(name)) for name in checkpoint.names}
        missing, _ = model.load_state_dict(state, strict=False)
        model.tie_weights()
    absent = [name for name in missing if name != "lm_head.weight"]
    if absent:
        raise UnsupportedModel(f"{path} has no tensor for {absent[0]}", hint="Take a file with a whole model.")
    return model.eval()


def streamed_logits(
    graph: Graph,
    weights: Callable[[str], Array],
    windows: Sequence[Sequence[int]],
    folder: Path,
    progress: Callable[[int, int], None],
) -> Iterator[np.ndarray]:
    """float32 [tokens, vocab] of each window, in order, with one layer's weights in memory at a time.

    ``weights(name)`` reads a tensor; what goes from layer to layer is kept in ``folder``; ``progress(done, total)``
    counts layers. The arithmetic is that of the IR's references.
    """
    cut = stages(graph)
    widths = {node.name: node.width for node in graph.nodes}
    kinds = sorted({len(window) for window in windows})  # windows of one length share files
    stores = {length: Activations(folder / str(length), length, widths) for length in kinds}

    def inputs(stage_index: int, reads: Sequence[str], index: int) -> Values:
        ids = np.asarray(windows[index], dtype=np.int64)
        found: Values = dict.fromkeys(graph.inputs, ids)  # type: ignore[arg-type]  # ids are integers
        return found | stores[len(ids)].get(stage_index - 1, index, reads)

    for stage in cut[:-1]:
        progress(stage.index, len(cut))
        held = load_weights(graph, stage, weights)
        for index, window in enumerate(windows):
            values = run_stage(stage, inputs(stage.index, stage.reads, index), held)
            stores[len(window)].put(stage.index, index, values, stage.writes)
        for store in stores.values():
            store.drop(stage.index - 1)
    last = cut[-1]
    held = load_weights(graph, last, weights)
    for index in range(len(windows)):
        yield run_stage(last, inputs(last.index, last.reads, index), held)[graph.output]
    progress(len(cut), len(cut))
