"""The targets that come with the compiler: each loads, and each number says where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from n730c.artifacts import GpuArch
from n730c.errors import UsageError
from n730c.target import Gpu, KernelRates, Target, load_target, target_names

NUMBERS = set(Target.model_fields) - {"name", "description", "sources", "gpu"}
OF_THE_CARD = {f"gpu.{name}" for name in Gpu.model_fields}


@pytest.mark.parametrize("name", target_names())
def test_every_number_has_its_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert set(target.sources) == (NUMBERS | OF_THE_CARD if target.gpu else NUMBERS)
    assert all(len(source) > 10 for source in target.sources.values())


def test_the_planned_kinds_of_pc_are_there() -> None:
    cards = {"gt730-gddr5", "gt730-ddr3-64", "gt730-ddr3-128", "gtx750ti", "gtx1050"}
    assert {"gt730", "gt730-4g-hdd", "cpu-8g-ssd", "cpu-4g-hdd"} | cards <= set(target_names())


def test_the_same_card_has_the_same_numbers() -> None:
    """``gt730`` is the DDR3 card on 64 bits, and all of these sit in the same PC."""
    gt730 = load_target("gt730")
    assert gt730.gpu == load_target("gt730-ddr3-64").gpu == load_target("gt730-4g-hdd").gpu
    assert load_target("gt730-ddr3-128").gpu_arch is None  # Fermi


@pytest.mark.parametrize(
    ("arch", "kernels"),
    [
        ("sm_21", None),
        ("sm_30", None),
        ("sm_37", GpuArch.SM_35),
        ("sm_53", GpuArch.SM_52),
        ("sm_60", GpuArch.PTX),
        ("sm_62", GpuArch.SM_61),
        ("sm_75", GpuArch.PTX),
        ("sm_120", GpuArch.PTX),
    ],
)
def test_every_card_from_kepler_on_gets_kernels(arch: str, kernels: GpuArch | None) -> None:
    target = load_target("gt730")
    assert target.gpu is not None
    assert target.model_copy(update={"gpu": target.gpu.model_copy(update={"arch": arch})}).gpu_arch is kernels


def test_a_file_says_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\nlike = "gtx1050"\nram_bytes = 1073741824\n[gpu]\nlaunch_s = 6e-6\n')
    card = load_target("gtx1050")
    assert card.gpu is not None
    expected = card.model_copy(
        update={"name": "mine", "ram_bytes": 2**30, "gpu": card.gpu.model_copy(update={"launch_s": 6e-6})}
    )
    assert load_target(str(mine)) == expected
    mine.write_text('name = "mine"\nlike = "gt730"\ndisk_bytes_per_s = 8e7\n')
    assert load_target(str(mine)).disk_bytes_per_s_beside_ram == 8e7
    mine.write_text('name = "mine"\nlike = "gt730"\ndisk_bytes_per_s_beside_ram = 8e9\n')
    with pytest.raises(UsageError) as caught:
        load_target(str(mine))
    assert str(caught.value).startswith(f"target {mine}: disk_bytes_per_s_beside_ram: expected at most")
    assert len(str(caught.value)) < 300
    for wrong in ('"pc"', "3", "[]"):
        mine.write_text(f'name = "mine"\nlike = {wrong}\n')
        with pytest.raises(UsageError, match="field like"):
            load_target(str(mine))


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
    assert (target.vram_bytes > 0) == (target.gpu is not None)
    assert _between(target.kernel_rates, 1e8, 1e11)
    if target.gpu is not None:
        assert 5e9 < target.vram_bytes_per_s < 2e11 and 1e9 < target.pcie_bytes_per_s < 3.2e10
        assert 1e-6 <= target.gpu.launch_s <= 1e-4 and 1e-6 <= target.gpu.copy_s <= 1e-3
        assert _between(target.gpu.kernel_rates, 5e9, 1e12) and _between(target.gpu.batch_rates, 1e10, 1e12)


def _between(rates: KernelRates, low: float, high: float) -> bool:
    return all(low <= rate <= high for rate in rates.model_dump().values())
