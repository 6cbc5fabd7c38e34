"""Normalizers and pre-tokenizers of a Hugging Face tokenizer as the steps of a package's programs.

One function a component in the two tables below; a component without one is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenizers import normalizers

from n730c.errors import UnsupportedModel
from n730c.frontend.automaton import compile_automaton
from n730c.frontend.regex import Alt, Cat, Chars, CharSet, Node, Repeat, char_set, literal, parse_regex, sets_of
from n730c.frontend.unicode_tables import (
    form_tables,
    map_rules,
    numeric,
    partition,
    punctuation,
    white,
    words_and_spaces,
)
from n730c.tokenizer_format import (
    BYTES,
    INVERT,
    MAX_STEPS,
    MAX_TEXT_BYTES,
    NO_FORM,
    Behavior,
    Classes,
    ClassFlag,
    FormTables,
    MapRule,
    Op,
    Step,
)

Json = dict[str, Any]

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_HINT = "Use a model with another tokenizer"
_BEHAVIORS = {
    "Isolated": Behavior.ISOLATED,
    "Removed": Behavior.REMOVED,
    "MergedWithPrevious": Behavior.MERGED_WITH_PREVIOUS,
    "MergedWithNext": Behavior.MERGED_WITH_NEXT,
    "Contiguous": Behavior.CONTIGUOUS,
}


def refuse(what: str, expected: str, found: object) -> UnsupportedModel:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=True)
    shown = text if len(text) <= 120 else text[:117] + "..."
    return UnsupportedModel(f"the tokenizer's {what} is not supported", expected=expected, found=shown, hint=_HINT)


def flatten(spec: Json | None, kind: str) -> list[Json]:
    """The components of a pre-tokenizer, normalizer or decoder; nested Sequences laid out flat."""
    if spec is None:
        return []
    if spec.get("type") == "Sequence":
        return [step for part in spec[kind] for step in flatten(part, kind)]
    return [spec]


@dataclass(frozen=True)
class _Draft:
    """A step whose pattern waits for the classes of characters that all patterns tell apart."""

    op: Op
    arg: int = 0
    pattern: Node | None = None
    text: bytes = b""
    rules: tuple[MapRule, ...] = ()


@dataclass
class Words:
    """How a text becomes words: both programs, and the tables that they need."""

    normalizer: list[_Draft] = field(default_factory=list)
    pre_tokenizer: list[_Draft] = field(default_factory=list)
    form: str | None = None  # the Unicode normal form
    bytes: bool = False  # the words are bytes (ByteLevel)

    def tables(self, alphabet: list[str], *, neighbours: bool) -> tuple[Classes, FormTables, list[Step], list[Step]]:
        """The classes, the normal form, and both programs.

        ``alphabet``: the character that stands for each byte; ``neighbours``: added tokens have rules about theirs.
        """
        flags: dict[ClassFlag, CharSet] = {}
        form = NO_FORM
        if neighbours:
            flags[ClassFlag.WORD], flags[ClassFlag.STRIP_SPACE] = words_and_spaces()
        if self.form is not None:
            form, flags[ClassFlag.FORM] = form_tables(self.form)
        if any(draft.op is Op.STRIP for draft in self.normalizer):
            flags[ClassFlag.WHITE] = white()
        drafts = [*self.normalizer, *self.pre_tokenizer]
        patterns = [draft.pattern for draft in drafts if draft.pattern is not None]
        unique = {chars.tobytes(): chars for pattern in patterns for chars in sets_of(pattern)}
        labels, firsts = partition([*unique.values(), *flags.values()])
        of_classes = [ClassFlag(sum(int(flag) for flag, chars in flags.items() if chars[c])) for c in firsts]
        classes = Classes.of(labels, of_classes, [int(labels[ord(c)]) for c in alphabet])
        programs = [[_finish(draft, firsts) for draft in program] for program in (self.normalizer, self.pre_tokenizer)]
        return classes, form, programs[0], programs[1]


def _finish(draft: _Draft, firsts: list[int]) -> Step:
    automaton = None if draft.pattern is None else compile_automaton(draft.pattern, firsts)
    return Step(draft.op, draft.arg, automaton, draft.text, rules=draft.rules)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > MAX_TEXT_BYTES:
        raise refuse("text in a step", f"at most {MAX_TEXT_BYTES} bytes", text)
    return data


def _pattern(spec: Json) -> Node | None:
    """A ``{"String": …}`` or ``{"Regex": …}``; None: it matches nothing."""
    if "Regex" in spec:
        return parse_regex(spec["Regex"])
    return literal(spec["String"]) if spec["String"] else None


def _cut(words: Words, pattern: Node | None, behavior: Behavior, more: int = 0) -> None:
    if pattern is not None:
        words.pre_tokenizer.append(_Draft(Op.SPLIT, behavior | more | (BYTES if words.bytes else 0), pattern))


# --- normalizers -----------------------------------------------------------------------------------------------------


def _normal_form(words: Words, form: str) -> None:
    if words.form not in (None, form):
        raise refuse("normalizer", "one Unicode normal form", f"{words.form} and {form}")
    words.form = form
    words.normalizer.append(_Draft(Op.FORM, int(form.endswith("C"))))


def _map(words: Words, normalizer: normalizers.Normalizer) -> None:
    words.normalizer.append(_Draft(Op.MAP, rules=map_rules(normalizer)))


def _replace(words: Words, spec: Json) -> None:
    pattern = _pattern(spec["pattern"])
    if pattern is not None:
        words.normalizer.append(_Draft(Op.REPLACE, pattern=pattern, text=_text(spec["content"])))


def _strip(words: Words, spec: Json) -> None:
    words.normalizer.append(_Draft(Op.STRIP, spec["strip_left"] + 2 * spec["strip_right"]))


def _prepend(words: Words, spec: Json) -> None:
    words.normalizer.append(_Draft(Op.PREPEND, text=_text(spec["prepend"])))


def _bert(words: Words, spec: Json) -> None:
    options = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    for option in ("clean_text", "handle_chinese_chars"):
        if spec[option]:
            _map(words, normalizers.BertNormalizer(**{**options, option: True}))
    if spec["lowercase"] if spec["strip_accents"] is None else spec["strip_accents"]:
        _normal_form(words, "NFD")
        stripped = map_rules(normalizers.BertNormalizer(**{**options, "strip_accents": True}))
        words.normalizer.append(_Draft(Op.MAP, rules=tuple(rule for rule in stripped if rule.text == b"")))
    if spec["lowercase"]:
        _map(words, normalizers.Lowercase())


_NORMALIZERS: dict[str, Callable[[Words, Json], None]] = {
    **{form: (lambda words, spec: _normal_form(words, spec["type"])) for form in ("NFC", "NFD", "NFKC", "NFKD")},
    "Lowercase": lambda words, _: _map(words, normalizers.Lowercase()),
    "StripAccents": lambda words, _: _map(words, normalizers.StripAccents()),
    "Nmt": lambda words, _: _map(words, normalizers.Nmt()),
    "Replace": _replace,
    "Strip": _strip,
    "Prepend": _prepend,
    "BertNormalizer": _bert,
}


# --- pre-tokenizers --------------------------------------------------------------------------------------------------


def _split(words: Words, spec: Json) -> None:
    _cut(words, _pattern(spec["pattern"]), _BEHAVIORS[spec["behavior"]], INVERT if spec["invert"] else 0)


def _byte_level(words: Words, spec: Json) -> None:
    if words.bytes:
        raise refuse("pre-tokenizer", "ByteLevel once", "twice")
    if spec["add_prefix_space"]:
        words.pre_tokenizer.append(_Draft(Op.PREFIX, text=b" "))
    if spec["use_regex"]:
        _cut(words, parse_regex(GPT2_PATTERN), Behavior.ISOLATED)
    words.bytes = True


def _metaspace(words: Words, spec: Json) -> None:
    if words.bytes:
        raise refuse("pre-tokenizer", "Metaspace in front of ByteLevel", "behind it")
    space = spec["replacement"]
    words.pre_tokenizer.append(_Draft(Op.REPLACE, pattern=literal(" "), text=_text(space)))
    if spec["prepend_scheme"] != "never":
        words.pre_tokenizer.append(_Draft(Op.PREFIX, int(spec["prepend_scheme"] == "first"), text=_text(space)))
    if spec["split"]:
        _cut(words, literal(space), Behavior.MERGED_WITH_NEXT)


def _digits(words: Words, spec: Json) -> None:
    behavior = Behavior.ISOLATED if spec["individual_digits"] else Behavior.CONTIGUOUS
    _cut(words, Chars(numeric()), behavior)


def _whitespace(words: Words, _: Json) -> None:
    word, space = words_and_spaces()
    parts = (Repeat(Chars(word), 1, None), Repeat(Chars(~(word | space)), 1, None))
    _cut(words, Alt(parts), Behavior.REMOVED, INVERT)


def _bert_words(words: Words, _: Json) -> None:
    _cut(words, Chars(white()), Behavior.REMOVED)
    _cut(words, Chars(punctuation()), Behavior.ISOLATED)


_PRE_TOKENIZERS: dict[str, Callable[[Words, Json], None]] = {
    "Split": _split,
    "ByteLevel": _byte_level,
    "Metaspace": _metaspace,
    "Digits": _digits,
    "Punctuation": lambda words, spec: _cut(words, Chars(punctuation()), _BEHAVIORS[spec["behavior"]]),
    "Whitespace": _whitespace,
    "WhitespaceSplit": lambda words, _: _cut(words, Chars(white()), Behavior.REMOVED),
    "CharDelimiterSplit": lambda words, spec: _cut(words, literal(spec["delimiter"]), Behavior.REMOVED),
    "BertPreTokenizer": _bert_words,
}


def read_words(spec: Json) -> Words:
    """The steps of a tokenizer.json as the library writes it. Raises UnsupportedModel."""
    words = Words()
    for kind, name, known in (
        ("normalizer", "normalizers", _NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS),
    ):
        for part in flatten(spec.get(kind), name):
            step = known.get(part["type"])
            if step is None:
                raise refuse(kind.replace("_", "-"), f"one of {', '.join(known)}", part["type"])
            step(words, part)
    for program in (words.normalizer, words.pre_tokenizer):
        if len(program) > MAX_STEPS:
            raise refuse("list of steps", f"at most {MAX_STEPS}", str(len(program)))
    return words


def cut_at_spaces(words: Words, space: str) -> None:
    """Cuts words in front of each run of ``space``, for a vocabulary in which no token reaches across that place."""
    here = char_set([ord(space)])
    spaces, others = Repeat(Chars(here), 1, None), Chars(~here)
    cut = Alt((Cat((spaces, Repeat(others, 0, None))), Repeat(others, 1, None)))
    if len(words.pre_tokenizer) < MAX_STEPS:
        _cut(words, cut, Behavior.ISOLATED)
