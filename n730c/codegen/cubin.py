"""What a kernel costs, read from its cubin without a disassembler, and what must not be in its PTX.

A cubin is an ELF file. Registers of a kernel: the top byte of ``sh_info`` of its ``.text.NAME``; shared memory: the
size of ``.nv.shared.NAME``; local memory, where spilled registers would go: the stack frame in ``.nv.info``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from n730c.errors import ToolchainError

SHARED_LIMIT = 48 << 10  # bytes of a block
_FRAME_SIZE = 0x11  # EIATTR_FRAME_SIZE of .nv.info: u32 symbol, u32 bytes
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


@dataclass(frozen=True)
class KernelFigures:
    """Static figures of one kernel on one architecture; bytes of shared memory a block, of local memory a thread."""

    symbol: str
    registers: int
    shared_bytes: int
    local_bytes: int
    code_bytes: int


@dataclass(frozen=True)
class _Section:
    name: str
    info: int
    link: int
    size: int
    data: bytes


def _sections(cubin: bytes) -> list[_Section]:
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise ToolchainError("this is no cubin", expected="a 64-bit ELF file", found=repr(cubin[:6]))
    (offset,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    raw = [_SECTION.unpack_from(cubin, offset + i * size) for i in range(count)]
    strings = raw[names][4]
    out = []
    for name, kind, _, _, start, length, link, info, _, _ in raw:
        text = cubin[strings + name : cubin.index(b"\0", strings + name)].decode()
        out.append(_Section(text, info, link, length, b"" if kind == 8 else cubin[start : start + length]))
    return out


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries of ``.nv.info``: u8 form, u8 attribute, then u16 value or, in form 4, u16 size and as many bytes."""
    at = 0
    while at + 4 <= len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        at += 4
        payload = data[at : at + value] if form == 4 else b""
        at += len(payload)
        yield attribute, payload


def figures(cubin: bytes) -> tuple[KernelFigures, ...]:
    """One entry a kernel, in order of their sections. Raises ToolchainError if this is no cubin."""
    sections = _sections(cubin)
    by_name = {section.name: section for section in sections}
    symbols = by_name[".symtab"]
    strings = sections[symbols.link].data
    names = []
    for entry in _SYMBOL.iter_unpack(symbols.data):
        names.append(strings[entry[0] : strings.index(b"\0", entry[0])].decode())
    frames = {
        names[index]: size
        for attribute, payload in _attributes(by_name[".nv.info"].data)
        if attribute == _FRAME_SIZE
        for index, size in [struct.unpack("<II", payload)]
    }
    out = []
    for section in sections:
        if section.name.startswith(".text."):
            name = section.name.removeprefix(".text.")
            shared = by_name.get(f".nv.shared.{name}")
            out.append(
                KernelFigures(name, section.info >> 24, shared.size if shared else 0, frames.get(name, 0), section.size)
            )
    return tuple(out)


def instructions(ptx: str) -> dict[str, int]:
    """Instructions of each kernel's text by its symbol, declarations and labels left out."""
    entries = re.split(r"\.entry\s+", ptx)[1:]
    return {
        re.split(r"\W", entry, maxsplit=1)[0]: len(
            re.findall(r"(?m)^\s*(?:@!?%\w+\s+)?[a-z][^;]*;", entry[entry.index("{") :])
        )
        for entry in entries
    }


# What a card below the architecture does not have, and what would make its bits differ from a CPU's.
_FORBIDDEN = {
    "fp16 arithmetic": r"\b(add|sub|mul|fma|neg|abs|min|max|set|setp)\.[\w.]*f16",
    "dp4a below sm_61": r"\bdp[24]a\b",
    "a multiplication or addition that may be fused": r"\b(add|sub|mul)(\.ftz)?\.f(32|64)\b",
    "flushed denormals": r"\.ftz\b",
    "an approximate function": r"\.approx\b",
    "a call": r"\bcall\b",
}


def complaints(kernel: KernelFigures) -> list[str]:
    """What is wrong with a kernel's figures; the run cannot do with any of it."""
    wrong = []
    if kernel.shared_bytes > SHARED_LIMIT:
        wrong.append(f"{kernel.symbol}: {kernel.shared_bytes} bytes of shared memory, above {SHARED_LIMIT}")
    if kernel.local_bytes:
        wrong.append(f"{kernel.symbol}: {kernel.local_bytes} bytes of local memory: registers spill")
    return wrong


def ptx_complaints(ptx: str, *, dp4a: bool = False) -> list[str]:
    """Instructions that must not be there; ``dp4a``: the architecture has it."""
    return [
        f"{what}: {match[0]}"
        for what, pattern in _FORBIDDEN.items()
        if not (dp4a and what.startswith("dp4a"))
        for match in [re.search(pattern, ptx)]
        if match
    ]
