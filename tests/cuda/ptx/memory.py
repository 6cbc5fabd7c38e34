"""The device memory of one launch: numpy arrays at addresses of their own, so that every wild access is seen."""

from __future__ import annotations

import numpy as np

from tests.cuda.ptx.parse import Fault

_SHIFT = 36  # a buffer's number lies above this bit of an address; 0 is no buffer


class Global:
    """Buffers by number. Kernels work on copies, padded to 16 bytes; ``give_back`` writes them to the arrays."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._copies: list[np.ndarray] = []
        self._sizes: list[int] = []
        self.loaded: list[int] = []  # bytes that loads asked of each buffer, summed over threads

    def add(self, array: np.ndarray) -> int:
        """The address of the first byte of ``array`` on the device."""
        raw = array.reshape(-1).view(np.uint8)
        copy = np.zeros(-(-max(raw.size, 1) // 16) * 16, np.uint8)
        copy[: raw.size] = raw
        self._arrays.append(raw)
        self._copies.append(copy)
        self._sizes.append(raw.size)
        self.loaded.append(0)
        return len(self._arrays) << _SHIFT

    def give_back(self) -> None:
        for raw, copy in zip(self._arrays, self._copies, strict=True):
            if raw.flags.writeable:
                raw[:] = copy[: raw.size]

    def access(
        self, address: np.ndarray, dtype: np.dtype, count: int, values: list[np.ndarray] | None
    ) -> list[np.ndarray]:
        """Load (values None) or store ``count`` neighbouring elements a thread. Raises Fault for a wild address."""
        size = dtype.itemsize
        if (address % np.uint64(size * count)).any():
            raise Fault("misaligned access of global memory")
        numbers = address >> np.uint64(_SHIFT)
        first = int(numbers[0])
        which = [first] if (numbers == first).all() else np.unique(numbers).tolist()
        loaded = [np.empty(len(address), dtype) for _ in range(count)] if values is None else []
        for number in which:
            if not 1 <= number <= len(self._arrays):
                raise Fault(f"access of global memory at {int(address[0]):#x}, which is no buffer's")
            at = slice(None) if len(which) == 1 else numbers == number
            offset = (address[at] & np.uint64((1 << _SHIFT) - 1)).astype(np.int64)
            if int(offset.max()) + size * count > self._sizes[number - 1]:
                raise Fault(f"access of global memory beyond buffer {number} of {self._sizes[number - 1]} bytes")
            view = self._copies[number - 1].view(dtype)
            index = offset // size
            for element in range(count):
                if values is None:
                    loaded[element][at] = view[index + element]
                else:
                    view[index + element] = values[element][at]
            if values is None:
                self.loaded[number - 1] += len(index) * size * count
        return loaded


class Shared:
    """Shared memory of all blocks, filled with ones (NaN) so that what was never written is seen in the results."""

    def __init__(self, blocks: int, size: int) -> None:
        self._size = size
        self._stride = -(-max(size, 1) // 16) * 16
        self._bytes = np.full(blocks * self._stride, 0xFF, np.uint8)

    def access(
        self, block: np.ndarray, address: np.ndarray, dtype: np.dtype, count: int, values: list[np.ndarray] | None
    ) -> list[np.ndarray]:
        size = dtype.itemsize
        if (address % np.uint64(size * count)).any():
            raise Fault("misaligned access of shared memory")
        if int(address.max()) + size * count > self._size:
            raise Fault(f"access of shared memory beyond its {self._size} bytes")
        index = (block * self._stride + address.astype(np.int64)) // size
        view = self._bytes.view(dtype)
        if values is None:
            return [view[index + element] for element in range(count)]
        for element in range(count):
            view[index + element] = values[element]
        return []
