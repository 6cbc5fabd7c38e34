"""The native tokenizer against the ``tokenizers`` library, at length.

For each kind of tokenizer: at least 20 MB of mixed text and 100 000 random Unicode strings must give the same ids, be
cut into the same words and be decoded to the same text, and so must every single code point in several contexts.
Also says how fast either is on one core. Results are kept in tokenizer_parity.md beside this file, a row for each kind.

    python benchmarks/tokenizer_parity.py [--kinds llama2 bert …] [--megabytes 20] [--strings 100000] [--seed 0]
                                          [--no-characters] [--dry]
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import Tokenizer

from n730c.frontend.tokenizer import check_tokenizer, compile_tokenizer
from tests.tokenizer.native import Native, compile_library
from tests.tokenizer.texts import STDLIB, mixed_text, random_text
from tests.tokenizer.toys import BYTE_KINDS, CHAR_KINDS, KINDS, VOCAB, added_texts, end_of_text, make_tokenizer, save

RESULTS = Path(__file__).with_suffix(".md")
SIDES = ("library", "native")
TEXTS = ("random strings", "mixed text", "every character")
TITLE = """# The native tokenizer beside the `tokenizers` library

Written by `benchmarks/tokenizer_parity.py`: toys with the patterns, normalizers and decoders of real models. Of each
text the ids, the words and the text decoded from a stream are compared. "Every character": each code point between
letters, spaces, digits and marks. Speeds are of one shared core.

| kind | random strings | mixed text | every character | texts that differ | library, MB/s | native, MB/s |
|---|---|---|---|---|---|---|
"""
SOURCES = (STDLIB, Path(sysconfig.get_path("purelib")) / "transformers")


def every_character() -> Iterator[str]:
    """Each scalar value between letters, behind spaces, digits and apostrophes, doubled, beside marks and tokens."""
    for begin in range(0, 0x110000, 64):
        if 0xD800 <= begin < 0xE000:
            continue
        block = [chr(c) for c in range(begin, begin + 64)]
        yield "".join(f"a{c}b {c}1{c}{c}  {c}'{c}s\n{c}\u0301{c}word{c}<both>{c}" for c in block)


class Tally:
    """Counts texts, bytes, differences, and the processor time that each side takes."""

    def __init__(self, kind: str) -> None:
        self.of_bytes = kind in BYTE_KINDS
        self.has_words = kind not in CHAR_KINDS or kind == "chars"  # the others are one word, which the compiler cuts
        self.texts = self.bytes = self.wrong = 0
        self.seconds = dict.fromkeys(SIDES, 0.0)

    def compare(self, original: Tokenizer, native: Native, text: str) -> None:
        begin = time.process_time()
        expected = original.encode(text, add_special_tokens=False).ids
        middle = time.process_time()
        found = native.encode(text)
        self.seconds["library"] += middle - begin
        self.seconds["native"] += time.process_time() - middle
        same = found == expected and native.decode(found) == original.decode(expected, skip_special_tokens=False)
        if same and self.has_words:
            cut = [
                word if self.of_bytes else word.encode() for word, _ in original.pre_tokenizer.pre_tokenize_str(text)
            ]
            same = native.words(text) == [len(word) for word in cut]
        self.texts += 1
        self.bytes += len(text.encode())
        if not same:
            self.wrong += 1
            if self.wrong <= 5:
                print(f"  differs: {text[:100]!a}")

    def line(self, what: str) -> str:
        speed = ", ".join(f"{name} {self.bytes / 1e6 / s:.1f} MB/s" for name, s in self.seconds.items())
        return f"  {what}: {self.texts} texts, {self.bytes / 1e6:.1f} MB, {self.wrong} differ; {speed}"


def record(kind: str, tallies: dict[str, Tally]) -> None:
    """Put the kind's row into RESULTS, and keep those of the others."""
    old = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    rows = {line.split("|")[1].strip(): line for line in old if line.startswith("| ") and not line.startswith("| kind")}
    done = list(tallies.values())
    cells = [f"{tally.texts} ({tally.bytes / 1e6:.1f} MB)" if tally else "–" for tally in map(tallies.get, TEXTS)]
    speeds = [f"{sum(t.bytes for t in done) / 1e6 / sum(t.seconds[side] for t in done):.1f}" for side in SIDES]
    rows[kind] = f"| {kind} | {' | '.join(cells)} | {sum(t.wrong for t in done)} | {' | '.join(speeds)} |"
    lines = [rows[known] for known in KINDS if known in rows]
    RESULTS.write_text(TITLE + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-characters", action="store_true", help="leave out every single code point (67 MB)")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        library = compile_library(Path(name))
        for kind in options.kinds:
            original = make_tokenizer(kind)
            folder = save(original, Path(name) / kind)
            native = Native(library, compile_tokenizer(folder, VOCAB, [end_of_text(original)]))
            check_tokenizer(native.compiled, folder, native.encode)
            added = added_texts(original)
            rng = random.Random(f"{options.seed} {kind}")
            print(f"{kind}: {len(native.compiled)} bytes of tables", flush=True)
            texts: dict[str, Iterator[str]] = {
                "random strings": (random_text(rng, added) for _ in range(options.strings)),
                "mixed text": mixed_text(int(options.megabytes * 1e6), options.seed, SOURCES),
                "every character": every_character(),
            }
            if options.no_characters:
                del texts["every character"]
            tallies = {what: Tally(kind) for what in texts}
            for what, those in texts.items():
                for text in those:
                    tallies[what].compare(original, native, text)
                print(tallies[what].line(what), flush=True)
                wrong += tallies[what].wrong
            if not options.dry:
                record(kind, tallies)
    print("all the same" if wrong == 0 else f"{wrong} texts differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
