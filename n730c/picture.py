"""One token and one memory as a picture: a self-contained HTML page, no script, no font, no link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from n730c.artifacts import OVERHEAD, Plan, Program, Tier
from n730c.page import divide, render
from n730c.passes.card_costs import CardUse, RoundCost
from n730c.passes.explain import explain_card
from n730c.passes.plan import Planner
from n730c.passes.ways import Choice
from n730c.report import show_size

_PAGE = """{% extends "base" %}{% from "parts" import divided %}
{% block style %}.disk { fill: #c0392b } .ram { fill: #2471a3 } .compute { fill: #1e8449 } .wait { fill: #eee }\
{% endblock %}
{% block body %}<p>{{ summary }}</p>
<h2>One token: {{ period }}</h2>
<svg viewBox="0 0 1000 150" role="img" aria-label="timeline of one token">
{% for lane in lanes %}<text x="0" y="{{ 27 + 40 * loop.index0 }}">{{ lane.name }}</text>
<rect class="wait" x="80" y="{{ 8 + 40 * loop.index0 }}" width="920" height="28"/>
{% set row = loop.index0 %}{% for bar in lane.bars %}<rect class="{{ lane.css }}" x="{{ bar.x }}" y="{{ 8 + 40 * row }}"
width="{{ bar.width }}" height="28"><title>{{ bar.title }}</title></rect>
{% endfor %}{% endfor %}<text x="80" y="144">0</text><text x="1000" y="144" text-anchor="end">{{ period }}</text>
</svg>
<h2>Memory: {{ total }}</h2>
{{ divided(parts, "memory map") }}
<h2>Weights in the file, in the order they are used</h2>
<svg viewBox="0 0 1000 50" role="img" aria-label="what is streamed">
{% for bar in segments %}<rect class="{{ bar.css }}" x="{{ bar.x }}" y="8" width="{{ bar.width }}" height="34">\
<title>{{ bar.title }}</title></rect>
{% endfor %}</svg>
<p>Blue stays in RAM, green in the graphics card's memory only, red is read from the disk for every token.</p>\
{% endblock %}
"""
_LEFT, _WIDTH = 80.0, 920.0  # of the timeline's lanes in the drawing


@dataclass(frozen=True)
class _Bar:
    x: float
    width: float
    title: str
    css: str = ""


@dataclass(frozen=True)
class _Lane:
    name: str
    css: str
    bars: Sequence[_Bar]


def draw(title: str, planner: Planner, choice: Choice) -> str:
    """The page for one choice of a planner: timeline of a token (disk, RAM, compute), memory map, what is streamed."""
    plan = planner.plan(choice)
    period = planner.timeline(choice).period
    summary = (
        f"{plan.decode_tokens_per_s:.2f} tokens/s, held up by {planner.limit(choice)}; "
        f"{show_size(plan.disk_bytes_per_token)} read from the disk a token; context {plan.context} tokens. "
    ) + explain_card(planner, choice)
    return render(
        _PAGE,
        title=title,
        summary=summary,
        period=f"{period * 1e3:.1f} ms",
        lanes=_lanes(planner, choice),
        total=show_size(plan.ram_bytes),
        parts=divide(_memory(planner.program, plan, planner.tokenizer_bytes)),
        segments=_segments(planner.program, plan),
    )


def _lanes(planner: Planner, choice: Choice) -> list[_Lane]:
    if choice.card is not None and not choice.streamed:
        return _card_lanes(planner, choice.card)
    timeline = planner.timeline(choice)
    end = max(s.end for s in timeline.runs)
    scale = _WIDTH / (end - timeline.begin)

    def bar(begin: float, stop: float, name: str) -> _Bar:
        left, right = max(begin, timeline.begin), min(stop, end)
        x = _LEFT + (left - timeline.begin) * scale
        return _Bar(round(x, 2), round(max(0.0, right - left) * scale, 2), f"{name}: {(stop - begin) * 1e3:.2f} ms")

    disk = [bar(s.begin, s.end, f"segment {choice.streamed[s.index]}") for s in timeline.reads]
    ram, compute = [], []
    if choice.card is not None:
        both = [bar(s.begin, s.end, f"steps {s.index} to {s.index + s.count - 1}") for s in timeline.runs]
        return [_Lane("disk", "disk", disk), _Lane("CPU, card", "compute", both)]
    for run in timeline.runs:
        costs = planner.decode_costs[run.index : run.index + run.count]
        name = f"steps {run.index} to {run.index + run.count - 1}"
        ram.append(bar(run.begin, run.begin + sum(c.reading for c in costs), name))
        compute.append(bar(run.begin, run.begin + sum(c.computing + c.fixed for c in costs), name))
    return [_Lane("disk", "disk", disk), _Lane("RAM", "ram", ram), _Lane("compute", "compute", compute)]


def _card_lanes(planner: Planner, use: CardUse) -> list[_Lane]:
    """Who is at work when: the CPU, and the card in the rounds that it takes part in."""
    assert planner.card is not None
    seconds = planner.card.step_seconds(use, 1)
    rounds = planner.card.round_costs(use, 1)
    scale = _WIDTH / sum(seconds)
    cpu: list[_Bar] = []
    card: list[_Bar] = []
    inside = {i for steps in planner.card.rounds if steps[0] in rounds for i in steps[1:]}
    for i, (begin, took) in enumerate(zip(accumulate(seconds, initial=0.0), seconds, strict=False)):
        if i in inside:
            continue
        cost = rounds.get(i, RoundCost(0.0, took) if use.whole else RoundCost(took, 0.0))
        for bars, busy in ((cpu, cost.cpu), (card, cost.card)):
            if busy:
                name = f"from step {i} on: {busy * 1e3:.3f} ms"
                bars.append(_Bar(round(_LEFT + begin * scale, 2), round(busy * scale, 2), name))
    return [_Lane("CPU", "ram", cpu), _Lane("card", "compute", card)]


def _memory(program: Program, plan: Plan, tokenizer_bytes: int) -> dict[str, int]:
    """What fills the memory, in bytes."""
    sizes = {
        tier: [s.size for s, p in zip(program.segments, plan.placements, strict=True) if p.tier is tier]
        for tier in Tier
    }
    caches = sum(c.size(plan.context, plan.batch) for c in program.caches)
    ring = {p.offset for p in plan.placements if p.tier is Tier.STREAM}
    known = {
        "weights that stay": sum(sizes[Tier.RAM]),
        "ring": len(ring) * max(sizes[Tier.STREAM], default=0),
        f"KV cache of {plan.context} tokens": caches,
        "tokenizer": tokenizer_bytes,
    }
    known["activations"] = max(0, plan.arena_bytes - sum(known.values()))
    known["the program itself (at most)"] = OVERHEAD
    return known


def _segments(program: Program, plan: Plan) -> list[_Bar]:
    total = sum(s.size for s in program.segments)
    starts = accumulate((s.size for s in program.segments), initial=0)
    bars = []
    for i, (segment, start, place) in enumerate(zip(program.segments, starts, plan.placements, strict=False)):
        name = program.tensors[segment.first_tensor].name
        css = {Tier.RAM: "ram", Tier.VRAM: "compute"}.get(place.tier, "disk")
        title = f"segment {i}, {show_size(segment.size)}, {place.tier.name}: {name} …"
        bars.append(_Bar(round(1000 * start / total, 2), round(1000 * segment.size / total, 2), title, css))
    return bars
