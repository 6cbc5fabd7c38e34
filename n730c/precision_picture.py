"""What mixed precision decided, as a picture: a self-contained HTML page, no script, no font, no link."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from n730c.artifacts import Program, split_block_name
from n730c.dtypes import Format
from n730c.ir.core import Graph
from n730c.mixed import Choice, items
from n730c.page import divide, render
from n730c.profile import SensitivityProfile
from n730c.report import show_size

_PAGE = """{% extends "base" %}{% from "parts" import divided %}
{% block style %}text { font-size: 12px } text.cell { font-size: 10px; text-anchor: middle }
.curve { fill: none; stroke: #2471a3; stroke-width: 2 } .point { fill: #2471a3 } .chosen { fill: #c0392b }
.axis { stroke: #999; stroke-width: 1 } .uniform { fill: none; stroke: #7f8c8d; stroke-width: 2 }\
{% endblock %}
{% block body %}<table>{% for name, value in figures %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
{% for map in maps %}<h2>{{ map.title }}</h2>
<svg viewBox="0 0 1000 {{ map.height }}" role="img" aria-label="{{ map.title }}">
{% for label in map.labels %}<text x="{{ label.x }}" y="{{ label.y }}" text-anchor="{{ label.anchor }}">\
{{ label.text }}</text>
{% endfor %}{% for cell in map.cells %}<rect x="{{ cell.x }}" y="{{ cell.y }}" width="{{ cell.width }}" height="20"
fill="{{ cell.colour }}"><title>{{ cell.title }}</title></rect><text class="cell" x="{{ cell.x + cell.width / 2 }}"
y="{{ cell.y + 14 }}">{{ cell.text }}</text>
{% endfor %}</svg>
<p>{{ map.note }}</p>
{% endfor %}<h2>What other sizes would lose</h2>
<svg viewBox="0 0 1000 330" role="img" aria-label="Pareto curve of size and expected KL divergence">
<line class="axis" x1="80" y1="290" x2="980" y2="290"/><line class="axis" x1="80" y1="20" x2="80" y2="290"/>
{% for tick in ticks %}<text x="{{ tick.x }}" y="{{ tick.y }}" text-anchor="{{ tick.anchor }}">{{ tick.text }}</text>
{% endfor %}<polyline class="curve" points="{% for p in points %}{{ p.x }},{{ p.y }} {% endfor %}"/>
{% for p in uniform %}<circle class="uniform" cx="{{ p.x }}" cy="{{ p.y }}" r="5"><title>{{ p.title }}</title></circle>
<text x="{{ p.x + 9 }}" y="{{ p.y }}">{{ p.name }}</text>
{% endfor %}
{% for p in points %}<circle class="point" cx="{{ p.x }}" cy="{{ p.y }}" r="3"><title>{{ p.title }}</title></circle>
{% endfor %}
<circle class="chosen" cx="{{ chosen.x }}" cy="{{ chosen.y }}" r="7"><title>{{ chosen.title }}</title></circle>
</svg>
<p>Each point is the best assignment at its size; the red one was built; a grey ring is one format for all tensors. KL
divergence in nats a token, on a logarithmic scale: of what was built by a trial on text set aside, of the others as the
profile expects them, in the same proportion.</p>
<h2>Size by part</h2>
{{ divided(parts, "size by part") }}{% endblock %}
"""
_LEFT, _ROW = 110, 22


@dataclass(frozen=True)
class _Cell:
    x: float
    y: float
    width: float
    colour: str
    text: str
    title: str


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class _Map:
    title: str
    note: str
    height: int
    labels: Sequence[_Label]
    cells: Sequence[_Cell]


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    title: str
    name: str = ""


def _heat(share: float) -> str:
    """White to red; ``share`` 0 … 1."""
    level = round(255 - 170 * min(1.0, max(0.0, share)))
    return f"rgb(255,{level},{level})"


def _depth(bits: float) -> str:
    """Light to dark blue with the bits of a weight, 2 … 8."""
    share = min(1.0, max(0.0, (bits - 2) / 6))
    return f"rgb({round(235 - 130 * share)},{round(243 - 90 * share)},{round(251 - 40 * share)})"


def _where(graph: Graph, names: Sequence[str]) -> dict[str, tuple[int | None, str]]:
    """Of each matrix its layer (None: outside) and its kind, the part of the name that layers share."""
    layer = {name: node.layer for node in graph.nodes for _, name in node.params}
    places = {}
    for name in names:
        words = [word for word in name.split(".") if word != "weight"]
        places[name] = (layer.get(name), words[-1])
    return places


def _grid(
    title: str, note: str, places: Mapping[str, tuple[int | None, str]], show: Mapping[str, tuple[str, str, str]]
) -> _Map:
    """``show``: colour, text and title of each tensor's cell."""
    kinds = list(dict.fromkeys(kind for layer, kind in places.values() if layer is not None))
    rows: list[int | None] = [*sorted({layer for layer, _ in places.values() if layer is not None})]
    if any(layer is None for layer, _ in places.values()):
        rows.append(None)
    width = (1000 - _LEFT) / max(1, len(kinds))
    labels = [_Label(_LEFT + (i + 0.5) * width, 12, kind, "middle") for i, kind in enumerate(kinds)]
    cells = []
    for i, layer in enumerate(rows):
        y = 20 + _ROW * i
        labels.append(_Label(0, y + 15, "outside layers" if layer is None else f"layer {layer}"))
        outside = [name for name, (where, _) in places.items() if where is None]
        for name, (where, kind) in places.items():
            if where != layer:
                continue
            column = outside.index(name) if layer is None else kinds.index(kind)
            colour, text, tip = show[name]
            text = f"{kind} {text}" if layer is None else text
            cells.append(_Cell(round(_LEFT + column * width, 1), y, round(width - 2, 1), colour, text, tip))
    return _Map(title, note, 24 + _ROW * len(rows), labels, cells)


def _nats(value: float) -> str:
    return f"{value:.2g}"


def draw_precision(
    title: str, graph: Graph, program: Program, profile: SensitivityProfile, choice: Choice, file_bytes: int
) -> str:
    """The page: bits a tensor, sensitivities, the Pareto curve with what was chosen, size by part, figures."""
    formats = {name: choice.formats[name] for name in profile.divergence}
    places = _where(graph, list(formats))
    bits = {
        name: (_depth(fmt.bits), fmt.name, f"{name}: {fmt.name}, expected {_nats(profile.divergence[name][fmt])} nats")
        for name, fmt in formats.items()
    }
    common = _reference(profile)
    costs = {name: by[common] for name, by in profile.divergence.items()}
    low, high = (math.log(max(1e-12, f(costs.values()))) for f in (min, max))
    span = max(1e-9, high - low)
    heat = {
        name: (_heat((math.log(max(1e-12, cost)) - low) / span), _nats(cost), f"{name}: {_nats(cost)} nats")
        for name, cost in costs.items()
    }
    points, chosen, uniform, ticks = _curve(choice, _uniform(graph, profile, choice.factor))
    figures = [
        ("bits a weight, scales and embedding included", f"{program.bits_per_weight:.2f}"),
        ("file", show_size(file_bytes)),
        ("expected KL divergence from the original", f"{_nats(choice.predicted)} nats a token"),
        ("of which 8-bit activations", f"{_nats(choice.activations)} nats a token"),
        ("calibrated on", f"{profile.tokens:,} tokens"),
        ("profile", profile.method),
    ]
    return render(
        _PAGE,
        title=title,
        figures=figures,
        maps=[
            _grid("Bits of every tensor", "The darker, the more bits a weight.", places, bits),
            _grid(
                "What each tensor would cost",
                f"Nats a token that {common.name} in this tensor alone would bring; the redder, the more.",
                places,
                heat,
            ),
        ],
        points=points,
        chosen=chosen,
        uniform=uniform,
        ticks=ticks,
        parts=divide(_sizes(graph, program, file_bytes)),
    )


def _reference(profile: SensitivityProfile) -> Format:
    """The format at which tensors are compared: the one nearest to 3 bits that all of them were measured at."""
    shared = set.intersection(*(set(by) for by in profile.divergence.values()))
    return min(shared, key=lambda fmt: (abs(fmt.bits - 3), fmt))


def _uniform(graph: Graph, profile: SensitivityProfile, factor: float) -> dict[str, tuple[float, float]]:
    """Size and expected loss of one format for all tensors of the profile, by the format's name."""
    things = items(graph, profile)
    shared = set.intersection(*(set(item.price) for item in things))
    return {
        fmt.name: (
            sum(item.price[fmt] for item in things),
            factor * profile.expected(sum(item.divergence[fmt] for item in things)),
        )
        for fmt in sorted(shared)
    }


def _curve(
    choice: Choice, uniform: Mapping[str, tuple[float, float]]
) -> tuple[list[_Point], _Point, list[_Point], list[_Label]]:
    """The curve's points, what was chosen, one format for all, and the labels of the axes."""
    own = (choice.assignment.price, choice.predicted)
    everything = [*choice.curve, own, *uniform.values()]
    sizes, losses = [p for p, _ in everything], [math.log10(max(1e-12, k)) for _, k in everything]
    left, right = min(sizes), max(max(sizes), min(sizes) + 1)
    low, high = min(losses), max(max(losses), min(losses) + 1e-9)

    def place(size: float, loss: float, name: str = "") -> _Point:
        x = 80 + 900 * (size - left) / (right - left)
        y = 290 - 260 * (math.log10(max(1e-12, loss)) - low) / (high - low)
        title = f"{show_size(size)}: {_nats(loss)} nats"
        return _Point(round(x, 1), round(y, 1), f"{name}, {title}" if name else title, name)

    ticks = [_Label(80, 310, show_size(left), "middle"), _Label(980, 310, show_size(right), "end")]
    ticks += [_Label(74, 294, _nats(10**low), "end"), _Label(74, 34, _nats(10**high), "end")]
    rings = [place(*at, name) for name, at in uniform.items()]
    return [place(size, loss) for size, loss in choice.curve], place(*own), rings, ticks


def _sizes(graph: Graph, program: Program, file_bytes: int) -> dict[str, int]:
    """What fills the file, in bytes."""
    layer = {name: node.layer for node in graph.nodes for _, name in node.params}
    known = {"attention": 0, "feed-forward": 0, "embedding and head": 0, "norms and biases": 0}
    for tensor in program.tensors:
        name, _ = split_block_name(tensor.name)
        if tensor.is_vector:
            part = "norms and biases"
        elif layer.get(name) is None:
            part = "embedding and head"
        else:
            part = "attention" if "attn" in name or "attention" in name else "feed-forward"
        known[part] += tensor.size
    known["tokenizer, kernels, tables"] = max(0, file_bytes - sum(known.values()))
    return known
