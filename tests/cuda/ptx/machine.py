"""Runs a kernel: threads that are at the same instruction take it together, the lowest instruction first.

So threads that went apart meet again where their roads join. Shuffles, warp and block barriers check that all whom they
name are there. Counts what was executed and what was read, for the benchmarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.cuda.ptx import arithmetic
from tests.cuda.ptx.arithmetic import Array, dtype_of, is_type
from tests.cuda.ptx.memory import Global, Shared
from tests.cuda.ptx.parse import Fault, Instruction, Kernel

MOST_THREADS = 1 << 15  # blocks beyond run afterwards


@dataclass
class Counts:
    """Instructions by kind (``fma.f32``, ``ld.shared``) and bytes of global loads by buffer, over all threads."""

    executed: Counter[str] = field(default_factory=Counter)
    loaded: Counter[int] = field(default_factory=Counter)


def run(
    kernel: Kernel,
    grid: tuple[int, int],
    threads: int,
    parameters: Callable[[Callable[[Array], int]], bytes],
    counts: Counts | None = None,
) -> None:
    """Run all blocks. ``parameters(place)`` builds the launch's bytes; ``place(array)`` gives an array's address.

    The arrays are changed in place. Raises Fault.
    """
    if threads > kernel.max_threads:
        raise Fault(f"{kernel.name}: {threads} threads, made for {kernel.max_threads}")
    memory = Global()
    block = np.frombuffer(parameters(memory.add), np.uint8)
    numbers = np.arange(grid[0] * grid[1])
    step = max(1, MOST_THREADS // threads)
    for first in range(0, len(numbers), step):
        _Launch(kernel, grid, threads, numbers[first : first + step], block, memory, counts).run()
    memory.give_back()
    if counts is not None:
        counts.loaded.update(dict(enumerate(memory.loaded, 1)))


def kind_of(i: Instruction) -> str:
    """What tells how fast a GPU takes an instruction: its name with its type, or with its memory."""
    spaces = [m for m in i.modifiers if m in ("param", "global", "shared")]
    types = [m for m in i.modifiers if is_type(m)]
    if i.name == "cvt":
        return ".".join((i.name, *types))
    return f"{i.name}.{(spaces or types[-1:] or ['none'])[0]}"


class _Launch:
    def __init__(
        self,
        kernel: Kernel,
        grid: tuple[int, int],
        threads: int,
        blocks: Array,
        parameters: Array,
        memory: Global,
        counts: Counts | None,
    ) -> None:
        self.kernel, self.memory, self.counts = kernel, memory, counts
        self.parameters = parameters
        self.threads, self.count = threads, threads * len(blocks)
        self.shared = Shared(len(blocks), kernel.shared_bytes)
        lane = np.arange(self.count, dtype=np.uint32)
        self.block = (lane // threads).astype(np.int64)
        number = blocks[self.block]
        self.special = {
            "%tid.x": lane % np.uint32(threads),
            "%ctaid.x": (number % grid[0]).astype(np.uint32),
            "%ctaid.y": (number // grid[0]).astype(np.uint32),
            "%ntid.x": np.full(self.count, threads, np.uint32),
        }
        self.warps = -(-threads // 32)
        self.warp = self.block * self.warps + self.special["%tid.x"].astype(np.int64) // 32
        self.bit = np.uint32(1) << (self.special["%tid.x"] & np.uint32(31))
        self.registers: dict[str, Array] = {}
        self.parked = np.full(self.count, -1, np.int64)  # the barrier that a thread waits at
        self.exited = np.zeros(self.count, bool)
        self.actions = [self._action(instruction) for instruction in kernel.code]

    # --- control ---

    def run(self) -> None:
        pending = {0: np.arange(self.count)}
        with np.errstate(all="ignore"):
            while pending or self._release(pending):
                at = min(pending)
                self._go(at, pending.pop(at), pending)

    def _go(self, at: int, who: Array, pending: dict[int, Array]) -> None:
        """Let ``who`` run from ``at`` until they end, wait, go apart or meet others."""

        def later(target: int, some: Array) -> None:
            pending[target] = np.union1d(pending[target], some) if target in pending else some

        limit = min(pending, default=len(self.kernel.code) + 1)
        while True:
            if at >= limit:
                return later(at, who)
            if at == len(self.kernel.code):
                self.exited[who] = True
                return None
            instruction = self.kernel.code[at]
            here = who
            if instruction.guard:
                on = self._register(instruction.guard)[who] ^ instruction.negated
                here = who if on.all() else who[on]
            if self.counts is not None:
                self.counts.executed[kind_of(instruction)] += len(who)
            if not len(here):
                at += 1
                continue
            away: int | None = None
            if instruction.name == "bra":
                away = self.kernel.labels[instruction.operands[0]]
            elif instruction.name in ("ret", "exit"):
                away = len(self.kernel.code)
            elif instruction.name in ("bar", "barrier") and "warp" not in instruction.modifiers:
                self.parked[here] = at
                if len(here) < len(who):
                    later(at + 1, np.setdiff1d(who, here))
                return None
            else:
                self._do(at, here)
                at += 1
                continue
            if len(here) < len(who):
                later(away, here)
                later(at + 1, np.setdiff1d(who, here))
                return None
            at = away

    def _do(self, at: int, here: Array) -> None:
        try:
            self.actions[at](slice(None) if len(here) == self.count else here, here)
        except Fault as fault:
            raise Fault(f"{self.kernel.name}: {fault} in '{self.kernel.code[at]}'") from None

    def _release(self, pending: dict[int, Array]) -> bool:
        """Let go those who wait at a barrier; False when all threads have ended."""
        waiting = self.parked >= 0
        if not waiting.any():
            return False
        parked, exited = self.parked.reshape(-1, self.threads), self.exited.reshape(-1, self.threads)
        some = waiting.reshape(parked.shape).any(axis=1)
        if (exited.any(axis=1) & some).any():
            raise Fault(f"{self.kernel.name}: a barrier that some threads of the block will never reach")
        if (parked.min(axis=1) != parked.max(axis=1)).any():
            raise Fault(f"{self.kernel.name}: threads of one block wait at different barriers")
        for barrier in np.unique(self.parked[waiting]).tolist():
            pending[barrier + 1] = np.flatnonzero(self.parked == barrier)
        self.parked[:] = -1
        return True

    # --- operands ---

    def _register(self, name: str) -> Array:
        if name not in self.registers:
            prefix = name.rstrip("0123456789")
            kind = self.kernel.registers.get(name) or self.kernel.registers.get(prefix)
            if kind is None:
                raise Fault(f"{self.kernel.name}: unknown register {name}")
            self.registers[name] = np.zeros(self.count, dtype_of(kind))
        return self.registers[name]

    def _reader(self, operand: str, dtype: np.dtype) -> Callable[[slice | Array], Array]:
        """A function from threads to an operand's values in that type; narrower types take the low bits."""
        if operand in self.special:
            values = self.special[operand]
            return lambda w: _as(values[w], dtype)
        if operand.startswith("%"):
            register = self._register(operand)
            if register.dtype == dtype:
                return lambda w: register[w]
            return lambda w: _as(register[w], dtype)
        if operand[:2] in ("0f", "0F"):
            constant = np.array([int(operand[2:], 16)], np.uint32).view(np.float32)
        elif operand[:2] in ("0d", "0D"):
            constant = np.array([int(operand[2:], 16)], np.uint64).view(np.float64)
        elif operand in self.kernel.shared:
            constant = np.array([self.kernel.shared[operand]], np.uint64)
        elif operand in self.kernel.parameters:
            constant = np.array([self.kernel.parameters[operand]], np.uint64)
        elif dtype.kind == "b":
            constant = np.array([int(operand) != 0])
        else:
            try:
                constant = np.array([int(operand.rstrip("U"), 0) & (1 << 64) - 1], np.uint64)
            except ValueError:
                raise Fault(f"{self.kernel.name}: unknown operand {operand}") from None
        constant = _as(constant, dtype)
        return lambda w: np.broadcast_to(constant, self.count if isinstance(w, slice) else len(w))

    def _writer(self, operand: str) -> Callable[[slice | Array, Array], None]:
        if operand == "_":
            return lambda w, value: None
        register = self._register(operand)

        def write(w: slice | Array, value: Array) -> None:
            register[w] = value if value.dtype == register.dtype else _as(value, register.dtype)

        return write

    # --- instructions ---

    def _action(self, i: Instruction) -> Callable[[slice | Array, Array], None]:
        """What an instruction does to the threads (as an index, and as numbers)."""
        if i.name in ("bra", "ret", "exit") or (i.name in ("bar", "barrier") and "warp" not in i.modifiers):
            return lambda w, who: None
        if i.name in ("ld", "st"):
            return self._memory(i)
        if i.name == "shfl":
            return self._shuffle(i)
        if i.name == "bar":
            mask = self._reader(i.operands[0], np.dtype(np.uint32))
            return lambda w, who: self._all_there(mask(w), who, "barrier")
        return self._compute(i)

    def _compute(self, i: Instruction) -> Callable[[slice | Array, Array], None]:
        o, name = i.operands, i.name
        kind = next((m for m in reversed(i.modifiers) if is_type(m)), "")
        if not kind:
            raise Fault(f"{self.kernel.name}: unknown instruction '{i}'")
        dtype = dtype_of(kind)
        u32 = np.dtype(np.uint32)
        if name == "mov" and o[1].startswith("{"):
            return self._pack(i, dtype)
        if name == "mov" and o[0].startswith("{"):
            return self._unpack(i, dtype)
        write = self._writer(o[0])

        def with_operands(function: Callable[..., Array], *dtypes: np.dtype) -> Callable[[slice | Array, Array], None]:
            readers = [self._reader(operand, d) for operand, d in zip(o[1:], dtypes, strict=True)]
            return lambda w, who: write(w, function(*(read(w) for read in readers)))

        if name in ("mov", "cvta"):
            return with_operands(lambda x: x, dtype)
        if name == "cvt":
            types = [m for m in i.modifiers if is_type(m)]
            rounding = next((m for m in i.modifiers if m in ("rni", "rzi", "rmi", "rpi")), "")
            to = dtype_of(types[0])
            return with_operands(lambda x: arithmetic.convert(x, to, rounding), dtype_of(types[1]))
        if name == "setp":
            compare = arithmetic.COMPARE[i.modifiers[0]]
            return with_operands(compare, dtype, dtype)
        if name == "selp":
            return with_operands(lambda a, b, p: np.where(p, a, b), dtype, dtype, np.dtype(bool))
        if name in arithmetic.TWO:
            two = arithmetic.TWO[name]
            return with_operands(two, dtype, dtype)
        if name in arithmetic.ONE:
            one = arithmetic.ONE[name]
            return with_operands(one, dtype)
        if name in ("shl", "shr"):
            return with_operands(lambda a, n: arithmetic.shift(a, n, left=name == "shl"), dtype, u32)
        if name == "prmt":
            return with_operands(arithmetic.byte_permute, u32, u32, u32)
        if name == "bfe":
            return with_operands(arithmetic.bit_field_extract, dtype, u32, u32)
        if name == "bfi":
            return with_operands(arithmetic.bit_field_insert, dtype, dtype, u32, u32)
        if name in ("mul", "mad", "fma"):
            return self._multiply(i, dtype, with_operands)
        raise Fault(f"{self.kernel.name}: unknown instruction '{i}'")

    def _multiply(self, i: Instruction, dtype: np.dtype, make: Callable[..., Callable]) -> Callable:  # type: ignore[type-arg]
        more = (dtype,) if i.name != "mul" else ()
        if dtype.kind == "f":
            if i.name == "mul":
                return make(np.multiply, dtype, dtype)
            if dtype != np.dtype(np.float32):
                raise Fault(f"{self.kernel.name}: '{i}' is not rounded once here")
            return make(arithmetic.fma_f32, dtype, dtype, dtype)
        if "wide" in i.modifiers:
            to = arithmetic.wide(dtype)
            return make(
                lambda a, b, *c: a.astype(to) * b.astype(to) + (c[0] if c else to.type(0)),
                dtype,
                dtype,
                *((to,) if more else ()),
            )
        product = arithmetic.multiply_high if "hi" in i.modifiers else np.multiply
        return make(lambda a, b, *c: product(a, b) + (c[0] if c else dtype.type(0)), dtype, dtype, *more)

    def _pack(self, i: Instruction, dtype: np.dtype) -> Callable[[slice | Array, Array], None]:
        parts = [p.strip() for p in i.operands[1].strip("{}").split(",")]
        piece = np.dtype(f"u{dtype.itemsize // len(parts)}")
        readers, write = [self._reader(p, piece) for p in parts], self._writer(i.operands[0])

        def pack(w: slice | Array, who: Array) -> None:
            out = np.zeros(len(who), dtype)
            for n, read in enumerate(readers):
                out |= read(w).astype(dtype) << dtype.type(8 * piece.itemsize * n)
            write(w, out)

        return pack

    def _unpack(self, i: Instruction, dtype: np.dtype) -> Callable[[slice | Array, Array], None]:
        parts = [p.strip() for p in i.operands[0].strip("{}").split(",")]
        piece = np.dtype(f"u{dtype.itemsize // len(parts)}")
        writers, read = [self._writer(p) for p in parts], self._reader(i.operands[1], dtype)

        def unpack(w: slice | Array, who: Array) -> None:
            value = read(w)
            for n, write in enumerate(writers):
                write(w, (value >> dtype.type(8 * piece.itemsize * n)).astype(piece))

        return unpack

    def _memory(self, i: Instruction) -> Callable[[slice | Array, Array], None]:
        space = next((m for m in i.modifiers if m in ("param", "global", "shared", "local")), "")
        dtype = dtype_of(i.modifiers[-1])
        data, where = (i.operands[0], i.operands[1]) if i.name == "ld" else (i.operands[1], i.operands[0])
        names = [n.strip() for n in data.strip("{}").split(",")]
        base, _, offset = where.strip("[]").partition("+")
        if space not in ("param", "global", "shared"):
            raise Fault(f"{self.kernel.name}: '{i}' is not in the memory of kernels here")
        address = self._reader(base.strip(), np.dtype(np.uint64))
        more = np.uint64(int(offset or 0) & (1 << 64) - 1)
        if space == "param":
            size = dtype.itemsize
            writers = [self._writer(n) for n in names]

            def load_parameter(w: slice | Array, who: Array) -> None:
                at = int(address(w)[0] + more)  # the same for all threads
                for n, write in enumerate(writers):
                    value = self.parameters[at + n * size : at + (n + 1) * size].view(dtype)
                    write(w, np.broadcast_to(value, len(who)))

            return load_parameter
        if i.name == "st":
            readers = [self._reader(n, dtype) for n in names]

            def store(w: slice | Array, who: Array) -> None:
                self._access(space, address(w) + more, w, dtype, len(names), [read(w) for read in readers])

            return store
        writers = [self._writer(n) for n in names]

        def load(w: slice | Array, who: Array) -> None:
            loaded = self._access(space, address(w) + more, w, dtype, len(names), None)
            for write, value in zip(writers, loaded, strict=True):
                write(w, value)

        return load

    def _access(
        self, space: str, address: Array, w: slice | Array, dtype: np.dtype, count: int, values: list[Array] | None
    ) -> list[Array]:
        if space == "shared":
            return self.shared.access(self.block[w], address, dtype, count, values)
        return self.memory.access(address, dtype, count, values)

    def _all_there(self, mask: Array, who: Array, what: str) -> None:
        present = np.zeros(int(self.warp[-1]) + 1, np.uint32)
        np.bitwise_or.at(present, self.warp[who], self.bit[who])
        if ((mask & ~present[self.warp[who]]) != 0).any():
            raise Fault(f"a {what} that names a thread which is not at it")
        if ((mask & self.bit[who]) == 0).any():
            raise Fault(f"a {what} by a thread that it does not name")

    def _shuffle(self, i: Instruction) -> Callable[[slice | Array, Array], None]:
        """shfl.sync.MODE.b32 d|p, a, b, c, mask as the PTX manual defines it; a source must take part."""
        if i.modifiers[0] != "sync":
            raise Fault(f"{self.kernel.name}: '{i}' is gone from Volta on")
        u32, mode = np.dtype(np.uint32), i.modifiers[1]
        target, _, flag = i.operands[0].partition("|")
        write, write_flag = self._writer(target), self._writer(flag or "_")
        read, by, limits, mask = (self._reader(o, u32) for o in i.operands[1:5])

        def shuffle(w: slice | Array, who: Array) -> None:
            self._all_there(mask(w), who, "shuffle")
            values = np.zeros(self.count, np.uint32)
            values[who] = read(w)
            lane = self.special["%tid.x"][who].astype(np.int64) & 31
            b, c = by(w).astype(np.int64) & 31, limits(w).astype(np.int64)
            segment = c >> 8 & 31
            highest, lowest = lane & segment | c & 31 & ~segment, lane & segment
            source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": lowest | b & ~segment}[mode]
            inside = source >= highest if mode == "up" else source <= highest
            source = np.where(inside, source, lane)
            place = who - lane + source
            there = np.zeros(self.count, bool)
            there[who] = True
            if (place >= self.count).any() or not there[place].all():
                raise Fault("a shuffle that reads from a thread which is not at it")
            write(w, values[place])
            write_flag(w, inside)

        return shuffle


def _as(values: Array, dtype: np.dtype) -> Array:
    """Bits as another type: the low ones where it is narrower, extended by the sign of the values' type where wider."""
    if values.dtype == dtype:
        return values
    size = values.dtype.itemsize
    if values.dtype.kind == "b" or dtype.kind == "b":
        return values.astype(dtype)
    if size == dtype.itemsize:
        return np.ascontiguousarray(values).view(dtype)
    plain = values if values.dtype.kind in "iu" else np.ascontiguousarray(values).view(f"u{size}")
    wide = plain.astype(f"{plain.dtype.kind}{dtype.itemsize}")
    return wide.view(dtype)
