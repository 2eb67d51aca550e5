"""Memory that ends at a page without access: a read or write one byte too far ends the process."""

import ctypes
import mmap

import numpy as np
import numpy.typing as npt

_PROT_NONE = 0


class GuardedBuffer:
    """At least `size` bytes, with a forbidden page before and after them. Linux only."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        pages = -(-size // page)
        self.size = pages * page
        self._map = mmap.mmap(-1, self.size + 2 * page)
        self._all = np.frombuffer(self._map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        for at in (0, self.size + page):
            if libc.mprotect(ctypes.c_void_p(self._all.ctypes.data + at), page, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._room = self._all[page : page + self.size]

    def last(self, size: int) -> npt.NDArray[np.uint8]:
        """Return the last `size` bytes: the forbidden page follows them."""
        return self._room[self.size - size :]

    def first(self, size: int) -> npt.NDArray[np.uint8]:
        """Return the first `size` bytes: the forbidden page precedes them."""
        return self._room[:size]

    def holding(self, data: bytes, at_end: bool = True) -> npt.NDArray[np.uint8]:
        """Return a read-only array of these bytes, valid until the next call."""
        view = self.last(len(data)) if at_end else self.first(len(data))
        view[:] = np.frombuffer(data, np.uint8)
        view = view[:]
        view.flags.writeable = False
        return view
