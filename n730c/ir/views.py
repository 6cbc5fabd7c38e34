"""Views of stored tensors: a tensor of the model that is made from a stored one while it is read.

A view is written behind the stored tensor's name, step after step; that is its name in the graph and in the package:

    h.0.attn.c_attn.weight|transpose|rows-1-0-48

=====================  ==========================================================================================
``transpose``          [a, b] becomes [b, a] (a layer that multiplies by its weight from the right)
``rows-B-F-N``         of each of B equal blocks of rows, N rows from row F on (fused projections, heads interleaved)
``add-X``              X is added to every element (norms that store w and multiply by 1 + w)
=====================  ==========================================================================================
"""

from __future__ import annotations

from typing import Any

SEPARATOR = "|"
Shape = tuple[int, ...]


def stored_name(name: str) -> str:
    """The stored tensor that a name stands for, or is a view of."""
    return name.partition(SEPARATOR)[0]


def renamed(name: str, stored: str) -> str:
    """The same view of another stored tensor."""
    return stored + name[len(stored_name(name)) :]


def rows_of(name: str, blocks: int, first: int, count: int) -> str:
    """The view of ``count`` rows from ``first`` on of each of ``blocks`` equal blocks."""
    return f"{name}{SEPARATOR}rows-{blocks}-{first}-{count}"


def transposed(name: str) -> str:
    step = f"{SEPARATOR}transpose"
    return name.removesuffix(step) if name.endswith(step) else name + step


def increased(name: str, by: float) -> str:
    return f"{name}{SEPARATOR}add-{by!r}"


def view_shape(name: str, shape: Shape) -> Shape:
    """The shape of the view ``name`` of a tensor of ``shape``. Raises ValueError where it does not fit."""
    for kind, numbers in _steps(name):
        if kind == "transpose":
            if len(shape) != 2:
                raise ValueError(f"transpose of {len(shape)} dimensions")
            shape = shape[::-1]
        elif kind == "rows":
            blocks, first, count = map(int, numbers)
            if not shape or shape[0] % blocks or first + count > shape[0] // blocks:
                raise ValueError(f"rows {first} ... {first + count} of {blocks} blocks in {shape}")
            shape = (blocks * count, *shape[1:])
    return shape


def only_rows(name: str) -> bool:
    """Whether the view, if it is one, takes whole rows and changes nothing in them."""
    return all(kind == "rows" for kind, _ in _steps(name))


def apply_view(name: str, tensor: Any) -> Any:
    """The view ``name`` of the stored ``tensor`` (a numpy array that ``view_shape`` accepts)."""
    for kind, numbers in _steps(name):
        if kind == "transpose":
            tensor = tensor.T
        elif kind == "rows":
            blocks, first, count = map(int, numbers)
            rest = tensor.shape[1:]
            tensor = tensor.reshape(blocks, -1, *rest)[:, first : first + count].reshape(-1, *rest)
        else:
            tensor = tensor + tensor.dtype.type(numbers[0])
    return tensor


def _steps(name: str) -> list[tuple[str, list[str]]]:
    """The steps of a view's name, checked for their form. Raises ValueError."""
    steps = []
    for step in name.split(SEPARATOR)[1:]:
        kind, *numbers = step.split("-", 1) if step.startswith("add-") else step.split("-")
        wanted = {"transpose": 0, "rows": 3, "add": 1}.get(kind)
        if wanted is None or len(numbers) != wanted:
            raise ValueError(f"no view {step!r}")
        steps.append((kind, numbers))
    return steps
