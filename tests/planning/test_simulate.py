"""The simulator against cases worked out by hand, and against what no schedule can beat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from n730c.passes.ring import slots_and_leads
from n730c.passes.simulate import Read, simulate


def test_without_reads_a_pass_takes_what_its_steps_take() -> None:
    timeline = simulate((1.0, 2.0, 3.0), ())
    assert timeline.period == pytest.approx(6.0)
    assert timeline.waited == 0


def test_one_slot_reads_and_computes_in_turn() -> None:
    """Two segments through one place: read 3, compute 1, read 3, compute 1."""
    reads = (Read(3.0, 1, 0, 0), Read(3.0, 1, 1, 1))
    timeline = simulate((1.0, 1.0), reads)
    assert timeline.period == pytest.approx(8.0)
    assert timeline.waited == pytest.approx(6.0)


def test_two_slots_hide_computing_behind_a_slow_disk() -> None:
    reads = (Read(3.0, 2, 0, 0), Read(3.0, 2, 1, 1))
    assert simulate((1.0, 1.0), reads).period == pytest.approx(6.0)


def test_a_disk_beside_a_busy_processor_is_slower() -> None:
    """Of a period of T the processor computes 2, in which the disk does half as much: T - 2 + 1 = 6."""
    reads = (Read(3.0, 2, 0, 0), Read(3.0, 2, 1, 1))
    assert simulate((1.0, 1.0), reads, beside=0.5).period == pytest.approx(7.0)


def test_a_read_that_began_beside_computing_ends_alone() -> None:
    """Released at 2.5, half as fast until 5 (1.25 of the 2 done), then alone and waited for: 0.75."""
    assert simulate((2.5, 2.5), (Read(2.0, 1, 0, 0),), beside=0.5).period == pytest.approx(5.75)


def test_two_slots_hide_a_quick_disk_behind_computing() -> None:
    reads = (Read(1.0, 2, 0, 0), Read(1.0, 2, 1, 1))
    timeline = simulate((3.0, 3.0), reads)
    assert timeline.period == pytest.approx(6.0)
    assert timeline.waited == pytest.approx(0.0)


def test_reading_runs_on_over_the_border_of_a_pass() -> None:
    """One streamed segment at the start, then a long resident part during which the next pass's read is done."""
    timeline = simulate((1.0, 9.0), (Read(4.0, 1, 0, 0),))
    # Released at 1 of the pass, read from 1 to 5, there when the next pass begins at 10.
    assert timeline.period == pytest.approx(10.0)
    assert timeline.waited == pytest.approx(0.0)


def test_a_segment_used_by_two_steps_is_released_after_the_second() -> None:
    """Places are free at 2 and 4 of a pass that computes 4; each read takes 3, with one place for both."""
    reads = (Read(3.0, 1, 0, 1), Read(3.0, 1, 2, 3))
    assert simulate((1.0, 1.0, 1.0, 1.0), reads).period == pytest.approx(10.0)


def test_the_last_pass_is_told_as_it_was() -> None:
    timeline = simulate((1.0, 2.0), (Read(0.5, 1, 1, 1),))
    assert [(s.index, s.count) for s in timeline.runs] == [(0, 1), (1, 1)]
    first, second = timeline.runs
    assert first.begin == timeline.begin and first.end == second.begin == timeline.begin + 1.0
    (read,) = timeline.reads
    assert read.end == pytest.approx(timeline.begin + 0.5)  # it began at the end of the pass before


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)), min_size=1, max_size=40),
    st.integers(1, 8),
)
def test_no_schedule_beats_its_floors_and_more_places_do_not_hurt(times: list[tuple[float, float]], slots: int) -> None:
    steps = [compute for compute, _ in times]
    uses = [(i, i) for i in range(len(times))]
    ring = slots_and_leads([4096] * len(times), uses, slots)
    assert ring is not None
    _, leads = ring
    assert all(1 <= lead <= slots for lead in leads)
    reads = [Read(read, lead, i, i) for i, ((_, read), lead) in enumerate(zip(times, leads, strict=True))]
    period = simulate(steps, reads).period
    assert period >= max(sum(steps), sum(read for _, read in times)) * (1 - 1e-9)
    assert period <= (sum(steps) + sum(read for _, read in times)) * (1 + 1e-9)


def test_a_step_that_needs_more_places_than_there_are() -> None:
    """A weight and its bias in two segments: one place is not enough."""
    assert slots_and_leads([4096, 4096], [(0, 0), (0, 0)], 1) is None
    assert slots_and_leads([4096, 4096], [(0, 0), (0, 0)], 2) == ((0, 1), (2, 2))


def test_leads_shrink_where_the_passes_meet() -> None:
    turns, leads = slots_and_leads([4096] * 5, [(i, i) for i in range(5)], 2) or ((), ())
    assert turns == (0, 1, 0, 1, 0)
    assert leads == (1, 2, 2, 2, 2)  # the first follows the fifth, which has the same place
