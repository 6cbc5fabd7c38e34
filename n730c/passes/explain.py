"""What a plan does with the graphics card and why, in words for whoever owns the PC."""

from __future__ import annotations

from n730c.passes.plan import Planner
from n730c.passes.ways import Choice

_WAYS = {"cpu": "CPU alone", "gpu": "card alone", "split": "both"}


def explain_card(planner: Planner, choice: Choice) -> str:
    """A few sentences; empty where the target has no card."""
    target = planner.target
    if not target.vram_bytes:
        return ""
    if target.gpu is None:
        return "The card is not used: the target does not say how it computes."
    if target.gpu_arch is None:
        return f"The card is not used: no compiler makes kernels for {target.gpu.arch}, which is older than sm_35."
    if planner.card is None:
        return "The card is not used: none of the steps has a kernel for it."
    if not planner.card.rounds:
        return (
            "The card is not used: its kernels read inputs of 8 bits, and all matrices have wider ones (--activations)."
        )
    speeds = planner.devices(choice)
    rates = ", ".join(f"{_WAYS[name]} {speed:.3g}" for name, speed in speeds.items())
    if choice.card is None:
        if set(speeds) == {"cpu"}:
            return "The card is not used: it makes no part of the model faster, or RAM and VRAM hold too little of it."
        return f"The card is not used: it does not pay (tokens/s: {rates})."
    if choice.card.whole:
        return (
            f"The card computes everything, out of {_size(choice.card.vram_bytes)} of its memory (tokens/s: {rates})."
        )
    return " ".join([*_shared(planner, choice), f"Tokens/s: {rates}."])


def _shared(planner: Planner, choice: Choice) -> list[str]:
    """Of a plan in which card and CPU work on the same token."""
    batched = planner.with_batches(choice).card
    assert choice.card is not None and batched is not None and planner.card is not None
    sizes = [segment.size for segment in planner.program.segments]
    cpu, card = planner.card.busy(choice.card)
    said = []
    if choice.streamed:
        said.append(
            "The model is larger than both memories: the card computes what its memory holds, the CPU the rest, and "
            f"the disk is read beside that, {_size(planner.disk_bytes(choice))} a token."
        )
    else:
        said.append(
            "Card and CPU share every token: the card multiplies the first rows of each matrix out of its memory while "
            "the CPU multiplies the others out of RAM, so that both are read at once "
            f"(CPU busy {cpu:.0%}, card {card:.0%})."
        )
    held = f"The card holds {_size(batched.vram_bytes)}"
    if choice.card.segments:
        only = sum(sizes[i] for i in choice.card.segments)
        held += f", of it {_size(only)} of weights that are nowhere else and need no RAM"
    said.append(held + ".")
    if batched.crossing:
        tile_bytes = planner.card.bytes_of(batched.crossing)
        said.append(
            f"For batches of {batched.card_batch} prompt tokens or more it is also brought {_size(tile_bytes)} of "
            "weights from RAM, batch by batch: all tokens of a batch share that way, a single one would wait for it."
        )
    return said


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"
