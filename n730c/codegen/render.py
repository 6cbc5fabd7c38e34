"""Templates to source text. They lie beside the package when it is installed, one level up in the source tree."""

from __future__ import annotations

from pathlib import Path

import jinja2

from n730c.errors import ToolchainError


def _folder(device: str, witness: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "templates" / device, package.parent / "templates" / device):
        if (folder / witness).is_file():
            return folder
    expected = str(package / "templates")
    raise ToolchainError("the kernel templates are missing", expected=expected, hint="Reinstall n730c.")


def template_folder() -> Path:
    """The folder of the CPU templates and headers (``-I`` for the compiler). Raises ToolchainError if it is missing."""
    return _folder("cpu", "n730_call.h")


def cuda_template_folder() -> Path:
    """The folder of the CUDA templates and headers. Raises ToolchainError if it is missing."""
    return _folder("cuda", "call.h")


def cuda_headers() -> dict[str, str]:
    """The text of every CUDA header by its name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(cuda_template_folder().glob("*.h"))}


def _render(folder: Path, name: str, parameters: dict[str, object]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name).render(parameters)


def render(name: str, **parameters: object) -> str:
    """The text of CPU template ``name``. Raises jinja2.UndefinedError if it needs a parameter that is not given."""
    return _render(template_folder(), name, parameters)


def render_cuda(name: str, **parameters: object) -> str:
    """The text of CUDA template ``name``, likewise."""
    return _render(cuda_template_folder(), name, parameters)
