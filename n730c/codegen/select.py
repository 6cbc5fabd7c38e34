"""Which candidate's kernel goes into the image, and the file that remembers what was measured.

For a CPU time decides, on this machine; for a card, which this machine need not have, what its compiler says.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from n730c.artifacts import Isa, KernelSpec, Maker
from n730c.codegen.candidates import Candidate, recorded

# The recorded choice is kept unless another is faster by more than the noise of a busy machine.
MARGIN = 0.1


def faster(spec: KernelSpec, isa: Isa, seconds: Mapping[Candidate, float]) -> Candidate:
    """The candidate to take, given measured times."""
    default = recorded(spec, isa)
    best = min(seconds, key=lambda candidate: seconds[candidate])
    return best if default not in seconds or seconds[best] < seconds[default] * (1 - MARGIN) else default


@dataclass(frozen=True)
class StaticCost:
    """What a kernel for a card costs by its compiler's figures."""

    instructions: float  # of PTX, for each element that a thread computes
    registers: int
    local_bytes: int  # of a thread: where registers spill


def leaner(costs: Mapping[Maker, StaticCost]) -> Maker:
    """The maker to take: the fewest instructions an element, then the fewest registers, at a tie the template's.

    The template's also where only others are left that spill.
    """
    fit = [maker for maker, cost in costs.items() if maker is Maker.TEMPLATE or not cost.local_bytes]
    return min(fit, key=lambda m: (costs[m].instructions, costs[m].registers, m is not Maker.TEMPLATE))


def cpu_name() -> str:
    """This machine's CPU, as it names itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """``N730C_CACHE``, else ``n730c`` in the user's cache folder."""
    if folder := os.environ.get("N730C_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "n730c"


@dataclass
class ChoiceCache:
    """Measured times on disk, so that the next build makes the same package. A broken or read-only file is no error."""

    folder: Path

    @property
    def _file(self) -> Path:
        return self.folder / "kernels.json"

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            content = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def get(self, key: str) -> dict[Candidate, float] | None:
        """Seconds a call of each candidate, if this kernel was measured before."""
        entry = self._read().get(key)
        try:
            return {Candidate.parse(name): float(value) for name, value in entry.items()} if entry else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, seconds: Mapping[Candidate, float]) -> None:
        """Remember a measurement; written beside and renamed, so that a reader never sees half a file."""
        content = self._read()
        content[key] = {str(candidate): value for candidate, value in seconds.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(content, indent=1, sort_keys=True))
            beside.replace(self._file)
        except OSError:
            return
