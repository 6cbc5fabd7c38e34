"""The arrows between the compiler's parts. What fails here is in the wrong place; the message says where it belongs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "n730c").rglob("*.py"))

SIBLINGS = ("frontend", "passes", "quant", "codegen", "package")
# The ground floor, lowest first: each may see those before it and nothing else of n730c.
GROUND = (
    "errors",
    "files",
    "dtypes",
    "ir",
    "artifacts",
    "target",
    "tokenizer_format",
    "tokenizer_validate",
    "chat_format",
)
HOMES = {  # heavy libraries and the only parts that may load them
    "torch": ("frontend", "quant"),
    "transformers": ("frontend", "quant"),
    "tvm": ("codegen",),
    "onnx": ("onnx_export",),
}


def part(module: Path) -> str:
    """``frontend`` for n730c/frontend/trace.py, ``cli`` for n730c/cli.py."""
    relative = module.relative_to(ROOT / "n730c")
    return relative.parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Dotted names imported anywhere in a module, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports from the root: from n730c.ir.core import Graph"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def complaints(here: str, source: str) -> list[str]:
    """What is wrong with a module of the part ``here``, each with where the thing should go instead."""
    wrong = []
    for name in sorted(imports(source)):
        root, _, rest = name.partition(".")
        there = rest.split(".")[0]
        if root in HOMES and here not in HOMES[root]:
            wrong.append(f"{name}: {root} is loaded in {' and '.join(HOMES[root])} only; put what needs it there")
        if root != "n730c" or there == here:
            continue
        if here in GROUND:
            if there not in GROUND[: GROUND.index(here)]:
                wrong.append(
                    f"{name}: the ground floor ({', '.join(GROUND)}) sees only what is before it in this row; "
                    "put the shared value lower, or the work higher"
                )
        elif here in SIBLINGS:
            if there in SIBLINGS:
                wrong.append(
                    f"{name}: siblings never see each other; put the shared value in artifacts.py, ir/ or dtypes.py, "
                    "and let pipeline.py hand it from one to the other"
                )
            elif there and there not in GROUND:
                wrong.append(f"{name}: no way back up from {here}; take what you need as an argument")
    return wrong


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(module: Path) -> None:
    assert not complaints(part(module), module.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("here", "source", "expected"),
    [
        ("passes", "from n730c.quant import encode", "siblings never see each other"),
        ("codegen", "def f():\n    import n730c.package.write", "siblings never see each other"),
        ("quant", "from n730c import frontend", "siblings never see each other"),
        ("ir", "from n730c.passes import Pass", "put the shared value lower"),
        ("dtypes", "from n730c.ir.core import Graph", "put the shared value lower"),
        ("frontend", "from n730c.pipeline import build", "no way back up"),
        ("passes", "import torch.nn", "torch is loaded in frontend and quant only"),
        ("cli", "from transformers import AutoModel", "transformers is loaded in frontend and quant only"),
        ("quant", "from tvm import tir", "tvm is loaded in codegen only"),
    ],
)
def test_the_guard_sees_what_is_misplaced(here: str, source: str, expected: str) -> None:
    assert [expected in complaint for complaint in complaints(here, source)] == [True]


def test_the_guard_lets_the_road_pass() -> None:
    assert not complaints(
        "frontend", "import torch\nfrom n730c.ir.core import Graph\nfrom n730c.errors import N730Error"
    )
    assert not complaints(
        "pipeline", "from n730c.frontend.model import load_model\nfrom n730c.passes import run_passes"
    )
    assert not complaints("artifacts", "from n730c.dtypes import Format")
