"""The targets that come with the compiler: each loads, and each number says where it comes from."""

from __future__ import annotations

import pytest

from n730c.target import Target, load_target, target_names

NUMBERS = set(Target.model_fields) - {"name", "description", "sources"}


@pytest.mark.parametrize("name", target_names())
def test_every_number_has_its_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.sources) == NUMBERS
    assert all(len(source) > 10 for source in target.sources.values())


def test_the_planned_kinds_of_pc_are_there() -> None:
    assert {"gt730", "gt730-4g-hdd", "cpu-8g-ssd", "cpu-4g-hdd"} <= set(target_names())


@pytest.mark.parametrize("name", target_names())
def test_numbers_are_possible(name: str) -> None:
    """A slip of a unit (MB for bytes, ms for s) falls out of these ranges."""
    target = load_target(name)
    assert 2**29 <= target.ram_bytes <= 2**36
    assert target.disk_bytes_per_s < target.ram_bytes_per_s < 1e11
    assert 5e7 <= target.disk_bytes_per_s <= 1e9  # a PC of these years
    assert 0 <= target.disk_seek_s <= 0.02
    assert 1e-8 <= target.step_seconds <= 1e-4
    assert (target.vram_bytes > 0) == (target.vram_bytes_per_s > 0) == (target.pcie_bytes_per_s > 0)
    assert all(1e8 <= rate <= 1e11 for rate in target.kernel_rates.model_dump().values())
