"""Templates to source text. They lie beside the package when it is installed, one level up in the source tree."""

from __future__ import annotations

from pathlib import Path

import jinja2

from n730c.errors import ToolchainError


def template_folder() -> Path:
    """The folder of the CPU templates and headers (``-I`` for the compiler). Raises ToolchainError if it is missing."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "templates" / "cpu", package.parent / "templates" / "cpu"):
        if (folder / "n730_call.h").is_file():
            return folder
    expected = str(package / "templates")
    raise ToolchainError("the kernel templates are missing", expected=expected, hint="Reinstall n730c.")


def render(name: str, **parameters: object) -> str:
    """The text of template ``name``. Raises jinja2.UndefinedError if it needs a parameter that is not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name).render(parameters)
