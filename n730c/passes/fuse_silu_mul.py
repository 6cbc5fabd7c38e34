"""silu(x) · y → silu_mul(x, y): saves one activation buffer and one trip through memory a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from n730c.ir.core import Graph, Op


@dataclass(frozen=True)
class FuseSiluMul:
    """Fuses where the silu has no other user; either operand of the mul may be the silu."""

    name: str = "fuse_silu_mul"

    def run(self, graph: Graph) -> Graph:
        uses: dict[str, int] = {graph.output: 1}
        for node in graph.nodes:
            for name in node.inputs:
                uses[name] = uses.get(name, 0) + 1
        fusible = {node.name: node.inputs[0] for node in graph.nodes if node.op is Op.SILU and uses.get(node.name) == 1}
        nodes, gone = [], set()
        for node in graph.nodes:
            silu = next((name for name in node.inputs if name in fusible), None) if node.op is Op.MUL else None
            if silu is not None:
                other = node.inputs[1] if node.inputs[0] == silu else node.inputs[0]
                node = replace(node, op=Op.SILU_MUL, inputs=(fusible[silu], other))
                gone.add(silu)
            nodes.append(node)
        return replace(graph, nodes=tuple(node for node in nodes if node.name not in gone))
