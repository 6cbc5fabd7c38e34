"""What people look at: a package as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_size(size: float) -> str:
    """Bytes as a short text in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def show_need(size: int) -> str:
    """The same, but never less than it is: ``--ram`` with what is shown is enough."""
    unit = 1024 ** min(3, max(0, (size.bit_length() - 1) // 10))
    step = unit / (100 if unit == 1024**3 else 10 if unit > 1 else 1)
    return show_size(math.ceil(size / step) * step)


def print_forecasts(chosen: dict[str, Any], others: Sequence[dict[str, Any]], target: str, console: Console) -> None:
    """Print what ``plan`` foresees: the way that was asked for, and what else the same memory would run."""
    if chosen["fits"]:
        console.print(
            f"[bold]fits[/bold] {target}: {show_need(chosen['ram_bytes'])} of RAM for {chosen['precision']} "
            f"({chosen['bits_per_weight']:.2f} bits a weight) and {chosen['context']} tokens of context",
            highlight=False,
            soft_wrap=True,
        )
        console.print(
            f"{_speed(chosen['decode_tokens_per_s'])} tokens/s, held up by {chosen['limit']}; "
            f"{chosen['disk_bytes_per_token'] / 1e6:.0f} MB read from the disk a token; "
            f"prompt {_speed(chosen['prefill_tokens_per_s'])} tokens/s; "
            f"first token of a 128-token prompt after {chosen['first_token_s']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
        if chosen["device_reason"]:
            console.print(chosen["device_reason"], highlight=False, soft_wrap=True, markup=False)
    else:
        console.print(
            f"[bold]does not fit[/bold] {target}: {chosen['precision']} with {chosen['context']} tokens of context "
            f"needs {show_need(chosen['ram_bytes'])} at least",
            highlight=False,
            soft_wrap=True,
        )
    if not others:
        return
    title = "what else would run" if any(other["fits"] for other in others) else "nor would these run"
    table = Table("precision", "context", "RAM", "MB a token", "tokens/s", "limit", title=title)
    for other in others:
        speed = _speed(other["decode_tokens_per_s"]) if other["fits"] else "-"
        table.add_row(
            other["precision"],
            str(other["context"]),
            show_need(other["ram_bytes"]),
            f"{other['disk_bytes_per_token'] / 1e6:.0f}",
            speed,
            other["limit"],
        )
    console.print(table)


def _speed(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.1f}" if tokens_per_s >= 10 else f"{tokens_per_s:.2f}"


def print_package(facts: dict[str, Any], console: Console) -> None:
    """Print ``package.describe``'s facts: sizes, formats, plans, kernels, tensors."""
    meta = facts["meta"]
    console.print(
        f"[bold]{meta.get('model', 'unnamed model')}[/bold]  {show_size(facts['file_bytes'])}, "
        f"{facts['bits_per_weight']:.2f} bits a weight",
        highlight=False,
    )
    title = "plans (predicted for the target)"
    columns = ("plan", "RAM", "VRAM", "context", "MB a token", "decode t/s", "prefill t/s", "first token s")
    plans = Table(*columns, title=title)
    for i, plan in enumerate(facts["plans"]):
        plans.add_row(
            str(i + 1),
            show_need(plan["ram_bytes"]),
            show_size(plan["vram_bytes"]) if plan["vram_bytes"] else "-",
            str(plan["context"]),
            f"{plan['disk_bytes_per_token'] / 1e6:.0f}",
            _speed(plan["decode_tokens_per_s"]),
            f"{plan['prefill_tokens_per_s']:.0f}",
            f"{plan['first_token_s']:.1f}",
        )
    console.print(plans)
    kernels = Table("op", "format", "shape", "makers", title="kernels")
    for kernel in facts["kernels"]:
        makers = ", ".join(f"{isa}: {maker}" for isa, maker in kernel["makers"].items())
        kernels.add_row(kernel["op"], kernel["format"], f"{kernel['rows']} × {kernel['cols']}", makers)
    console.print(kernels)
    if by_card := facts["card_kernels"]:
        cards = Table("image", "kernel", "maker", title="kernels for graphics cards")
        for kernel in by_card:
            cards.add_row(*(escape(kernel[key]) for key in ("image", "symbol", "maker")))
        console.print(cards)
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
