"""``n730c build`` for a target with a card: what the plan uses is made, and what cannot be made is left out."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from n730c import draft
from n730c.artifacts import Action, GpuArch, Program
from n730c.cli import run
from n730c.codegen.nvrtc import Nvrtc
from n730c.errors import ToolchainError
from n730c.package import read_package
from n730c.runtime import find_runtime
from n730c.target import load_target
from tests.models import DEMO
from tests.tiny_package import tiny

# The demo model is far too small for a card to pay, but for one whose calls cost nothing.
QUICK_CARD = """
name = "quick"
description = "gt730-gddr5 with calls that cost nothing"
like = "gt730-gddr5"

[gpu]
arch = "sm_35"
launch_s = 1e-9
copy_s = 1e-9

[sources]
"gpu.launch_s" = "made up"
"gpu.copy_s" = "made up"
"""


def test_the_kernels_of_the_targets_card_come_with_a_plan_that_uses_it(tmp_path: Path, nvrtc: Nvrtc) -> None:
    target, package = tmp_path / "quick.toml", tmp_path / "demo.n730"
    target.write_text(QUICK_CARD)
    options = ("--target", target, "--vram", "4M", "--precision", "int8", "--no-tune", "--no-chat", "-o", package)
    run(list(map(str, ("build", DEMO, *options))))
    read = read_package(package)
    first = read.plans[0]
    assert GpuArch.SM_35 in [image.isa for image in read.images]
    assert first.vram_bytes > 0 and any(event.action is Action.CARD for event in first.schedule)
    assert any(plan.vram_bytes == 0 and plan.arena_bytes == first.arena_bytes for plan in read.plans)
    command = [str(find_runtime()), str(package), "--prompt", "def", "-n", "3", "--temperature", "0", "--trust"]
    environment = {"LD_LIBRARY_PATH": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout
    assert done.stderr.count("the CPU computes: no NVIDIA driver") == 1


def test_without_the_compiler_the_card_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(program: Program, architectures: tuple[GpuArch, ...]) -> None:
        assert architectures == (GpuArch.SM_35,)
        raise ToolchainError("NVRTC is not installed", hint="Install it.")

    monkeypatch.setattr(draft, "build_gpu_images", missing)
    with_card, without = tiny(card=1), tiny()
    text = io.StringIO()
    arguments = (with_card.program, (*with_card.plans, *without.plans), load_target("gt730"))
    images, plans = draft.gpu_images(*arguments, (), Console(file=text))
    assert images == () and plans == without.plans
    assert text.getvalue() == ("n730c: note: the graphics card is left out: NVRTC is not installed. Install it.\n")
    with pytest.raises(ToolchainError):  # who asks for it by name wants it
        draft.gpu_images(*arguments, (GpuArch.SM_35,), Console(file=text))
