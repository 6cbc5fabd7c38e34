"""The chat template of a Hugging Face folder, found and parsed as transformers does it. Nothing of it runs here."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from n730c.errors import UnsupportedModel

_SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def read_chat_template(folder: Path) -> tuple[str, Path]:
    """The model's chat template (Jinja), or an empty text if it has none, and its file. Of several, ``default``.

    A file chat_template.jinja goes before the entry in tokenizer_config.json, as in transformers. Raises
    UnsupportedModel for a damaged file.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path
        except (ValueError, OSError) as error:
            raise _damaged(path, error) from error
    path = folder / "tokenizer_config.json"
    template = _read_json(path).get("chat_template") or ""
    try:
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = named.get("default", "")
        if not isinstance(template, str):
            raise TypeError("chat_template is neither a text nor a list of named texts")
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    return template, path


def read_special_tokens(folder: Path) -> dict[str, str]:
    """``bos_token`` and kin, as templates see them; those that the tokenizer does not have are left out."""
    settings = {
        **_read_json(folder / "special_tokens_map.json"),
        **_read_json(folder / "tokenizer_config.json"),
    }
    tokens = {}
    for name in _SPECIAL_TOKENS:
        token = settings.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            tokens[f"{name}_token"] = text
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    """A file that may be missing. Raises UnsupportedModel unless it is a JSON object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} in place of an object")
    except (TypeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    return value


def _damaged(path: Path, error: Exception) -> UnsupportedModel:
    return UnsupportedModel(
        f"{path} is damaged", expected="a chat template", found=str(error), hint="Download it again."
    )


class _Generation(Extension):
    """``{% generation %}`` … ``{% endgeneration %}``, which transformers adds to Jinja: a scope and nothing more."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def chat_environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up. Not optimized: that would compute what a template's constants come to."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"], optimized=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def parse_template(template: str, source: str) -> nodes.Template:
    """The syntax tree. Raises UnsupportedModel naming ``source`` and the line."""
    try:
        return chat_environment().parse(template)
    except TemplateSyntaxError as error:
        found = f"line {error.lineno}: {error.message}"
    except RecursionError:
        found = "blocks nested too deep"
    raise UnsupportedModel(
        f"the chat template in {source} cannot be compiled",
        expected="a Jinja template",
        found=found,
        hint="Repair it, or build with --no-chat.",
    )
