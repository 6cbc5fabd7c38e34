"""A target is one kind of PC: a TOML file, read into a frozen, checked value."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from n730c.artifacts import PIECE, GpuArch, Isa
from n730c.errors import UsageError


class KernelRates(BaseModel):
    """Weights a second that one core multiplies in a matrix-vector product, data in cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bf16: PositiveFloat
    f16: PositiveFloat
    int8: PositiveFloat
    int4: PositiveFloat
    int2: PositiveFloat
    int6: PositiveFloat
    int5: PositiveFloat
    nl4: PositiveFloat
    int3: PositiveFloat
    nl2: PositiveFloat


class Gpu(BaseModel):
    """How a graphics card computes. Its memory and its bus are the target's ``vram_*`` and ``pcie_*``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    arch: str = Field(pattern=r"^sm_\d{2,3}$", description="compute capability; kernels are made from sm_35 on")
    launch_s: PositiveFloat = Field(description="what a launch or a copy takes of the thread that asks for it")
    copy_s: PositiveFloat = Field(description="what a copy takes beside its bytes")
    driver_ram_bytes: NonNegativeInt = Field(
        default=96 << 20, description="RAM that the driver takes of a process with the card, pinned buffers included"
    )
    kernel_rates: KernelRates = Field(description="weights a second of the whole card, one token, in its registers")
    batch_rates: KernelRates = Field(description="the same times tokens, eight or more of them at once")


class Target(BaseModel):
    """What the planner knows about the PC. Sizes in bytes, bandwidths in bytes a second."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    description: str
    isa: Literal["sse2", "ssse3", "avx", "avx2", "avx512"]
    cores: PositiveInt
    ram_bytes: PositiveInt = Field(description="RAM left for us beside the operating system")
    ram_bytes_per_s: PositiveFloat = Field(description="sustained read bandwidth, all cores together")
    disk_bytes_per_s: PositiveFloat = Field(description="sequential read bandwidth, past the page cache")
    disk_bytes_per_s_beside_ram: PositiveFloat = Field(description="the same while all cores read RAM; at most as much")
    disk_seek_s: NonNegativeFloat = Field(description="what a read costs more that does not start where the last ended")
    disk_read_bytes: PositiveInt = Field(description="size of one read that was found best, a multiple of 256 KiB")
    disk_reads_in_flight: PositiveInt = Field(description="reads at once that were found best, at most 64")
    vram_bytes: NonNegativeInt = Field(description="memory of the graphics card left for us; 0: no card")
    vram_bytes_per_s: NonNegativeFloat = Field(description="its sustained read bandwidth")
    pcie_bytes_per_s: NonNegativeFloat = Field(description="copies from pinned RAM to VRAM")
    step_seconds: PositiveFloat = Field(description="cost of one step beside its work: hand-out and barrier")
    kernel_rates: KernelRates
    gpu: Gpu | None = Field(default=None, description="the graphics card; none: there is none, or it was not measured")
    sources: dict[str, str] = Field(description="where each number comes from")

    @field_validator("disk_read_bytes")
    @classmethod
    def _whole_pieces(cls, size: int) -> int:
        if size % PIECE or size > 64 << 20:
            raise ValueError(f"expected a multiple of {PIECE}, at most {64 << 20}")
        return size

    @field_validator("disk_reads_in_flight")
    @classmethod
    def _few(cls, count: int) -> int:
        if count > 64:
            raise ValueError("expected at most 64")
        return count

    @model_validator(mode="after")
    def _not_faster_beside_ram(self) -> Self:
        if self.disk_bytes_per_s_beside_ram > self.disk_bytes_per_s:
            raise ValueError("disk_bytes_per_s_beside_ram: expected at most disk_bytes_per_s")
        return self

    @model_validator(mode="after")
    def _whole_card(self) -> Self:
        given = {self.vram_bytes > 0, self.vram_bytes_per_s > 0, self.pcie_bytes_per_s > 0}
        if self.gpu is not None and given != {True}:
            raise ValueError("gpu: expected vram_bytes, vram_bytes_per_s and pcie_bytes_per_s above 0 beside it")
        return self

    @property
    def gpu_arch(self) -> GpuArch | None:
        """What kernels for the card are compiled for; None: there is no card, or it is too old for any."""
        number = int(self.gpu.arch.removeprefix("sm_")) if self.gpu else 0
        cubins = [arch for arch in GpuArch if arch is not GpuArch.PTX]
        served = [arch for arch in cubins if arch // 10 == number // 10 and arch <= number]
        return max(served, default=GpuArch.PTX if number >= min(cubins) else None)

    def with_vram(self, vram_bytes: int | None) -> Target:
        """This target with so much of the card's memory for us (None: as it is; 0: without the card).

        Raises UsageError if it has no card.
        """
        if vram_bytes is None:
            return self
        if vram_bytes and not self.vram_bytes:
            raise UsageError(
                "--vram is for targets with a graphics card",
                expected="vram_bytes above 0",
                found=f"the target {self.name}, which has none",
                hint="Leave --vram out, or take another --target.",
            )
        return self.model_copy(update={"vram_bytes": vram_bytes} | ({} if vram_bytes else {"gpu": None}))

    @property
    def isa_level(self) -> Isa:
        return Isa[self.isa.upper()]


def target_names() -> list[str]:
    """Names of the targets that come with the compiler."""
    return sorted(
        p.name.removesuffix(".toml") for p in resources.files("n730c.targets").iterdir() if p.name.endswith(".toml")
    )


def load_target(name_or_file: str) -> Target:
    """The target of this name, or from this TOML file. Raises UsageError in one line.

    A file may say ``like = NAME``: it then holds only what differs from that target of ours.
    """
    try:
        return Target.model_validate(_fields(name_or_file))
    except ValidationError as error:
        first = error.errors()[0]
        hint = "Mend the file; `n730c targets show gt730` shows a whole one."
        if not first["loc"]:  # fields that do not go together: the message names them
            raise UsageError(f"target {name_or_file}: {first['ctx']['error']}", hint=hint) from error
        where = ".".join(str(part) for part in first["loc"])
        what = f"target {name_or_file}: field {where}: {first['msg']}"
        raise UsageError(what, found=repr(first["input"]), hint=hint) from error


def _fields(name_or_file: str) -> dict[str, Any]:
    try:
        fields = tomllib.loads(_text(name_or_file))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"target {name_or_file} is not TOML: {error}") from error
    like = fields.pop("like", None)
    if like is None:
        return fields
    if like not in target_names():
        raise UsageError(
            f"target {name_or_file}: field like",
            expected=f"one of {', '.join(target_names())}",
            found=repr(like),
            hint="Run `n730c targets` for the list.",
        )
    both = _merged(_fields(like), fields)
    rate, beside = "disk_bytes_per_s", "disk_bytes_per_s_beside_ram"
    if rate in fields and beside not in fields and isinstance(both[rate], int | float):
        both[beside] = min(both[rate], both[beside])  # of a slower disk: no more than it gives alone
    return both


def _merged(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` over ``common``, table by table."""
    both = [key for key in own if isinstance(common.get(key), dict) and isinstance(own[key], dict)]
    tables = {key: _merged(common[key], own[key]) for key in both}
    return common | own | tables


def _text(name_or_file: str) -> str:
    if not name_or_file.endswith(".toml"):
        if name_or_file in target_names():
            return resources.files("n730c.targets").joinpath(name_or_file + ".toml").read_text(encoding="utf-8")
        raise UsageError(
            "unknown target",
            expected=f"one of {', '.join(target_names())}, host, or a file ending in .toml",
            found=repr(name_or_file),
            hint="Run `n730c targets` for the list.",
        )
    try:
        return Path(name_or_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read target file {name_or_file}",
            expected="a TOML file",
            found=(error.strerror if isinstance(error, OSError) else None) or "bytes that are not UTF-8",
            hint="Run `n730c targets` for those that come with n730c.",
        ) from error
