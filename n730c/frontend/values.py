"""What an ATen node can be in a transformer: the values of the abstract interpretation in ``canonicalize.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import fx

from n730c.ir.core import Attr, Op


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
    """A parameter, or a view of one (``ir/views.py``)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """A tensor that the model computed for itself when it was built (``model.rotary_emb.inv_freq``)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Ones:
    """What a norm without a weight multiplies by."""

    size: int

    @property
    def name(self) -> str:
        return f"+ones.{self.size}"  # no module's name begins like that

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)


def is_made(name: str) -> bool:
    """Whether a name is that of Ones."""
    return name.startswith("+")


@dataclass(frozen=True)
class Numbers:
    """A small tensor in the model's code or among its buffers, whose values are known."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Unknown:
    """A tensor that no rewrite knows what to do with."""

    name: str


@dataclass(frozen=True)
class Act:
    """An activation: the result of the IR node ``name``, with the token axis where the model has it.

    ``dims``: the axes of the features, their product ``width``; none stands for one axis. ``first``: the first of
    them lies before the tokens. ``repeat``: each of the last axis but one stands for so many that are equal.

    ==================================  ===========================  ==========
    ``[1, s, features]``                ``dims=()``
    ``[1, s, heads, head_dim]``         ``(heads, head_dim)``
    ``[1, heads, s, head_dim]``         ``(heads, head_dim)``        ``first``
    ``[1, s, groups, members, dim]``    ``(groups, members, dim)``
    ==================================  ===========================  ==========
    """

    name: str
    width: int
    dims: tuple[int, ...] = ()
    first: bool = False
    repeat: int = 1

    @property
    def rows(self) -> bool:
        return not self.dims

    @property
    def axes(self) -> tuple[int, ...]:
        """The feature axes as the model sees them."""
        if self.repeat == 1:
            return self.dims or (self.width,)
        return (*self.dims[:-2], self.dims[-2] * self.repeat, self.dims[-1])

    @property
    def heads(self) -> int:
        """Those that are stored."""
        return self.width // self.head_dim

    @property
    def head_dim(self) -> int:
        return self.dims[-1] if self.dims else self.width

    @property
    def layout(self) -> str:
        features = list(map(str, self.axes))
        return f"[1, {', '.join([*features[: self.first], 's', *features[self.first :]])}]"

    def axis(self, axis: int) -> int | None:
        """Which of ``axes`` an axis of the tensor is; None for the batch and the tokens."""
        axis %= len(self.axes) + 2
        tokens = 2 if self.first else 1
        return None if axis in (0, tokens) else axis - (1 if axis < tokens else 2)


@dataclass(frozen=True)
class Unary:
    """A function of each element of ``x``, on its way: ``function`` maps float64 arrays. ``node``: the last ATen op."""

    x: Act
    function: Callable[[Any], Any] = field(compare=False)
    node: Any = None


@dataclass(frozen=True)
class Mean:
    """The mean of ``x`` over its last axis; ``taken``: x - mean(x)."""

    x: Act
    taken: bool = False


@dataclass(frozen=True)
class Norm:
    """A norm on its way: ``stage`` is the last of x², mean(x²), mean(x²)+eps, 1/√(mean(x²)+eps), x/√(mean(x²)+eps).

    ``x``: an activation, or an activation less its mean (then it is a layer norm).
    """

    stage: str
    x: Act | Mean
    eps: float = 0.0
    node: Any = field(default=None, compare=False)  # the last ATen op

    @property
    def act(self) -> Act:
        return self.x.x if isinstance(self.x, Mean) else self.x


@dataclass(frozen=True)
class Angles:
    """positions × inverse frequencies ``[1, s, n]``; ``doubled``: each twice, ``[1, s, 2n]``: side by side in
    ``pairs``, else the whole row again."""

    inv_freq: Buffer
    doubled: bool = False
    pairs: bool = False


@dataclass(frozen=True)
class Wave:
    """cos or sin of doubled angles, times ``scaling``; ``axis`` is that of the tokens among ``dims``."""

    function: str
    inv_freq: Buffer
    scaling: float
    axis: int
    dims: int
    doubled: bool = True
    pairs: bool = False


@dataclass(frozen=True)
class Part:
    """Elements ``first`` to ``last`` (exclusive) of the last axis, every ``step``-th; ``negated``."""

    x: Act
    first: int
    last: int
    step: int = 1
    negated: bool = False


@dataclass(frozen=True)
class Rotated:
    """(-second half, first half) of each head or of a part of it; in ``pairs``: (-x1, x0, -x3, x2 …)."""

    x: Part
    pairs: bool = False


@dataclass(frozen=True)
class Waved:
    """x · cos, or rotated x · sin."""

    x: Part
    wave: Wave


@dataclass(frozen=True)
class Roped:
    """A part of each head that was turned; the rest is to be set beside it."""

    x: Part
    wave: Wave


Value = Any  # one of the above, a number, a dtype, or a list of these


class Context(Protocol):
    """What a rewrite may ask of the walk that calls it."""

    @property
    def context_length(self) -> int: ...

    @property
    def node(self) -> fx.Node:
        """The ATen node that is being rewritten."""
        ...

    def act(self, value: Value) -> Act | None:
        """The activation that a value is or stands for."""
        ...

    def add_bias(self, act: Act, bias: Weight) -> bool:
        """Give the linear layer that made ``act`` its bias; False where it is none, has one, or was used without."""
        ...

    def emit(
        self,
        node: fx.Node,
        op: Op,
        inputs: Sequence[Act | Ids],
        width: int,
        params: Mapping[str, Weight | Buffer | Ones] | None = None,
        attrs: Mapping[str, Attr] | None = None,
    ) -> Act: ...


def words(values: Sequence[Value]) -> str:
    """Operands for an error text: what they are, not what they are called."""

    def word(value: Value) -> str:
        if isinstance(value, Act):
            return f"activation {value.layout}"
        if isinstance(value, Weight | Buffer):
            return f"{value.name} {list(value.shape)}"
        if isinstance(value, list):
            return f"[{words(value)}]"
        return str(value) if isinstance(value, int | float | torch.dtype) else type(value).__name__

    return ", ".join(word(value) for value in values)
