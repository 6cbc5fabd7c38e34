"""The original model in FP32, as transformers runs it: the oracle of ``n730c eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from n730c.errors import UnsupportedModel
from n730c.frontend.config import error_text
from n730c.frontend.trace import quiet


class Reference:
    """Holds the whole model in memory. Raises UnsupportedModel when transformers cannot load the folder."""

    def __init__(self, folder: Path) -> None:
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
