"""Section 8 of runtime/FORMAT.md: a tiny package byte by byte. ``python -m tests.package.hexdump`` writes it anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct, unpack_from
from tempfile import TemporaryDirectory

from n730c.artifacts import NONE, Isa
from n730c.chat_format import HEADER
from n730c.dtypes import Format
from n730c.package import layout as lay
from n730c.package.layout import Kind
from tests.hostile_packages.forge import RECORDS
from tests.tiny_package import Shape, tiny

PAGE = Path(__file__).parents[2] / "runtime/FORMAT.md"
BEGIN = "## 8. A package byte by byte\n"
SHAPE = Shape(
    format=Format.INT4, layers=1, hidden=16, heads=2, kv_heads=1, head_dim=8, ffn=8, vocab=260, context=8, batch=2,
    bias=False, images=(Isa.AVX2,),
)  # fmt: skip

Field = tuple[int, str]  # bytes, what


def _line(data: bytes, at: int, size: int, what: str) -> str:
    shown = data[at : at + min(size, 16)]
    bytes_text = f"{shown[0]:02x} × {size}" if size > 16 and not any(data[at : at + size]) else shown.hex(" ")
    if size > 16 and any(data[at : at + size]):
        bytes_text = data[at : at + 15].hex(" ") + " …"
    return f"{at:06x}  {bytes_text:<47}  {what}".rstrip()


def _lines(data: bytes, at: int, fields: Sequence[Field]) -> Iterator[str]:
    """One line for as many fields as 16 bytes hold."""
    size, words = 0, ""
    for width, what in fields:
        if size and size + width > 16:
            yield _line(data, at, size, words)
            at, size, words = at + size, 0, ""
        size, words = size + width, f"{words} · {what}" if words else what
    yield _line(data, at, size, words)


def _fields(struct: Struct, names: Sequence[str], data: bytes, at: int) -> list[Field]:
    """Width and ``name value`` of each field of one record."""
    fields: list[Field] = []
    codes = re.findall(r"(\d*)([a-zA-Z])", struct.format.replace(">", ""))
    widths = [w for count, code in codes for w in ([f"{count}s"] if code == "s" else [code] * int(count or 1))]
    for name, width, value in zip(names, widths, struct.unpack_from(data, at), strict=True):
        if isinstance(value, bytes):
            text = f"{name} {value.decode('latin1')!r}" if value.isascii() and any(value) else name
        elif name == "hash":
            text = "XXH3"
        else:
            text = f"{name} {'NONE' if value == NONE and width == 'I' else f'{value:g}' if width == 'd' else value}"
        fields.append((Struct(">" + width).size, text.replace("zeros", "reserved").replace("zero 0", "reserved")))
    return fields


def _header(data: bytes) -> Iterator[str]:
    names = ("magic", "major", "minor", "header size", "file size", "sections", "reserved")
    yield from _lines(data, 0, [(w, t.split(" '")[0]) for w, t in _fields(lay.HEADER, names, data, 0)])
    for kind in Kind:
        at = lay.HEADER.size + (kind - 1) * lay.SECTION.size
        yield from _lines(data, at, _fields(lay.SECTION, (kind.name, "reserved", "offset", "size", "hash"), data, at))
    at = lay.SECTION_TABLE_END
    yield _line(data, at, lay.HEADER_HASHED - at, "reserved")
    yield _line(data, lay.HEADER_HASHED, 8, "XXH3 of bytes 0 … 4087")


def _section(data: bytes, kind: Kind, offset: int, size: int) -> Iterator[str]:
    """The first record of a table, or the first bytes of what is no table."""
    end = offset + size
    if kind in RECORDS:
        struct, record = RECORDS[kind]
        yield from _lines(data, offset, _fields(struct, record._fields, data, offset))
        offset += struct.size
    elif kind is Kind.OFFSETS:
        yield _line(data, offset, 8, f"buffer 0 at {unpack_from('>Q', data, offset)[0]}")
        offset += 8
    elif kind is Kind.IMAGES:
        for part, names in (
            (lay.IMAGES_HEAD, ("images", "reserved", "reserved")),
            (lay.IMAGE, lay.ImageRecord._fields),
        ):
            yield from _lines(data, offset, _fields(part, names, data, offset))
            offset += part.size
        yield from _lines(data, offset, _fields(lay.ENTRY, lay.EntryRecord._fields, data, offset))
        offset += lay.ENTRY.size
    elif kind is Kind.CHAT:
        names = ("version", "instructions", "strings", "macros")
        yield from _lines(data, offset, _fields(HEADER, names, data, offset))
        yield _line(data, offset + 16, 4, "LINE 1")
        yield _line(data, offset + 20, 4, "LOAD string 0")
        offset += 24
    else:
        text = kind in (Kind.META, Kind.NAMES)
        yield _line(data, offset, min(size, 16), repr(data[offset : offset + 16].decode())[1:-1] if text else "")
        offset += min(size, 16)
    if offset < end:
        yield f"        … {end - offset} bytes more"


def page() -> str:
    """The text of the section."""
    with TemporaryDirectory() as folder:
        data = tiny(SHAPE).write(Path(folder) / "tiny.n730").read_bytes()
    out = [
        BEGIN,
        "Written by `python -m tests.package.hexdump`, checked by the tests: a toy of one layer, INT4, random weights.",
        "Of each table the first record is shown.\n",
        "```",
        *_header(data),
    ]
    table = lay.SECTION.iter_unpack(data[lay.HEADER.size : lay.SECTION_TABLE_END])
    for kind, (_, _, offset, size, _) in zip(Kind, table, strict=True):
        out += ["", f"        {kind.name}", *_section(data, kind, offset, size)]
    first = -(-(offset + size) // 4096) * 4096
    out += [
        "",
        "        segment 0: the embedding, tile 0 (rows 0 … 15), group 0 (columns 0 … 15 and their padding)",
        *(_line(data, first + 16 * i, 16, f"FP16 scales of rows {8 * i} … {8 * i + 7}") for i in range(2)),
        _line(data, first + 32, 16, "unit 0, rows 0 … 3: columns 0 … 3 in the high nibbles, 4 … 7 in the low ones"),
        f"        … {len(data) - first - 48} bytes more",
        "```",
    ]
    return "\n".join(out) + "\n"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    at = text.find(BEGIN)
    PAGE.write_text((text if at < 0 else text[:at]).rstrip("\n") + "\n\n" + page(), encoding="utf-8")


if __name__ == "__main__":
    main()
