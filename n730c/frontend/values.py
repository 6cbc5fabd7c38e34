"""What an ATen node can be in a transformer: the values of the abstract interpretation in ``canonicalize.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch


class Layout(Enum):
    """Where the axes of an activation are; ``s`` tokens, features = heads · head_dim."""

    ROWS = "[1, s, features]"
    HEADS = "[1, s, heads, head_dim]"
    HEADS_FIRST = "[1, heads, s, head_dim]"


@dataclass(frozen=True)
class Ids:
    """The token ids."""


@dataclass(frozen=True)
class Length:
    """The number of tokens, s."""


@dataclass(frozen=True)
class Positions:
    """0 … s-1, along the one axis that is not of size 1."""


@dataclass(frozen=True)
class Weight:
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """A tensor that the model computed for itself when it was built (``model.rotary_emb.inv_freq``)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Unknown:
    """A tensor that no rewrite knows what to do with, such as a constant in the model's code."""

    name: str


@dataclass(frozen=True)
class Act:
    """An activation: the result of the IR node ``name``."""

    name: str
    width: int
    layout: Layout = Layout.ROWS
    head_dim: int = 0

    @property
    def heads(self) -> int:
        return self.width // self.head_dim


@dataclass(frozen=True)
class Norm:
    """RMSNorm on its way: ``stage`` is the last of x², mean(x²), mean(x²)+eps, 1/√(mean(x²)+eps), x/√(mean(x²)+eps)."""

    stage: str
    x: Act
    eps: float = 0.0


@dataclass(frozen=True)
class Angles:
    """positions × inverse frequencies ``[1, s, n]``; ``doubled``: twice side by side, ``[1, s, 2n]``."""

    inv_freq: Buffer
    doubled: bool = False


@dataclass(frozen=True)
class Wave:
    """cos or sin of doubled angles, times ``scaling``; ``axis`` is that of the tokens among ``dims``."""

    function: str
    inv_freq: Buffer
    scaling: float
    axis: int
    dims: int


@dataclass(frozen=True)
class Half:
    """The first or the second half of each head; ``negated``."""

    x: Act
    second: bool
    negated: bool = False


@dataclass(frozen=True)
class Rotated:
    """(-second half, first half) of each head."""

    x: Act


@dataclass(frozen=True)
class Waved:
    """x · cos, or rotated x · sin."""

    x: Act
    wave: Wave


Value = Any  # one of the above, a number, a dtype, or a list of these


def words(values: Sequence[Value]) -> str:
    """Operands for an error text: what they are, not what they are called."""

    def word(value: Value) -> str:
        if isinstance(value, Act):
            return f"activation {value.layout.value}"
        if isinstance(value, Weight | Buffer):
            return f"{value.name} {list(value.shape)}"
        if isinstance(value, list):
            return f"[{words(value)}]"
        return str(value) if isinstance(value, int | float | torch.dtype) else type(value).__name__

    return ", ".join(word(value) for value in values)
