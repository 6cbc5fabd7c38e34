"""Profiles from files: what is not one, and what is another model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from n730c.dtypes import Format
from n730c.errors import UsageError
from n730c.profile import SensitivityProfile, check_profile, read_profile

PROFILE = SensitivityProfile({"a.gguf": "1" * 64}, "2" * 64, 512, "kl", 1e-4, {"w": {Format.INT4: 1e-3}})


@pytest.mark.parametrize("tokens", ["Infinity", "-Infinity", "NaN", '"many"', "[]"])
def test_a_damaged_number_is_told_in_one_line(tokens: str, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    PROFILE.write(file)
    assert read_profile(file) == PROFILE
    content = json.loads(file.read_text()) | {"tokens": "HERE"}
    file.write_text(json.dumps(content).replace('"HERE"', tokens))
    with pytest.raises(UsageError, match="is no sensitivity profile"):
        read_profile(file)


def test_a_profile_of_another_file_of_weights_is_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "model.safetensors"):
        profile = SensitivityProfile({name: "1" * 64}, "2" * 64, 512, "kl", 1e-4, {"w": {Format.INT4: 1e-3}})
        check_profile(profile, {name: "1" * 64}, ["w"], tmp_path)
        with pytest.raises(UsageError, match=f"the profile of another model: {name} differs"):
            check_profile(profile, {name: "3" * 64}, ["w"], tmp_path)
