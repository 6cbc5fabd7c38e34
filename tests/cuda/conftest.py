"""What the CUDA tests share: the kernels of all cases, built once for each way to run them."""

from __future__ import annotations

import pytest

from n730c.codegen.nvrtc import Nvrtc
from n730c.errors import ToolchainError


@pytest.fixture(scope="session")
def nvrtc() -> Nvrtc:
    try:
        return Nvrtc()
    except ToolchainError as error:
        pytest.skip(str(error))
