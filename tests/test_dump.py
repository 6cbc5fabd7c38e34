"""``build --dump``: every record of a program and a plan is found again in its text."""

from __future__ import annotations

from pathlib import Path

from n730c.dtypes import Format
from n730c.dump import dump_value
from tests.tiny_package import tiny


def test_formats_program_and_plan_as_text(tmp_path: Path) -> None:
    made, folder = tiny(), tmp_path / "new" / "dump"
    dump_value(folder, "02_precision", {"model.norm.weight": Format.F32})
    dump_value(folder, "03_program", made.program)
    dump_value(folder, "04_plan", made.plans[0])
    assert (folder / "02_precision.txt").read_text() == "model.norm.weight: F32\n"
    program = (folder / "03_program.txt").read_text().splitlines()
    for i, tensor in enumerate(made.program.tensors):
        line = f"  {i}: name={tensor.name} format={tensor.format.name} rows={tensor.rows} cols={tensor.cols}"
        assert any(found.startswith(line) for found in program)
    assert sum(" op=ATTENTION " in line for line in program) == len(made.program.caches)
    assert f"vocab: {made.program.vocab}" in program
    plan = (folder / "04_plan.txt").read_text().splitlines()
    assert f"arena_bytes: {made.plans[0].arena_bytes}" in plan
    assert sum(": action=" in line for line in plan) == len(made.plans[0].schedule)


def test_no_folder_no_file(tmp_path: Path) -> None:
    dump_value(None, "03_program", tiny().program)
    assert list(tmp_path.iterdir()) == []
