"""``--target host``: the PC at hand, measured now by ``n730-exec probe``; every other target comes from its file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from n730c.runtime import run_runtime
from n730c.target import Target, load_target

HOST = "host"
HOST_DESCRIPTION = "this PC, measured now (`n730-exec probe`; takes up to a minute)"


def find_target(name_or_file: str, disk: Path | None = None) -> Target:
    """The target of this name or from this TOML file; ``host`` is measured on the spot.

    ``disk``: the folder whose disk counts for ``host`` (default: the current one). Raises UsageError, N730Error.
    """
    if name_or_file != HOST:
        return load_target(name_or_file)
    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        file = Path(folder) / f"{HOST}.toml"
        run_runtime("probe", "-o", file, "--disk", disk or Path.cwd(), watched=True)
        return load_target(str(file))
