"""Texts to compare tokenizers on: mixed real text, and random strings that aim at every boundary."""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib"))
SPACES = (
    "\t\n\x0b\x0c\r\x1c\x1f \x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f"
    "\u2060\u3000\ufeff"
)
DIGITS = "0123456789²³¹¼½٠٣٩۰۵०१९௧௰௱๐๓༣༳ⅠⅫⅷↀ①⑳⒈〇〡㉑㊀０９𐄇𝟎𝟗𑁦"
MARKS = (
    "\u0300\u0301\u0308\u0327\u0328\u0331\u0334\u0338\u0345\u034f\u035c\u0591\u05b0\u064b\u0651\u093c\u094d"
    "\u09bc\u09be\u0b3e\u0bd7\u0e38\u0e48\u0f71\u0f72\u0f74\u1039\u1dce\u20d0\u20dd\u302a\u3099\u309a\ufe0f"
    "\ufe20\U0001d165\U0001d16d\U000e0100\u0898\u1ac1"
)
JAMO = "\u1100\u1112\u1161\u1175\u11a7\u11a8\u11c2\u11c3\u1176\uac00\uac01\uac1c\ud7a3\ud788\u115f\u1160\u3131"
NFC_CHANGING = (
    "\u0340\u0341\u0343\u0344\u0374\u037e\u0387\u0958\u095f\u09dc\u0a33\u0b5c\u0f43\u0f69\u0f76\u1f71\u1fbe"
    "\u1fef\u2000\u2001\u2126\u212a\u212b\u2329\u2adc\uf900\ufa10\ufb1d\ufb2a\ufb4e\U0001d15e\U0001d1c0"
    "\U0002f800\u1e9b\u01d5\u1eac\u0439\u30ac\u0dde"
)
LETTERS = "aAbdDeEilLmMrRsStTvVzßſKéñøœǅʰªºδЖא中あア가ขकதაԱአᏣ𐐀𝒜𠀀ﬀﬅﷲ々〆ـᠠ"
SYMBOLS = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§¶€™←∑█★☃♥⚡✂〈。，🎉👍🏽🇩🇪❤\ufe0f👩\u200d💻\x00\x01\x1b\x7f\x80\xad\u061c"
    "\u200e\ufffd"
)
ODD = (
    "\u0378\u05ff\u0870\u1c8a\u2fe0\ua7cd\uaaff\ue000\ufdd0\uffff\U0001ffff\U000323af\U000e0fff\U0010ffff"
    "\U00011241\U0001e4d0\u31bb"
)
CONTRACTIONS = (
    "s",
    "S",
    "t",
    "T",
    "re",
    "RE",
    "rE",
    "ve",
    "Ve",
    "m",
    "M",
    "ll",
    "LL",
    "lL",
    "d",
    "D",
    "ſ",
    "ſt",
    "K",
    "x",
    "r",
    "l",
    "v",
)


@lru_cache(maxsize=1)
def boundaries() -> str:
    """The characters on both sides of every change of general category."""
    found = []
    last = ""
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        category = unicodedata.category(chr(code))
        if category != last and code:
            found += [chr(code - 1 if code != 0xE000 else 0xD7FF), chr(code)]
        last = category
    return "".join(found)


def _scalar(rng: random.Random) -> str:
    while True:
        code = rng.choice(
            (rng.randrange(0x800), rng.randrange(0x3000), rng.randrange(0x20000), rng.randrange(0x110000))
        )
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_text(rng: random.Random, added: list[str]) -> str:
    """A short string of hostile neighbours; ``added``: the tokenizer's added tokens, glued in now and then."""
    out: list[str] = []
    for _ in range(rng.randint(1, rng.choice((4, 12, 40)))):
        kind = rng.randrange(16)
        times = rng.choice((1, 1, 1, 2, 3, 5))
        if kind < 8:
            pool = (SPACES, DIGITS, MARKS, JAMO, NFC_CHANGING, LETTERS, SYMBOLS, ODD)[kind]
            out += rng.choices(pool, k=times)
        elif kind == 8:
            out.append(rng.choice(" \n\r\t") * times)
        elif kind == 9:
            out.append("'" + rng.choice(CONTRACTIONS))
        elif kind == 10:
            out += rng.choices(boundaries(), k=times)
        elif kind == 11:
            out += [_scalar(rng) for _ in range(times)]
        elif kind == 12:
            out.append(
                rng.choice(
                    (" the", " self", "import", "return", "def", "    ", "\r\n", "==", "__init__", "Ünï", "don't")
                )
            )
        elif kind == 13 and added:
            token = rng.choice(added)
            out.append(token if rng.random() < 0.8 else token[: rng.randint(1, len(token))])
        elif kind == 14:
            out.append(rng.choice(LETTERS) + "".join(rng.choices(MARKS, k=times)))
        else:
            out.append("".join(rng.choices("0123456789", k=times)))
    return "".join(out)


def _python_files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes().decode("utf-8", errors="replace")
        yield text


def _sweep(rng: random.Random) -> Iterator[str]:
    """Every scalar value once, in order, some with company."""
    for begin in range(0, 0x110000, 0x400):
        if 0xD800 <= begin < 0xE000:
            continue
        yield "".join(
            chr(c) + rng.choice(("", "", "", " ", "a", "\u0301", "1", "'s")) for c in range(begin, begin + 0x400)
        )


def mixed_text(size: int, seed: int, folders: tuple[Path, ...] = (STDLIB,)) -> Iterator[str]:
    """At least ``size`` bytes of text in documents: half sources and docstrings, half synthetic.

    The synthetic half is a sweep over all of Unicode, random bytes decoded, and long random strings.
    """
    rng = random.Random(seed)
    sources = (text for folder in folders for text in _python_files(folder))
    sweep = _sweep(rng)
    done = {"source": 0, "other": 0}
    while sum(done.values()) < size:
        text = next(sources, None) if done["source"] <= done["other"] else None
        kind = "source" if text is not None else "other"
        if text is None:
            choice = rng.randrange(3)
            text = next(sweep, "") if choice == 0 else ""
            if choice == 1:
                text = rng.randbytes(8192).decode("utf-8", errors="replace" if rng.random() < 0.5 else "ignore")
            if not text:
                text = "".join(random_text(rng, []) for _ in range(100))
        done[kind] += len(text.encode())
        yield text
