"""The chat template of a Hugging Face folder: found as transformers finds it, compiled once to see that it is sound."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from n730c.errors import UnsupportedModel


def read_chat_template(folder: Path) -> str:
    """The model's chat template (Jinja), or an empty text if it has none. Of several named ones, ``default``.

    A file chat_template.jinja goes before the entry in tokenizer_config.json, as in transformers. Raises
    UnsupportedModel for a damaged file and for a template that is not Jinja; nothing of it is executed.
    """
    path = folder / "chat_template.jinja"
    config = folder / "tokenizer_config.json"
    try:
        if path.is_file():
            template = path.read_text(encoding="utf-8")
        elif config.is_file():
            path = config
            template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") or ""
        else:
            return ""
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default", "")
        if not isinstance(template, str):
            raise TypeError("chat_template is neither a text nor a list of named texts")
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UnsupportedModel(
            f"{path} is damaged", expected="a chat template", found=str(error), hint="Download it again."
        ) from error
    _check(path, template)
    return template


class _Generation(Extension):
    """``{% generation %}`` … ``{% endgeneration %}``, which transformers adds to Jinja; it changes nothing here."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check(path: Path, template: str) -> None:
    """Compile ``template`` in the environment that transformers uses."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    try:
        environment.compile(template)
    except TemplateSyntaxError as error:
        found = f"line {error.lineno}: {error.message}"
    except Exception as error:  # nesting too deep for Python's own compiler, and the like
        found = type(error).__name__
    else:
        return
    raise UnsupportedModel(
        f"the chat template in {path} cannot be compiled",
        expected="a Jinja template",
        found=found,
        hint="Repair it, or remove it: a model needs none.",
    )
