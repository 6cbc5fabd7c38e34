"""The original model in FP32, as transformers runs it: the oracle of ``n730c eval``."""

from __future__ import annotations

from collections.abc import Sequence
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
