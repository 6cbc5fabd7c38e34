"""What the HTML pages share: head and style, and a bar divided into parts with its legend. No script, font or link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from jinja2 import DictLoader, Environment, StrictUndefined

from n730c.report import show_size

_BASE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1040px; color: #222; background: #fff }
svg { width: 100%; height: auto; display: block; margin: .5em 0 1.5em }
table { border-collapse: collapse } td { padding: .1em 1.2em .1em 0 } td + td { text-align: right }
text { font: 13px system-ui, sans-serif; fill: #222 }
{% block style %}{% endblock %}
</style></head><body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</body></html>
"""
_DIVIDED = """{% macro divided(parts, label) %}<svg viewBox="0 0 1000 50" role="img" aria-label="{{ label }}">
{% for part in parts %}<rect x="{{ part.x }}" y="8" width="{{ part.width }}" height="34" fill="{{ part.colour }}">\
<title>{{ part.name }}: {{ part.size }}</title></rect>
{% endfor %}</svg>
<table>{% for part in parts %}<tr><td><svg viewBox="0 0 12 12" style="width:.8em;display:inline;margin:0">\
<rect width="12" height="12" fill="{{ part.colour }}"/></svg> {{ part.name }}</td><td>{{ part.size }}</td></tr>
{% endfor %}</table>{% endmacro %}"""
_COLOURS = ("#2471a3", "#c0392b", "#d68910", "#7d3c98", "#1e8449", "#839192", "#b7950b")


@dataclass(frozen=True)
class Part:
    """A piece of a divided bar 1000 units wide."""

    name: str
    size: str
    x: float
    width: float
    colour: str


def divide(sizes: Mapping[str, int]) -> list[Part]:
    """The parts of a bar, in order, from their names and sizes in bytes (at most seven)."""
    total = max(1, sum(sizes.values()))
    starts = accumulate(sizes.values(), initial=0)
    return [
        Part(name, show_size(size), round(1000 * start / total, 2), round(1000 * size / total, 2), colour)
        for (name, size), start, colour in zip(sizes.items(), starts, _COLOURS, strict=False)
    ]


def render(template: str, **values: object) -> str:
    """A template that extends ``base`` (blocks ``style`` and ``body``; ``divided`` is there to import) as a page."""
    loader = DictLoader({"base": _BASE, "parts": _DIVIDED, "page": template})
    page = Environment(autoescape=True, undefined=StrictUndefined, loader=loader).get_template("page")
    return page.render(**values)
