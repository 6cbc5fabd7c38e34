"""Passes: each a frozen dataclass whose fields are its options and whose ``run`` is pure; run and verified here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from n730c.errors import InvalidIR
from n730c.files import dump_text
from n730c.ir.core import Graph
from n730c.ir.text import to_text
from n730c.ir.verify import verify


class Pass(Protocol):
    """One rewriting of the graph; ``name`` appears in dumps and in error texts."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> Graph: ...


def run_passes(graph: Graph, passes: Sequence[Pass], dump: Path | None = None) -> Graph:
    """Run ``passes`` in order, with the verifier before the first and after each.

    ``dump``: a folder (made if need be) for the IR's text: ``00_traced.ir``, then ``NN_name.ir`` after each pass.
    Raises InvalidIR naming the pass that broke the graph.
    """
    verify(graph)
    _dump(graph, dump, 0, "traced")
    for number, step in enumerate(passes, 1):
        graph = step.run(graph)
        try:
            verify(graph)
        except InvalidIR as error:
            raise InvalidIR(f"after pass {step.name}: {error}") from error
        _dump(graph, dump, number, step.name)
    return graph


def _dump(graph: Graph, folder: Path | None, number: int, name: str) -> None:
    if folder is not None:
        dump_text(folder, f"{number:02}_{name}.ir", to_text(graph))
