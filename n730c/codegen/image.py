"""Sources to a flat image: gcc compiles, ld links at address 0, objcopy cuts the file down to its bytes.

The image is position-independent code for the System V convention without relocations or undefined symbols, so the
same bytes run on every x86-64 system once they are copied into executable memory. The bytes depend on the sources and
the compiler alone: no paths, no dates.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from n730c.artifacts import Isa
from n730c.codegen.render import template_folder
from n730c.errors import ToolchainError

MAX_FRAME = 4000  # bytes: Windows commits the stack page by page, and image code has no probes

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
ISA_FLAGS = {
    Isa.SSE2: (),
    Isa.SSSE3: ("-mssse3",),
    Isa.AVX: ("-mavx",),  # tuned for no CPU in particular: for Sandy Bridge GCC would split each 256-bit load in two
    Isa.AVX2: (*_AVX2, "-mtune=haswell"),
    Isa.AVX512: (
        *_AVX2,
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512vnni",
        "-mtune=icelake-client",
    ),
}
_FLAGS = (
    "-std=c11 -O2 -ffp-contract=off -ffreestanding -fPIC -fvisibility=hidden -mno-red-zone -fno-stack-protector "
    "-fno-asynchronous-unwind-tables -fcf-protection=none -fno-tree-loop-distribute-patterns -fno-ident "
    f"-Wall -Wextra -Werror -Wframe-larger-than={MAX_FRAME}"
).split()


def _run(tool: str, *arguments: str | Path) -> str:
    """Run a tool of the C toolchain, its messages in English; returns stdout. Raises ToolchainError."""
    path = shutil.which(tool)
    if path is None:
        raise ToolchainError(
            f"{tool} is missing", expected="gcc and GNU binutils", hint="On Debian or Ubuntu: apt install gcc binutils."
        )
    command, environment = [path, *map(str, arguments)], {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = done.stderr.splitlines() or ["no message"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise ToolchainError(f"{tool} failed", found=first, hint="Check that gcc is version 9 or later.")
    return done.stdout


def compile_c(source: str, output: Path, isa: Isa, *flags: str) -> None:
    """Compile C text to an object for one instruction set; ``flags`` are further ones of gcc.

    Raises ToolchainError, also for too large a stack frame.
    """
    file = output.with_suffix(".c")
    file.write_text(source, encoding="utf-8")
    _run("gcc", *_FLAGS, *ISA_FLAGS[isa], *flags, f"-I{template_folder()}", "-c", file, "-o", output)


def link(objects: Sequence[Path], symbols: Sequence[str], folder: Path) -> tuple[bytes, dict[str, int]]:
    """Link objects to one flat image: ``(code, offset of each symbol)``.

    Raises ToolchainError if the result needs a relocation, a symbol from outside or writable data.
    """
    elf, flat = folder / "image.elf", folder / "image.bin"
    _run("ld", "-m", "elf_x86_64", "--build-id=none", "-z", "noexecstack", "--no-warn-rwx-segments", "-e", "0",
         "-T", template_folder() / "flat.ld", *objects, "-o", elf)  # fmt: skip
    if "no relocations" not in _run("readelf", "-r", elf):
        raise ToolchainError("the kernel image needs relocations", hint="This is a bug in a kernel's source.")
    offsets = {}
    for line in _run("nm", elf).splitlines():
        address, kind, name = line.rsplit(maxsplit=2) if len(line.split()) == 3 else ("", *line.split())
        if kind in "Uw":
            raise ToolchainError(f"the kernel image calls {name}", hint="This is a bug in a kernel's source.")
        offsets[name] = int(address, 16)
    _run("objcopy", "-O", "binary", elf, flat)
    return flat.read_bytes(), {symbol: offsets[symbol] for symbol in symbols}
