"""Seeds for the fuzz targets: tiny valid packages, one a format. ``python -m tests.fuzz_corpus FOLDER``"""

from __future__ import annotations

import sys
from pathlib import Path

from n730c.dtypes import Format
from tests.tiny_package import tiny


def write_seeds(folder: Path) -> None:
    """Write the seeds of fuzz_package to ``folder/fuzz_package``."""
    seeds = folder / "fuzz_package"
    seeds.mkdir(parents=True, exist_ok=True)
    for fmt in Format:
        if fmt is not Format.F32:
            tiny(format=fmt, layers=1, hidden=32, context=16).write(seeds / f"{fmt.name.lower()}.n730")
    tiny(layers=2, hidden=32, context=16, slots=1).write(seeds / "streamed.n730")


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
