"""What is shown of a size: as much of it as was asked for must be enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from n730c.cli import parse_size
from n730c.report import show_need, show_size


@given(st.integers(1, 2**45))
def test_the_memory_that_is_shown_is_enough(size: int) -> None:
    shown = show_need(size)
    assert size <= parse_size(shown.removesuffix(" B")) <= 1.11 * size
    assert shown in (show_size(size), show_need(parse_size(shown.removesuffix(" B"))))
