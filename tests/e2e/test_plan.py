"""``n730c plan``: what is said before anything is built, from a configuration alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Built, n730c

LLAMA_2_7B = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5},
    **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000},
    **{"num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096},
    **{"tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "llama-2-7b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_2_7B))
    return folder


def plan(source: Path, *options: str) -> dict[str, Any]:
    done = n730c("plan", source, "--target", "gt730", "--json", *options)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_7b_model_is_planned_from_its_configuration_alone(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    memory = ("--ram", "2G", "--context", "512", "--vram", "0")
    mixed = plan(folder, *memory)  # as many bits as the memory holds
    assert mixed["precision"] == "mixed" and mixed["disk_bytes_per_token"] == 0
    assert 1.8 * 2**30 < mixed["ram_bytes"] <= 2 << 30
    both = plan(folder, *memory, "--vram", "1G")  # and the card's memory, too
    assert both["device"] == "split" and both["disk_bytes_per_token"] == 0 and both["ram_bytes"] <= 2 << 30
    assert both["weights_bytes"] > mixed["weights_bytes"] + 0.7 * 2**30 - both["driver_ram_bytes"]
    facts = plan(folder, *memory, "--precision", "int4", "--report", str(page))
    assert facts["fits"] and facts["limit"] == "disk"
    assert facts["device"] == "cpu" and facts["device_reason"] == "" and set(facts["devices"]) == {"cpu"}
    assert facts["ram_bytes"] <= 2 << 30
    # What is not in RAM is read: the file is 3.9 GB at 4.5 bits.
    assert 1.7e9 < facts["disk_bytes_per_token"] < 2.4e9
    assert facts["decode_tokens_per_s"] == pytest.approx(500e6 / facts["disk_bytes_per_token"], rel=0.05)
    ways = {(other["precision"], other["context"]): other for other in facts["others"]}
    assert ways["int2", 512]["decode_tokens_per_s"] > facts["decode_tokens_per_s"]
    assert ways["int4", 128]["disk_bytes_per_token"] < facts["disk_bytes_per_token"]
    text = page.read_text()
    assert "KV cache of 512 tokens" in text
    drawings = [part.split("</svg>")[0] for part in text.split("<svg")[1:]]
    for drawing in drawings:
        ElementTree.fromstring(f"<svg{drawing}</svg>")
    assert drawings[0].count("<rect") > 100  # reads and runs of one token


def test_a_card_that_pays_is_used_as_far_as_its_memory_goes(folder: Path) -> None:
    int4 = ("--precision", "int4", "--context", "512")
    facts = plan(folder, *int4, "--vram", "1G")
    assert facts["device"] == "split" and facts["limit"] == "RAM and VRAM"
    assert 0.9 * 2**30 < facts["vram_bytes"] <= 2**30
    assert set(facts["devices"]) == {"cpu", "split"}  # 3.9 GB do not fit the card
    assert facts["decode_tokens_per_s"] == pytest.approx(facts["devices"]["split"])
    assert facts["devices"]["split"] > 1.2 * facts["devices"]["cpu"]
    without = plan(folder, *int4, "--vram", "0")
    assert without["device"] == "cpu" and without["vram_bytes"] == 0 and without["device_reason"] == ""
    assert without["decode_tokens_per_s"] == pytest.approx(facts["devices"]["cpu"])


def test_weights_that_do_not_fit_the_ram_lie_in_vram(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    int4 = ("--precision", "int4", "--context", "512")  # mixed takes what the RAM holds
    facts = plan(folder, *int4, "--ram", "3G", "--report", str(page))
    assert facts["device"] == "split" and facts["disk_bytes_per_token"] == 0
    assert facts["ram_bytes"] <= 3 << 30
    assert facts["decode_tokens_per_s"] > 5 * facts["devices"]["cpu"]
    drawings = [part.split("</svg>")[0] for part in page.read_text().split("<svg")[1:]]
    for drawing in drawings:
        ElementTree.fromstring(f"<svg{drawing}</svg>")
    assert drawings[0].count("<rect") > 100  # CPU and card in turn and beside each other


def test_a_model_larger_than_ram_and_vram_together(folder: Path) -> None:
    facts = plan(folder, "--precision", "int4", "--context", "512", "--ram", "1500M", "--vram", "1G")
    assert facts["device"] == "split" and facts["limit"] == "disk"
    assert facts["ram_bytes"] <= 1500 << 20 and 0.85 * 2**30 < facts["vram_bytes"] <= 2**30
    assert 1.2e9 < facts["disk_bytes_per_token"] < 1.9e9  # of 3.9 GB
    assert facts["decode_tokens_per_s"] > 1.4 * facts["devices"]["cpu"]
    assert "larger than both memories" in facts["device_reason"]


def test_what_does_not_fit_says_what_would(folder: Path) -> None:
    facts = plan(folder, "--ram", "100M", "--context", "4096")
    assert not facts["fits"] and facts["limit"] == "memory"
    assert facts["ram_bytes"] > 2 << 30  # the KV cache alone
    assert plan(folder, "--ram", "4G")["context"] < 4096  # sized to fit when it is not given


def test_plan_of_a_package(built: Built) -> None:
    package = built("demo", "int8")
    facts = plan(package)
    assert facts["fits"] and facts["disk_bytes_per_token"] == 0 and facts["precision"] == "int8"
    done = n730c("plan", package, "--target", "gt730", "--precision", "int4")
    assert done.returncode == 1 and "for model folders" in done.stderr


def test_a_page_is_not_written_over_another_file(built: Built, tmp_path: Path) -> None:
    package, mine = built("demo", "int8"), tmp_path / "mine.txt"
    mine.write_text("mine")
    done = n730c("plan", package, "--target", "gt730", "--report", mine)
    assert done.returncode == 1 and "expected a new file or an older page" in done.stderr
    assert mine.read_text() == "mine"
