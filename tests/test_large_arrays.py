"""Promise 1, for arrays of more than 2**31 elements: indices are 64 bits wide."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

import numpy as np
import pytest

import rmsprop_fast as rf
from bits import same_bits

SIZE = 2**31 + 4096
TAIL = 1024  # elements on the last page


def available_memory() -> int:
    if sys.platform != "linux":
        return 0
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def wallpaper(size: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return zeros whose pages are all the same few, except the last page: large, but hardly any memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    array = np.frombuffer(mmap.mmap(-1, size * 4), np.float32)
    tile = 2**26
    file = os.memfd_create("wallpaper")
    os.ftruncate(file, tile)
    fixed, protection = 0x10, mmap.PROT_READ | mmap.PROT_WRITE
    for begin in range(0, (size - TAIL) * 4, tile):
        length = min(tile, (size - TAIL) * 4 - begin)
        address = array.ctypes.data + begin
        assert libc.mmap(address, length, protection, mmap.MAP_SHARED | fixed, file, 0) == address
    os.close(file)
    return array


@pytest.mark.skipif(available_memory() < 12 * 2**30, reason="needs Linux and 12 GB of free memory, for s")
def test_more_than_2_31_elements() -> None:
    p, g = wallpaper(SIZE), wallpaper(SIZE)
    g[-TAIL:] = np.arange(TAIL)
    state = rf.init(p)
    rf.step(p, g, state)
    expected = np.zeros(TAIL, np.float32)
    expected_state = rf.init(expected)
    rf.reference.step(expected, g[-TAIL:].copy(), expected_state)
    assert same_bits(p[-TAIL:], expected)
    assert same_bits(state.s[-TAIL:], expected_state.s)
