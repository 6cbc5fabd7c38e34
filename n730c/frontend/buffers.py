"""Values of tables that a model computes for itself when it is built, such as RoPE's inverse frequencies.

They are computed by the model's own code, on the CPU, while all else of it is built without memory (``trace.py``). That
covers every way of scaling RoPE that transformers knows, with no formula of our own.
"""

from __future__ import annotations

import math

from n730c.errors import UnsupportedModel
from n730c.frontend.trace import Trace


def buffer_values(trace: Trace, name: str, shape: tuple[int, ...]) -> tuple[float, ...]:
    """The float32 values of the one-dimensional buffer ``name`` (``model.rotary_emb.inv_freq``).

    Raises UnsupportedModel where building the model did not give it usable values.
    """
    table = trace.tables.get(name)
    values = [] if table is None else table.float().reshape(-1).tolist()
    if (len(values),) != shape or not all(math.isfinite(v) and v >= 0 for v in values):
        raise UnsupportedModel(
            f"values of {name}",
            expected=f"{math.prod(shape)} finite numbers of at least 0",
            found=", ".join(f"{v:g}" for v in values[:4]) + " ...",
            hint="Use the config.json that came with the weights.",
        )
    return tuple(values)
