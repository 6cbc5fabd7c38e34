"""PTX text to instructions: what NVRTC 11.8 writes for these kernels, and no more."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class Fault(Exception):
    """The kernel did something that a GPU would punish or leave undefined, or that this interpreter does not know."""


@dataclass(frozen=True)
class Instruction:
    name: str  # add
    modifiers: tuple[str, ...]  # rn, f32
    operands: tuple[str, ...]
    guard: str = ""  # predicate register
    negated: bool = False

    def __str__(self) -> str:
        return ".".join((self.name, *self.modifiers)) + " " + ", ".join(self.operands)


@dataclass
class Kernel:
    """One ``.entry``. ``parameters``: name → byte offset in the launch's parameter block; ``shared``: name → offset."""

    name: str
    registers: dict[str, str] = field(default_factory=dict)  # prefix → type
    parameters: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = 0
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    max_threads: int = 1024


_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_VARIABLE = re.compile(r"\.(shared|global)\s+\.align\s+(\d+)\s+\.[a-z](\d+)\s+([\w$]+)((?:\[\d+\])*)\s*;")


def _align(n: int, to: int) -> int:
    return -(-n // to) * to


def parse(text: str) -> dict[str, Kernel]:
    """All kernels of a module by name. Raises Fault for what it cannot read."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels: dict[str, Kernel] = {}
    entries = list(re.finditer(r"\.entry\s+(\w+)\s*\(", text))
    variables = list(_VARIABLE.finditer(text))
    for number, entry in enumerate(entries):
        end = entries[number + 1].start() if number + 1 < len(entries) else len(text)
        chunk = text[entry.end() : end]
        body = chunk[chunk.index("{") + 1 : chunk.rindex("}")]
        kernel = Kernel(entry[1])
        _parameters(kernel, chunk[: chunk.index(")")])
        if match := re.search(r"\.maxntid (\d+)", chunk[: chunk.index("{")]):
            kernel.max_threads = int(match[1])
        for variable in variables:  # shared variables of templates stand outside of the kernels
            if variable[1] == "shared" and re.search(rf"{re.escape(variable[4])}\b", body):
                size = _SIZES[variable[3]]
                for count in re.findall(r"\d+", variable[5]):
                    size *= int(count)
                kernel.shared_bytes = _align(kernel.shared_bytes, int(variable[2]))
                kernel.shared[variable[4]] = kernel.shared_bytes
                kernel.shared_bytes += size
        _body(kernel, _VARIABLE.sub("", body))
        kernels[kernel.name] = kernel
    return kernels


def _parameters(kernel: Kernel, text: str) -> None:
    at = 0
    for align, bits, name, count in re.findall(
        r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[a-z](\d+)\s+(\w+)(?:\[(\d+)\])?", text
    ):
        at = _align(at, int(align or _SIZES[bits]))
        kernel.parameters[name] = at
        at += _SIZES[bits] * int(count or 1)


def _body(kernel: Kernel, text: str) -> None:
    for kind, prefix in re.findall(r"\.reg\s+\.(\w+)\s+(%\w+?)<\d+>;", text):
        kernel.registers[prefix] = kind
    for kind, names in re.findall(r"\.reg\s+\.(\w+)\s+([^;<]+);", text):
        for name in names.split(","):
            kernel.registers[name.strip()] = kind
    text = re.sub(r"\.(reg|loc|pragma|file)\b[^;\n]*;?", "", text)
    text = re.sub(r"([$\w]+):(?!:)", r"\1:;", text)
    for statement in text.split(";"):
        statement = " ".join(statement.split())
        while statement.startswith("{ ") or statement.startswith("} "):  # blocks of inline assembly
            statement = statement[2:]
        statement = statement.strip()
        if statement in ("", "{", "}"):
            continue
        if statement.endswith(":"):
            kernel.labels[statement[:-1]] = len(kernel.code)
            continue
        if statement.startswith("."):
            raise Fault(f"{kernel.name}: unknown directive {statement}")
        guard, negated = "", False
        if match := re.match(r"@(!?)(%\w+) (.*)", statement):
            guard, negated, statement = match[2], bool(match[1]), match[3]
        opcode, _, rest = statement.partition(" ")
        name, *modifiers = opcode.split(".")
        operands = tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest))
        kernel.code.append(Instruction(name, tuple(modifiers), operands, guard, negated))
