"""Mixture of experts: the same bits whatever the threads, and wherever the experts lie. Parity: test_families.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n730c.artifacts import Tier
from n730c.cli import run
from n730c.dtypes import Format
from n730c.package import read_package
from tests.e2e.conftest import Built, generate, n730_exec
from tests.e2e.test_parity import held_out_ids, runtime_logits
from tests.tiny_package import Shape, tiny, tiny_plan

KINDS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
EXACT = Shape(Format.INT4, layers=3, hidden=96, head_dim=24, ffn=72, experts=7, top_k=2, context=40, batch=6)


@pytest.mark.parametrize("kind", KINDS)
def test_few_bits_run(kind: str, built: Built, tmp_path: Path) -> None:
    package = built(kind, "int4")
    content = read_package(package)
    routers = [t for t in content.program.tensors if t.name.endswith("mlp.gate.weight")]
    assert routers and all(t.format is Format.F16 for t in routers)
    ids = held_out_ids(70)
    first = runtime_logits(package, ids, tmp_path, "--trust", "--threads", "1")
    assert np.isfinite(first).all()
    for options in (["--trust", "--threads", "3"], ["--kernels", "sse2", "--threads", "2"]):
        assert np.array_equal(first, runtime_logits(package, ids, tmp_path, *options)), options


@pytest.fixture(scope="module")
def tiny_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy with plans for all experts in RAM and for fewer and fewer places."""
    toy = tiny(EXACT)
    sizes = tuple(
        tiny_plan(toy.program, EXACT.context, replace(EXACT, places=n), len(toy.tokenizer)) for n in (0, 12, 5, 2, 1)
    )
    return replace(toy, plans=sizes).write(tmp_path_factory.mktemp("experts") / "experts.n730")


def test_wherever_experts_lie_the_bits_are_the_same(tiny_experts: Path, tmp_path: Path) -> None:
    ids = [i * i * 37 % 300 for i in range(70)]
    sizes = [plan.ram_bytes for plan in read_package(tiny_experts).plans]
    assert sizes == sorted(set(sizes), reverse=True)
    first = runtime_logits(tiny_experts, ids, tmp_path, "--threads", "1", "--kernels", "builtin")
    for size in sizes:
        for options in (["--threads", "1"], ["--threads", "3"], ["--kernels", "sse2", "--threads", "2"]):
            found = runtime_logits(tiny_experts, ids, tmp_path, "--ram", str(size), *options)
            assert np.array_equal(first, found), (size, options)


def test_experts_stay_inside_the_budget(tiny_experts: Path) -> None:
    for plan in read_package(tiny_experts).plans:
        options = ["--json", "--prompt-tokens", "12", "--gen-tokens", "20", "--ram", str(plan.ram_bytes)]
        done = n730_exec("bench", tiny_experts, *options)
        assert done.returncode == 0, done.stderr.decode()
        facts = json.loads(done.stdout)
        assert facts["peak_rss_bytes"] <= plan.ram_bytes


@pytest.mark.parametrize("layers_change_nothing", [True, False])
def test_the_next_layers_experts_are_foretold(layers_change_nothing: bool, tmp_path: Path) -> None:
    """Its router is asked beforehand, about the vector of this layer; no token depends on the answer."""
    toy, package = tiny(EXACT, format=Format.F16), tmp_path / "p.n730"
    silent = (".o_proj.", ".down.", ".shared.") if layers_change_nothing else ()
    tensors = [
        bytes(len(data)) if any(part in t.name for part in silent) else data
        for t, data in zip(toy.program.tensors, toy.tensors, strict=True)
    ]
    plans = tuple(
        tiny_plan(toy.program, EXACT.context, replace(EXACT, places=places), len(toy.tokenizer)) for places in (0, 5)
    )
    replace(toy, plans=plans, tensors=tuple(tensors)).write(package)
    least = ["--ram", str(plans[1].ram_bytes)]
    done = n730_exec("bench", package, "--json", "--prompt-tokens", "12", "--gen-tokens", "20", *least)
    assert done.returncode == 0, done.stderr.decode()
    share = json.loads(done.stdout)["experts_foretold"]
    assert share == 1 if layers_change_nothing else 2 / 7 < share < 1  # more than by chance
    ids = [5, 70, 3]
    assert generate(package, ids, 30, tmp_path, *least) == generate(package, ids, 30, tmp_path)


def test_a_damaged_expert_ends_the_run(tiny_experts: Path, tmp_path: Path) -> None:
    content = read_package(tiny_experts)
    data = bytearray(tiny_experts.read_bytes())
    end = len(data)
    for i, segment in reversed(list(enumerate(content.program.segments))):
        end -= segment.size
        if content.plans[-1].placements[i].tier is Tier.EXPERT:
            data[end + 100] ^= 1
    (tmp_path / "bad.n730").write_bytes(data)
    least = str(content.plans[-1].ram_bytes)
    for threads in ("1", "3"):
        done = n730_exec(tmp_path / "bad.n730", "--prompt", "the", "-n", "3", "--ram", least, "--threads", threads)
        assert done.returncode == 1
        assert b"E_SEGMENT_CHECKSUM" in done.stderr.splitlines()[-1]


def test_a_model_larger_than_its_memory(
    models: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Built for less than its weights: the plan keeps a cache of experts, and says how many it counts on."""
    package = tmp_path / "small.n730"
    common = [str(models("qwen2_moe")), "--target", "gt730", "--precision", "fp16", "--context", "64"]
    capfd.readouterr()
    run(["plan", *common, "--json"])
    ram = json.loads(capfd.readouterr().out)["ram_bytes"] - 400_000
    run(["build", *common, "--ram", str(ram // 1024 * 1024), "--no-tune", "-o", str(package)])
    content = read_package(package)
    assert content.plans[0].expert_places > 0
    ids = held_out_ids(60)
    full = tmp_path / "full.n730"
    run(["build", *common, "--no-tune", "-o", str(full)])
    assert np.array_equal(runtime_logits(package, ids, tmp_path), runtime_logits(full, ids, tmp_path))
