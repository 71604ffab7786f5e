"""Standard input that Ctrl-C always breaks off."""

import io
import os
import select
import sys
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 1024 * 1024
LOOK_S = 0.5  # so long at most until a signal is acted upon


def open_standard_input() -> BinaryIO:
    """What is piped in. `sys.stdin.buffer` would lose a Ctrl-C that comes just before it begins to wait for more."""
    return io.BufferedReader(_Input(sys.stdin.fileno()), BUFFER_BYTES)


class _Input(io.RawIOBase):
    """Waits where signals are acted upon, and reads only what is there."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def readable(self) -> bool:
        return True

    def readinto(self, room: "WriteableBuffer", /) -> int:
        while not select.select([self._handle], [], [], LOOK_S)[0]:
            pass
        return os.readv(self._handle, [room])
