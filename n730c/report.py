"""What people look at: a package as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show_size(size: float) -> str:
    """Bytes as a short text in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def print_package(facts: dict[str, Any], console: Console) -> None:
    """Print ``package.describe``'s facts: sizes, formats, plans, kernels, tensors."""
    meta = facts["meta"]
    console.print(
        f"[bold]{meta.get('model', 'unnamed model')}[/bold]  {show_size(facts['file_bytes'])}, "
        f"{facts['bits_per_weight']:.2f} bits a weight",
        highlight=False,
    )
    title = "plans (predicted for the target)"
    plans = Table("plan", "RAM", "context", "decode t/s", "prefill t/s", "first token s", title=title)
    for i, plan in enumerate(facts["plans"]):
        plans.add_row(
            str(i),
            show_size(plan["arena_bytes"]),
            str(plan["context"]),
            f"{plan['decode_tokens_per_s']:.1f}",
            f"{plan['prefill_tokens_per_s']:.0f}",
            f"{plan['first_token_s']:.1f}",
        )
    console.print(plans)
    kernels = Table("op", "format", "shape", "makers", title="kernels")
    for kernel in facts["kernels"]:
        makers = ", ".join(f"{isa}: {maker}" for isa, maker in kernel["makers"].items())
        kernels.add_row(kernel["op"], kernel["format"], f"{kernel['rows']} × {kernel['cols']}", makers)
    console.print(kernels)
    tensors = Table("tensor", "format", "shape", "size", "segment", title="tensors")
    for tensor in facts["tensors"]:
        tensors.add_row(
            tensor["name"],
            tensor["format"],
            f"{tensor['rows']} × {tensor['cols']}",
            show_size(tensor["size"]),
            str(tensor["segment"]),
        )
    console.print(tensors)
