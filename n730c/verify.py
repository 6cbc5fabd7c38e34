"""What a finished package is expected to lose: run by the runtime on text that its calibration set aside.

Formats are chosen by sums of what each tensor costs alone. How much all of them cost together, with the 8 bits of the
activations and whatever else the runtime does, one trial of the whole says better than any sum of parts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from n730c.evaluate import compare_logits
from n730c.frontend.calibrate import Calibration
from n730c.package import read_package
from n730c.runtime import run_runtime


def divergence_of_probes(package: Path, calibration: Calibration, progress: Callable[[int, int, str], None]) -> float:
    """Mean KL divergence from the original over the calibration's probes, in nats a token, by n730-exec itself.

    Raises N730Error with the runtime's line if it fails.
    """
    context = min(plan.context for plan in read_package(package).plans)
    found = []
    with tempfile.TemporaryDirectory(prefix="n730c-") as folder:
        file, out = Path(folder) / "ids.txt", Path(folder) / "logits.npy"
        for j, probe in enumerate(calibration.probes[:, :context]):
            progress(j, len(calibration.probes), "how much was lost")
            file.write_text(" ".join(map(str, probe)))
            run_runtime("score", package, "--tokens", file, "--logits", out)
            found.append(compare_logits(calibration.logits(j)[: len(probe)], np.load(out))[0])
    return float(np.concatenate(found).mean())
