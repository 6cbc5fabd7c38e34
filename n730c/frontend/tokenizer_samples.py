"""Texts on which a native tokenizer shows its faults: what the build compares before it writes a package."""

from __future__ import annotations

_SCRIPTS = (
    "The quick brown fox. Größe, naïve, Ærøskøbing, œuvre; Ελληνικά, Привет мир! שלום עולם ‏ مرحبا بالعالم "
    "हिन्दी भाषा தமிழ் ภาษาไทย ភាសាខ្មែរ မြန်မာ ქართული Հայերեն አማርኛ 漢字かな交じり文 한국어 조선말 ᠮᠣᠩᠭᠣᠯ ꦗꦮ "
    "𐐔𐐯𐑅𐐨𐑉𐐯𐐻 𠀀𠮷 Ⅷ ½ ² ٣٤٥ ०१२ ௧ 〇 𝟘𝟙𝟚𝟛"
)
_CODE = (
    "def f(x: int = 0x1F) -> 'str':\n\treturn f\"{x!r:>10}\"  # done\n\n\n    if a[i]!=b[-1]&&c::d->e<<=2;}}\r\n\r\n"
    "for(i=0;i<1000000;++i){sum+=3.14159265e-10*i;}\n<div class=\"a\">&nbsp;</div> SELECT * FROM t WHERE x='y''z'; --\n"
)
_EMOJI = "👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣ ©️ ☃\ufe0e🫠\U000e0001"
_SPACES = (
    " a  b   c\td \t e\n f\n\ng \n \n  h\r\ni\r\rj\x0bk\x0cl \x85m\xa0n\xa0\xa0o\u1680p\u180eq\u2000\u2009 r\u200b"
    "s\u200dt\u2028u\u2029 \u2029v\u202fw\u205fx\u3000\u3000y\ufeffz   "
)
_CONTRACTIONS = (
    "I'm you're he'S we'LL they'Ve don't I'D 'tis 'Twas rock'n'roll 'ſ 'ſt x'ſa 'K 'rE 'lL 'Re's ''s '' ' "
    "'s's 'm'd 'v 'l o\u2019clock \u2018tis 's1 're2 'll\n 'd\t ' s"
)
_NFC = (
    "e\u0301 a\u0328\u0301 a\u0301\u0328 q\u0323\u0307 q\u0307\u0323 \u1e9b\u0323 \u0344 \u0958 \u09c7\u09be "
    "\u2126 \u212b \u212a \u1100\u1161\u11a8 \uac00\u11a8 \uac01\u11a8 \u1100\u1161\u1161 "
    "\uf900 \ufb1d \U0001d15e \u0b94\u0bd7 "
    "\u0301\u0301 \u0897\u0334 a\u0345\u0334\u0301 \u0f71\u0f72\u0f74 \u3099\u304b\u3099 \u00e9\u0323 s\u0323\u0307"
)
_CONTROL = "".join(map(chr, range(0x21))) + "\x7f\x80\x9f\xad\u0378\uffff\ufdd0\U0010ffff\ue000\ufffd\x00\x00a\x00"
_DIGITS = "1 12 123 1234 12345 1234567890 3.14 1,000,000 a1b22c333 ١٢٣٤٥ Ⅻ①②③④ 1½ x² 00000000"

SAMPLES = (
    " ",
    "\n",
    "a",
    _SCRIPTS,
    _CODE,
    _EMOJI,
    _SPACES,
    _CONTRACTIONS,
    _NFC,
    _CONTROL,
    _DIGITS,
    " ".join((_SCRIPTS, _CONTRACTIONS, _NFC, _SPACES, _DIGITS))[::-1],
    "a" * 3000 + " " * 3000 + "\u0301" * 300 + "ab" * 1000 + "\n" * 500 + "=" * 1000,
)
