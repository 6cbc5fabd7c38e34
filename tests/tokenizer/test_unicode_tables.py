"""Code points that are not asked about one by one are alike to every part of the library that could tell them apart."""

from __future__ import annotations

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

from n730c.frontend.unicode_tables import _ALIKE, map_rules, matching, numeric, punctuation, white

PROPERTIES = ("L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "Nd", "P", "S", "Z", "C", "Cn", "Co", "Han", "Greek")


@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_code_points_that_are_alike(step: int) -> None:
    for alike in _ALIKE:
        text = "".join(map(chr, [*alike[::step], alike[-1]]))
        for name in (*(f"\\p{{{name}}}" for name in PROPERTIES), r"\s", r"\w", r"\d"):
            rest = normalizers.Replace(Regex(f"[^{name}]+"), "").normalize_str(text)
            assert rest in ("", text), (name, alike)
        for make in (pre_tokenizers.Digits, pre_tokenizers.Punctuation, pre_tokenizers.WhitespaceSplit):
            assert len(make().pre_tokenize_str("a" + text)) == 1, alike
        assert len(pre_tokenizers.Whitespace().pre_tokenize_str(text)) == 1, alike
        for normalizer in (
            *(normalizers.NFKD(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()),
            *(normalizers.Nmt(), normalizers.BertNormalizer(clean_text=False)),
        ):
            assert normalizer.normalize_str(text) == text, (normalizer, alike)
        cleaned = len(normalizers.BertNormalizer(clean_text=True).normalize_str(text))
        assert cleaned in (0, len(text)), alike  # private ones go


def test_classes_of_well_known_characters() -> None:
    letters, space = matching(r"\p{L}"), matching(r"\s")
    assert [bool(letters[ord(c)]) for c in "aé中1_ \u0301"] == [True, True, True, False, False, False, False]
    assert space[0x20] and space[0x85] and not space[0x200B] and not letters[0xD800]
    assert numeric()[ord("²")] and punctuation()[ord("$")] and white()[0x3000] and not white()[0x200B]
    rules = map_rules(normalizers.Lowercase())
    assert [(rule.first, rule.text) for rule in rules if rule.first == 0x130] == [(0x130, "i\u0307".encode())]
