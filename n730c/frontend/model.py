"""The frontend's door: a Hugging Face folder or a GGUF file in, the model's graph and its lazily read weights out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import DEFAULT_CONTEXT, Checkpoint
from n730c.frontend.gguf_file import is_gguf
from n730c.frontend.source import open_source
from n730c.ir.core import Graph
from n730c.ir.verify import verify
from n730c.ir.views import stored_name

if TYPE_CHECKING:
    from n730c.frontend.trace import Trace

_HARMLESS = ("rotary_emb.inv_freq",)  # ends of names of tables that old checkpoints store and configurations define


def load_model(folder: Path, context: int | None = None) -> tuple[Graph, Checkpoint]:
    """Trace the model in ``folder``; its weights stay on the disk until they are asked for.

    ``context``: tokens that RoPE is made for where it depends on the length of the text (``Graph.tables_for``).

    Every param of the graph names a tensor of the checkpoint that has that shape and a dtype that is understood; tied
    tensors are named once. Raises UnsupportedModel, in one line, for anything damaged or not understood.
    """
    checkpoint = open_source(folder)
    # torch takes seconds to load: only after a broken folder has been refused
    from n730c.frontend.layers import assemble
    from n730c.frontend.stacks import stacked
    from n730c.frontend.trace import trace

    traced = trace(checkpoint.config, context or DEFAULT_CONTEXT)
    checkpoint = checkpoint if is_gguf(folder) else stacked(checkpoint)
    graph = assemble(checkpoint.name, traced, _binding(checkpoint, traced))
    for param in graph.params:
        if checkpoint.shape(param.name) != param.shape:
            raise UnsupportedModel(
                f"tensor {param.name}: shape",
                expected=str(list(param.shape)),
                found=str(list(checkpoint.shape(param.name))),
            )
        checkpoint.format(param.name)  # refuses a dtype that is not understood
    used = {stored_name(param.name) for param in graph.params} | {name for names in traced.tied for name in names}
    unused = [
        name for name in checkpoint.names if name not in used and not any(re.search(x, name) for x in traced.ignored)
    ]
    _refuse_unused(checkpoint, unused, traced.layers_path, len(traced.kinds))
    verify(graph)
    return graph, checkpoint


def load_graph(folder: Path) -> Graph:
    """The graph that config.json alone describes, for plans made before there are weights. Raises UnsupportedModel."""
    if is_gguf(folder):
        return load_model(folder)[0]
    checkpoint = open_source(folder, weights=False)
    from n730c.frontend.layers import assemble
    from n730c.frontend.trace import trace

    traced = trace(checkpoint.config)
    tied = {name: names[0] for names in traced.tied for name in names}
    graph = assemble(checkpoint.name, traced, lambda name: tied.get(name, name))
    verify(graph)
    return graph


def _refuse_unused(checkpoint: Checkpoint, unused: Sequence[str], layers_path: str, layers: int) -> None:
    """A tensor that the graph never reads means that config.json describes another model than the weights are of."""
    unused = [name for name in unused if not name.endswith(_HARMLESS)]
    if not unused:
        return
    for name in unused:
        number = name.removeprefix(f"{layers_path}.").partition(".")[0]
        if name.startswith(f"{layers_path}.") and number.isdecimal() and int(number) >= layers:
            raise UnsupportedModel(
                "config.json describes fewer layers than are stored",
                expected=f"{layers} layers (num_hidden_layers)",
                found=f"tensor {name}",
                hint="Use the config.json that belongs to the weights.",
            )
    others = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
    raise UnsupportedModel(
        f"the model never reads tensor {unused[0]}{others}",
        expected="only tensors that config.json's model has",
        found=f"{len(unused)} of {len(checkpoint.names)} unused",
        hint="Use the config.json that belongs to the weights.",
    )


def _binding(checkpoint: Checkpoint, traced: Trace) -> Callable[[str], str]:
    """Names of stored tensors by names of the model's parameters.

    Checkpoints of a model without its head (GPT-2's) leave out the prefix that the model has within; older ones have
    names that transformers changes when it loads them.

    Tied parameters take the first of their names that is stored. Where several are stored with different contents,
    the configuration is wrong and each stands for itself, as transformers has it.
    """

    older = {traced.rename(name): name for name in checkpoint.names}

    def find(name: str) -> str:
        others = (name, older.get(name, name), name.removeprefix(f"{traced.prefix}."))
        return next((other for other in others if other in checkpoint.entries), name)

    bound: dict[str, str] = {}
    for names in traced.tied:
        stored = [found for found in map(find, names) if found in checkpoint.entries]
        for name in names if stored else ():
            own = find(name) in stored and find(name) != stored[0] and not checkpoint.equal(find(name), stored[0])
            bound[name] = find(name) if own else stored[0]
    return lambda name: bound.get(name) or find(name)
