"""Which maker's kernel goes into the image: (op, format, shape) → TEMPLATE or TVM."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from n730c.artifacts import Isa, KernelSpec, Maker
from n730c.dtypes import Format

# Taken when nothing can be measured. Recorded with benchmarks/cpu/gemv.py --makers on a Xeon (Cascade Lake) at AVX2.
_DEFAULTS = {Format.INT8: Maker.TEMPLATE, Format.INT4: Maker.TEMPLATE, Format.INT2: Maker.TEMPLATE}
# The default is kept unless the other maker is faster by more than the noise of a busy machine.
_MARGIN = 0.1


def default_maker(spec: KernelSpec, isa: Isa) -> Maker:
    """The recorded choice; the template where TVM has no kernel."""
    return _DEFAULTS.get(spec.format, Maker.TEMPLATE) if isa is Isa.AVX2 else Maker.TEMPLATE


def faster(spec: KernelSpec, isa: Isa, seconds: Mapping[Maker, float]) -> Maker:
    """The maker to take, given measured times."""
    default = default_maker(spec, isa)
    best = min(seconds, key=lambda maker: seconds[maker])
    return best if default not in seconds or seconds[best] < seconds[default] * (1 - _MARGIN) else default


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

    def get(self, key: str) -> dict[Maker, float] | None:
        """Seconds a call of each maker, if this kernel was measured before."""
        entry = self._read().get(key)
        try:
            return {Maker[name]: float(value) for name, value in entry.items()} if entry else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def put(self, key: str, seconds: Mapping[Maker, float]) -> None:
        """Remember a measurement; written beside and renamed, so that a reader never sees half a file."""
        content = self._read()
        content[key] = {maker.name: value for maker, value in seconds.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = self._file.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(content, indent=1, sort_keys=True))
            beside.replace(self._file)
        except OSError:
            return
