"""Device memory: the tensors of a launch, and shared memory of blocks. Accesses are checked."""

import ctypes

import numpy as np


class AccessError(RuntimeError):
    """An access that a device would refuse, or that leaves the tensors of a launch."""


def check_aligned(addresses, size, where):
    """Addresses have to be multiples of an access's size."""
    wrong = addresses[addresses % size != 0]
    if wrong.size:
        raise AccessError(f"misaligned access of {size} bytes to {where} memory at {wrong[0]:#x}")


class GlobalMemory:
    """Ranges of the process's own memory that a launch may touch.

    Args:
        ranges: (first address, one past the last) of tensors; they may overlap.
    """

    def __init__(self, ranges):
        merged = []
        for begin, end in sorted(r for r in ranges if r[1] > r[0]):
            if merged and begin < merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        self._begins = np.array([r[0] for r in merged], np.int64)
        self._ends = np.array([r[1] for r in merged], np.int64)
        self._bytes = [
            np.frombuffer((ctypes.c_uint8 * (end - begin)).from_address(begin), np.uint8)
            for begin, end in merged
        ]

    def _parts(self, addresses, size):
        """(memory as integers of `itemsize`, lanes, offsets) for each range that is touched."""
        check_aligned(addresses, size, "global")
        which = np.searchsorted(self._begins, addresses, "right") - 1
        outside = which < 0
        if not outside.all():
            outside |= addresses + size > self._ends[which]
        if outside.any():
            at = addresses[outside][0]
            raise AccessError(
                f"access of {size} bytes at {at:#x} is outside of all tensors "
                f"({outside.sum()} lanes)"
            )
        first = which[0]
        if (which == first).all():
            yield first, slice(None)
            return
        for part in np.unique(which):
            yield part, which == part

    def load(self, addresses, dtype, count):
        """`count` numbers of a dtype from every address, [count, lanes]."""
        result = np.empty((count, addresses.size), dtype)
        for part, lanes in self._parts(addresses, dtype.itemsize * count):
            memory, places = self._view(part, addresses[lanes], dtype)
            for k in range(count):
                result[k, lanes] = memory[places + k]
        return result

    def store(self, addresses, values, dtype):
        """Write values [count, lanes], in the order of the lanes."""
        for part, lanes in self._parts(addresses, dtype.itemsize * len(values)):
            memory, places = self._view(part, addresses[lanes], dtype)
            for k, row in enumerate(values):
                memory[places + k] = row[lanes]

    def _view(self, part, addresses, dtype):
        # A tensor may start, and end, between two numbers of this dtype: views start on a multiple.
        begin, memory = int(self._begins[part]), self._bytes[part]
        skip = -begin % dtype.itemsize
        whole = (memory.size - skip) // dtype.itemsize * dtype.itemsize
        view = memory[skip : skip + whole].view(dtype)
        return view, (addresses - (begin + skip)) // dtype.itemsize


class SharedMemory:
    """What each of `blocks` has for itself, `size` bytes from address 0 on."""

    def __init__(self, blocks, size):
        self.size = max(size, 0)
        self._stride = -(-self.size // 16) * 16
        self._bytes = np.full(blocks * self._stride, 0xA5, np.uint8)  # nobody may count on zeros

    def places(self, addresses, blocks, dtype, count=1):
        """Memory as numbers of a dtype, and where each lane's `count` of them begin."""
        size = dtype.itemsize * count
        check_aligned(addresses, size, "shared")
        if (addresses < 0).any() or (addresses + size > self.size).any():
            raise AccessError(f"access of {size} bytes outside of {self.size} of shared memory")
        return self._bytes.view(dtype), (addresses + blocks * self._stride) // dtype.itemsize
