"""Values of tables that a model computes for itself when it is built, such as RoPE's inverse frequencies.

On the meta device they have no values, so the one module that owns the table is built again, on the CPU, from the real
configuration. That covers every way of scaling RoPE that transformers knows, with no formula of our own.
"""

from __future__ import annotations

import math

import torch

from n730c.errors import UnsupportedModel
from n730c.frontend.trace import Trace, quiet


def buffer_values(trace: Trace, name: str, shape: tuple[int, ...]) -> tuple[float, ...]:
    """The float32 values of the one-dimensional buffer ``name`` (``model.rotary_emb.inv_freq``).

    Raises UnsupportedModel when the owning module cannot be built from the configuration alone.
    """
    path, _, leaf = name.rpartition(".")
    owner = trace.modules[path]
    try:
        with quiet(), torch.device("cpu"), torch.no_grad():
            values = getattr(owner(trace.config), leaf).to(torch.float32).reshape(-1).tolist()
    except Exception as error:  # a constructor of unknown code
        raise UnsupportedModel(
            f"values of {name} ({owner.__name__}): {type(error).__name__}",
            expected="a module that is built from the configuration alone",
        ) from None
    if (len(values),) != shape or not all(math.isfinite(v) and v >= 0 for v in values):
        raise UnsupportedModel(
            f"values of {name} ({owner.__name__})",
            expected=f"{math.prod(shape)} finite numbers of at least 0",
            found=", ".join(f"{v:g}" for v in values[:4]) + " ...",
            hint="Use the config.json that came with the weights.",
        )
    return tuple(values)
