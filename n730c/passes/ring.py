"""Which segments are streamed, where they go in the ring, and how far each may be read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

MOST_LEAD = 64  # FORMAT.md, SCHEDULE
_T = TypeVar("_T")


def spread(items: Sequence[_T], wanted: int) -> tuple[_T, ...]:
    """``wanted`` of the items, as evenly as can be."""
    total = len(items)
    return tuple(item for j, item in enumerate(items) if (j + 1) * wanted // total > j * wanted // total)


def slots_and_leads(
    sizes: Sequence[int], uses: Sequence[tuple[int, int]], slots: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The slot and the lead of each streamed segment, or None if the steps need more slots at once than there are.

    ``sizes`` in bytes; ``uses``: first and last step of each, neither decreasing. Slots are taken in turn. The lead is
    the largest for which no read meets a place that is still in use: one less than the turn where the last segments
    of a pass and the first of the next would share a slot.
    """
    count = len(sizes)
    turn = tuple(i % slots for i in range(count))
    leads = []
    released = 0
    for i in range(count):
        lead = 1
        while lead < min(slots, count, MOST_LEAD) and turn[i - lead] != turn[i]:
            lead += 1
        while uses[released][1] < uses[i][0]:
            released += 1
        if released < i - lead + 1:
            return None  # the step would wait for a read that waits for the step
        leads.append(lead)
    return turn, tuple(leads)
