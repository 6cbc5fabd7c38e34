"""The chat template compiler: what each construct comes to, what is refused, and what is bounded."""
# ruff: noqa: E501 (templates)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from n730c.chat_format import validate_chat, write_chat
from n730c.errors import UnsupportedModel
from n730c.frontend.chat import check_chat, read_chat
from n730c.frontend.chat_compiler import compile_chat
from n730c.frontend.chat_template import read_chat_template, read_special_tokens
from tests.chat.conftest import Renderer
from tests.chat.test_templates import original

MESSAGES = [
    {"role": "system", "content": " Be good. \n"},
    {"role": "user", "content": "a,b,,c", "n": 3, "flag": True, "nothing": None, "list": ["x", "y", "z", 4]},
    {"role": "assistant", "content": "Straße\u2003漢字 end", "deep": {"a": {"b": [1, 2]}, "é\n": '\x01"\\'}},
]

EXPRESSIONS = [
    "[1 + 2 * 3 - 7, 7 // 2, -7 // 2, -7 % 3, 7 % -3, 7 // -2] | join(',')",
    "'a' + 'b' ~ 1 ~ none ~ true ~ undefined_thing",
    "-m[1].n",
    "'ab' * 3 ~ 2 * 'x' ~ 0 * 'y'",
    "m[0].content.strip() ~ '|' ~ m[0]['content'].lstrip() ~ '|' ~ m[0].content.rstrip() ~ '|'",
    "'xxayx'.strip('x') ~ 'xyaxy'.lstrip('yx') ~ 'xyaxy'.rstrip('yx')",
    "m[1].content.split(',') | join('+') ~ m[1].content.split(',', 1)[1] ~ ' a  b c '.split() | join('.')",
    "' a  b c '.split(none, 1)[1] ~ '|' ~ 'a-b-c'.rsplit('-', 1) | join('.') ~ 'abc'.split('x')[0]",
    "'l1\nl2\r\nl3\n\n'.splitlines() | join('/')",
    "m[1].content.replace(',', ';') ~ m[1].content.replace(',', '', 2) ~ m[1].content | replace('a', 'A')",
    "'hello World'.title() ~ 'hello wORLD-x (y'|title ~ 'hello World'|capitalize ~ 'aBc'.upper() ~ 'aBc'|lower",
    '"it\'s o\'clock".title() ~ "it\'s" | title',
    "m[2].content[0] ~ m[2].content[-3:] ~ m[2].content[1:6:2] ~ m[2].content[::-1] ~ m[2].content[7]",
    "m[1].list[1:] | join ~ m[1].list[::-1] | join(',') ~ m[1].list[-2] ~ m[1].list[:-1][0] ~ m[1].list[9]",
    "m[1].list[5:1:-2] | join ~ m[1].list[1:100:100] | join ~ m[1].list[-100:2] | join",
    "m | length ~ m[2].content | length ~ m[2] | length ~ '' | count",
    "m[1].list | first ~ m[1].list | last ~ 'abc' | last ~ [] | first",
    "m | map(attribute='role') | join('/') ~ m | map(attribute='deep.a.b.1', default='-') | join",
    "m | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | length",
    "m | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | first",
    "m | selectattr('flag') | map(attribute='role') | join ~ m | rejectattr('n', 'defined') | list | length",
    "m[1].list | select('string') | map('upper') | join ~ m[1].list | reject('string') | join",
    "range(5) | select('odd') | join ~ range(2, 9, 3) | join(',') ~ range(3, 0, -1) | reverse | join",
    "m[1].nope is defined ~ m[1].n is defined ~ m[1].nothing is none ~ m[1].nope is none ~ nope is undefined",
    "m[1].content is string ~ m[1] is mapping ~ m is iterable ~ m is sequence ~ 3 is number ~ true is integer",
    "true is boolean ~ 1 is boolean ~ 1 is true ~ false is false ~ m[1].flag is true ~ 'x' is not string",
    "4 is even ~ 4 is odd ~ 9 is divisibleby 3 ~ 3 is eq 3 ~ 3 is gt 4 ~ 'a' is in 'abc' ~ 2 is ne 2",
    "raise_exception is defined ~ strftime_now is defined ~ range is defined",
    "['a' < 'b', 'é' > 'z', 1 <= True, 1 == true, '1' == 1, none == false, m[1].list == ['x', 'y', 'z', 4]] | join",
    "[{'a': [1, {}]} == {'a': [1, {}]}, {'a': 1} != {'a': 2}, nope == nada, nope == none] | join",
    "['x' in m[1].list, 'role' in m[0], 'ood' in m[0].content, 4 not in m[1].list, 'q' in nope] | join",
    "(1 and 2) ~ (0 or 'x') ~ (none or false) ~ ('' and 3) ~ (not 0) ~ (1 if 0) ~ (1 if 1 else 2)",
    "m[1].get('n') ~ m[1].get('q') ~ m[1].get('q', 7) ~ m[2].deep.keys() | list | length",
    "nope | default('d') ~ none | default('d') ~ none | d('d', true) ~ '' | default('e', boolean=true) ~ nope | default",
    "m[2].deep | tojson ~ m[2].deep | tojson(indent=2) ~ [] | tojson ~ {} | tojson(indent=4) ~ [[], {}] | tojson(indent=1)",
    "m[1] | tojson(ensure_ascii=False)",
    "'42' | int ~ ' -7 ' | int ~ '3.9' | int ~ 'x' | int ~ 'x' | int(5) ~ '1e3' | int ~ true | int ~ none | int",
    "(1, 2) | join ~ [1, [2, 3]][1][0] ~ {'k': 'v'}.k ~ dict(a=1, b=2).b ~ -5 | abs",
    "5 | string + 'x' ~ none | string ~ nope | trim ~ 7 | trim ~ 'xax' | trim('x')",
    "'a b c'.count(' ') ~ 'héllo'.find('l') ~ 'abc'.find('z') ~ '-'.join(['a', 'b'])",
    "'prefix-x'.removeprefix('prefix-') ~ 'x.txt'.removesuffix('.txt') ~ 'abc'.startswith('ab') ~ 'abc'.endswith('')",
    "strftime_now('%Y-%m-%d %B %b %A %a %y %% %j')",
]

STATEMENTS = [
    "{% for x in m %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}"
    "{{ loop.last }}{{ loop.length }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}"
    "{{ loop.cycle('a', 'b') }};{% endfor %}",
    "{% for k, v in m[2].items() %}{{ k }}={{ v is string }}{% else %}none{% endfor %}",
    "{% for k in m[1] %}{{ k }},{% endfor %}{% for c in 'añ漢' %}{{ c }}.{% endfor %}{% for q in nope %}x{% else %}none{% endfor %}",
    "{% for x in m if x.role != 'user' %}{{ loop.index }}/{{ loop.length }}{{ x.role }}{% else %}none{% endfor %}",
    "{% for x in m if x.role == 'tool' %}{{ x }}{% else %}none{{ m | length }}{% endfor %}",
    "{% for x in m %}{% if loop.first %}{% continue %}{% endif %}{{ x.role }}{% if loop.index == 2 %}{% break %}{% endif %}"
    "{% else %}never{% endfor %}",
    "{% for a in range(3) %}{% for b in range(a) %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% set x = 1 %}{% for i in range(3) %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% if false %}{% set y = 2 %}{% endif %}{{ y }}",
    "{% set ns = namespace(n=0, s='') %}{% for x in m %}{% set ns.n = ns.n + loop.index %}{% set ns.s = ns.s ~ x.role[0] %}"
    "{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.nope }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = 'xy' %}{{ c }}{{ d }}",
    "{% set text %}  in {{ m | length }} {% set inner = 1 %}{% endset %}[{{ text }}]{{ inner is defined }}",
    "{% set text | trim | upper %}  in  {% endset %}[{{ text }}]{% filter replace('a', 'b') | upper %}banana{% endfilter %}",
    "{% with a = 1, b = m | length %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a is defined }}{{ c is defined }}",
    "{% macro f(a, b=2, c=a ~ '!') %}{{ a }}{{ b }}{{ c }}{{ bos_token }}{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f(b=5, a=4) }}"
    "{{ f() | length }}",
    "{% macro fact(n) %}{% if n > 1 %}{{ n }}*{{ fact(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(6) }}{{ f is defined }}",
    "{% macro even(n) %}{{ odd(n - 1) if n else 'even' }}{% endmacro %}{% macro odd(n) %}{{ even(n - 1) if n else 'odd' }}"
    "{% endmacro %}{{ even(7) }}",
    "{% macro f(x) %}{% for y in x %}{{ y }}{{ loop.last }}{% if y == 2 %}{% break %}{% endif %}{% endfor %}{{ z }}{% endmacro %}"
    "{% set z = 'global' %}{% for z in range(2) %}{{ f([1, 2, 3]) }}{% endfor %}",
    "a  \n  {%- if true -%}  b  {%- endif %}  \n c{# comment #}\n  {% if 1 %}\n d\n  {% endif %}\n{% raw %}{{ x }}{% endraw %}\n",
    "{{ '<b>' | safe }}{{ ('<' ~ '>') | safe }}",
    "{% for x in m %}{% generation %}{{ x.role }}{% set y = 1 %}{% endgeneration %}{{ y is defined }}{% endfor %}",
    "{% for x in m | reverse %}{{ x.role }}{% endfor %}{% for r in m | map(attribute='role') %}{{ r }}{% endfor %}",
    "{% if m[0].role == 'x' %}1{% elif m | length > 2 and m[1].n == 3 %}2{% else %}3{% endif %}",
    "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ eos_token }}",
]  # fmt: skip


def check(native: Renderer, templates: list[str]) -> None:
    conversation = {"messages": MESSAGES, "add_generation_prompt": True, "m": MESSAGES}
    for template in templates:
        assert native(template, [conversation]) == [original(template, conversation)], template


def test_expressions(native: Renderer) -> None:
    check(native, ["\n".join("{{ " + expression + " }}" for expression in EXPRESSIONS)])


def test_statements(native: Renderer) -> None:
    check(native, ["\n".join(STATEMENTS[:12]), *STATEMENTS])


RUN_TIME = [
    ("\n\n{{ nope.x }}", "line 3: 'nope' is undefined"),
    ("{{ messages[0].nope.x }}", "'nope' is undefined"),
    ("{{ nope + 1 }}", "'nope' is undefined"),
    ("{{ 1 + 'a' }}", "the sum of a number and a text"),
    ("{% for x in 3 %}{% endfor %}", "a loop over a number"),
    ("{{ raise_exception('Only\\nwords') }}", "Only"),
    ("{% set x = 1 %}{% set x.y = 2 %}", "an attribute can be set of a namespace only"),
    ("{% set a, b = [1] %}", "takes 2 values from a list of 1"),
    ("{{ 1 // 0 }}", "a division by zero"),
    ("{{ nope | tojson }}", "'nope' is undefined"),
    ("{{ range(1000000) | length }}", "range() of more than 100000"),
    ("{{ none | length }}", "the length of none"),
    ("{{ (5).upper() }}", "a method of texts on a number"),
]


def test_what_goes_wrong_is_one_line(native: Renderer) -> None:
    conversation = {"messages": MESSAGES[:1]}
    for template, why in RUN_TIME:
        (found,) = native(template, [conversation])
        assert (why in found["error"] and "error" in original(template, conversation)) or "beyond ASCII" in why
        assert found["error"].startswith("the chat template stops in line ")


def test_what_jinja_can_and_programs_cannot(native: Renderer) -> None:
    for template, why in (
        ("{{ messages }}", "a list cannot be turned into text"),
        ("{{ 'Ä'.lower() }}", "the case of letters beyond ASCII"),
    ):
        (found,) = native(template, [{"messages": MESSAGES}])
        assert why in found["error"]


BOUNDED = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(1000) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "{{ 'x' * 8000000 * 8000000 }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    "{% set ns = namespace(l=[], m=[]) %}{% for a in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}"
    "{% endfor %}{{ ns.l == ns.m }}",
    "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "{% set s = 'ab' * 1000000 %}{% for a in range(99999) %}{% if s ~ 'c' in s %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "{% for a in range(99999) %}{% set x = ('a' * 100000).split('a') %}{% endfor %}",
]


def test_nothing_runs_away(native: Renderer) -> None:
    for template in BOUNDED:
        (found,) = native(template, [{"messages": MESSAGES}])
        assert found["error"].startswith("the chat template stops in line 1: "), template


REFUSED = [
    ("a\n{% include 'x' %}", "statement Include in line 2"),
    ("{% extends 'x' %}", "statement Extends"),
    ("{% block x %}{% endblock %}", "statement Block"),
    ("{% import 'x' as y %}", "statement Import"),
    ("{% for x in y recursive %}{% endfor %}", "a recursive loop"),
    ("{{ messages | dictsort }}", "filter dictsort"),
    ("{{ b | nosuch }}", "filter nosuch"),
    ("{{ b is nosuch }}", "test nosuch"),
    ("{{ messages.__class__ }}", "attribute __class__"),
    ("{{ ''.format(1) }}", "a call of .format"),
    ("{{ x(1) }}", "a call of x"),
    ("{{ 1.5 }}", "the constant 1.5"),
    ("{{ 2 ** 3 }}", "Pow"),
    ("{{ 1 / 2 }}", "Div"),
    ("{{ 1 < 2 < 3 }}", "a chain of comparisons"),
    ("{{ messages | map(attribute='x') }}", "filter map whose result is not turned into a list"),
    ("{% if messages | selectattr('x') %}{% endif %}", "filter selectattr whose result"),
    ("{{ m[0].items }}", "attribute items that is not called"),
    ("{% if a %}{% macro f() %}{% endmacro %}{% endif %}", "macro f that is not defined once and for all"),
    ("{% macro f() %}{{ varargs }}{% endmacro %}", "the variable varargs"),
    ("{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "f() with other arguments than its own"),
    ("{{ f(1) }}{% macro f(a) %}{% endmacro %}", "a call of f"),
    ("{% macro f(a) %}{% endmacro %}{{ f }}", "f as a value"),
    ("{% call f() %}{% endcall %}", "statement CallBlock"),
    ("{{ 99999999 }}", "the number 99999999"),
    ("{{ ('<' | safe) + '>' }}", "filter safe"),
    ("{% for m in messages %}{{ m }}", "line 1: Unexpected end of template"),
    ("{{", "line 1: unexpected 'end of template'"),
    ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deep"),
    ("{{ 1" + " + 1" * 5000 + " }}", "nested too deep"),
    ("{% for x in m if ns.a %}{% set ns.a = 0 %}{% endfor %}", "asks for what the loop changes"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_refusals_name_the_construct(template: str, what: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        compile_chat(template, {}, "chat_template.jinja")
    assert what in str(caught.value) and "--no-chat" in str(caught.value) and "\n" not in str(caught.value)


def test_the_build_compares(native: Renderer, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role ~ m.content | trim }}{% endfor %}")
    chat = read_chat(tmp_path)
    assert chat is not None and validate_chat(chat.section) is None
    check_chat(chat, lambda conversations: native(chat.template, conversations))
    with pytest.raises(UnsupportedModel, match=r"differs from the original on 1 messages .*userHello.*USERHello"):
        check_chat(chat, lambda conversations: native(chat.template.replace("m.role", "m.role.upper()"), conversations))
    with pytest.raises(UnsupportedModel, match=r"cannot even render one message of a user .*'nope' is undefined"):
        check_chat(chat, lambda conversations: native("{{ nope.x }}", conversations))


def test_where_the_template_is(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    assert read_chat(tmp_path) is None
    config.write_text("{}")
    assert read_chat_template(tmp_path)[0] == ""
    config.write_text(json.dumps({"chat_template": "{{ one }}"}))
    assert read_chat_template(tmp_path)[0] == "{{ one }}"
    named = [{"name": "tool_use", "template": "{{ t }}"}, {"name": "default", "template": "{{ d }}"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path)[0] == "{{ d }}"
    (tmp_path / "chat_template.jinja").write_text("{{ file }}\n")
    assert read_chat_template(tmp_path)[0] == "{{ file }}\n"
    (tmp_path / "chat_template.jinja").unlink()
    for damaged in ('{"chat_template": 7}', '{"chat_template": [{"name": 1}]}', "[", "[]"):
        config.write_text(damaged)
        with pytest.raises(UnsupportedModel, match="is damaged"):
            read_chat_template(tmp_path)


def test_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<a>", "unk_token": {"content": "<u>"}}')
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<b>", "eos_token": null, "pad_token": {"content": "<p>"}}'
    )
    assert read_special_tokens(tmp_path) == {"bos_token": "<b>", "unk_token": "<u>", "pad_token": "<p>"}


def test_the_same_template_gives_the_same_bytes() -> None:
    template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    assert write_chat(compile_chat(template, {}, "")) == write_chat(compile_chat(template, {}, ""))
    assert "NEXT 9" in compile_chat(template, {}, "").text()
