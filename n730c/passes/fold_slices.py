"""linear → slice becomes a linear of the rows that the slice keeps: fused projections are taken apart in the file.

What a model computes with one matrix (queries, keys and values; gate and up) is stored as the parts that are used, so
that no time is spent on copying activations, and each part may have a format of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from n730c.ir.core import Graph, Node, Op, Param
from n730c.ir.views import rows_of


@dataclass(frozen=True)
class FoldSlices:
    """Folds every slice of a linear; slices of slices too."""

    name: str = "fold_slices"

    def run(self, graph: Graph) -> Graph:
        shapes = {p.name: p.shape for p in graph.params}
        linears: dict[str, Node] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            source = linears.get(node.inputs[0]) if node.op is Op.SLICE else None
            if source is not None:
                attrs = dict(node.attrs)
                rows = tuple(int(attrs[key]) for key in ("blocks", "first", "count"))
                params = []
                for role, name in source.params:
                    view = rows_of(name, *rows)
                    shapes[view] = (node.width, *shapes[name][1:])
                    params.append((role, view))
                node = replace(source, name=node.name, params=tuple(params), width=node.width)
            if node.op is Op.LINEAR:
                linears[node.name] = node
            nodes.append(node)
        used = {graph.output, *(name for node in nodes for name in node.inputs)}
        while len(kept := [n for n in nodes if n.name in used or n.name not in linears]) < len(nodes):
            nodes, used = kept, {graph.output, *(name for node in kept for name in node.inputs)}
        names = dict.fromkeys(name for node in nodes for _, name in node.params)
        params_used = tuple(Param(name, shapes[name]) for name in names if name in shapes)
        return replace(graph, nodes=tuple(nodes), params=params_used)
