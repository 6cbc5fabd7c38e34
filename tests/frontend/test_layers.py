"""Repeating traced layers: what must hold for it to be right, and the refusals where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import transformers

from n730c.errors import UnsupportedModel
from n730c.frontend.canonicalize import canonicalize
from n730c.frontend.layers import repeat
from n730c.frontend.trace import Trace, trace
from n730c.ir.core import Node
from tests.frontend.conftest import TINY

Traced = tuple[Trace, list[Node], str]


@pytest.fixture(scope="module")
def traced() -> Traced:
    """A llama of six layers of which the first and the last were traced."""
    found = trace(transformers.LlamaConfig(**{**TINY, "num_hidden_layers": 6}).to_dict())
    nodes, output, _ = canonicalize(found)
    return found, nodes, output


def changed(nodes: list[Node], name: str, **changes: object) -> list[Node]:
    assert any(node.name == name for node in nodes)
    return [replace(node, **changes) if node.name == name else node for node in nodes]  # type: ignore[arg-type]


def test_every_layer_reads_the_one_before(traced: Traced) -> None:
    pairs, output = repeat(*traced)
    nodes = {copy.name: copy for copy, _ in pairs}
    assert output == "lm_head"
    assert nodes["l0_input_layernorm"].inputs == ("embed_tokens",)
    assert nodes["l4_input_layernorm"].inputs == ("l3_add_1",)
    assert nodes["l4_add"].inputs == ("l3_add_1", "l4_o_proj")
    assert nodes["l4_o_proj"].param("weight") == "model.layers.4.self_attn.o_proj.weight"
    assert nodes["l4_o_proj"].source == "model.layers.4.self_attn.o_proj"
    assert nodes["norm"].inputs == ("l5_add_1",)


def test_layers_with_like_modules_that_compute_different_things(traced: Traced) -> None:
    found, nodes, output = traced
    odd = changed(nodes, "l1_add", inputs=("l1_o_proj", "l1_o_proj"))
    with pytest.raises(UnsupportedModel, match=r"layer model\.layers\.5 differs from layer 0"):
        repeat(found, odd, output)


def test_layers_that_pass_more_on_than_the_hidden_state(traced: Traced) -> None:
    found, nodes, output = traced
    with pytest.raises(UnsupportedModel, match=r"layer model\.layers\.5 reads 2 values from outside"):
        repeat(found, changed(nodes, "l1_add", inputs=("embed_tokens", "l1_o_proj")), output)
    with pytest.raises(UnsupportedModel, match=r"layer model\.layers\.5 gives 2 values to others"):
        repeat(found, changed(nodes, "norm", inputs=("l1_add", "l1_add_1")), output)
    with pytest.raises(UnsupportedModel, match=r"%norm \(model\.norm\) reads from inside the layers"):
        repeat(found, changed(nodes, "norm", inputs=("l0_add_1", "l1_add_1")), output)


def test_layers_that_are_not_a_chain(traced: Traced) -> None:
    found, nodes, output = traced
    parallel = [
        replace(node, inputs=tuple("embed_tokens" if x == "l0_add_1" else x for x in node.inputs)) for node in nodes
    ]
    parallel = changed(parallel, "norm", inputs=("l0_add_1", "l1_add_1"))
    with pytest.raises(UnsupportedModel, match=r"layer model\.layers\.5 reads something else than the result"):
        repeat(found, parallel, output)
