"""PTX executed by numpy: the very text that NVRTC made, all threads of a launch at once, every access checked."""

from tests.cuda.ptx.machine import Counts, run
from tests.cuda.ptx.parse import Fault, Kernel, parse

__all__ = ["Counts", "Fault", "Kernel", "parse", "run"]
