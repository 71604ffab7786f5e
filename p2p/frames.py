"""The frames of requests and answers: `kind (1) ‖ number (4) ‖ length (4) ‖ body`, big endian. Bytes in, frames out."""

import struct
from typing import NamedTuple

from p2p.net import STREAM_BYTES_MAX
from protocol.errors import RemoteError

ASK, ANSWER, REFUSAL = 0, 1, 2  # kinds; the body of a refusal is a reason
HEADER = struct.Struct("!BII")


class BadFrame(RemoteError):
    """What a peer sends on a stream of requests breaks a rule. It costs the stream."""


class Frame(NamedTuple):
    kind: int
    number: int
    body: bytes


class Frames:
    """Cuts a stream into frames. Holds at most one of them and what came in the same read."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> Frame | None:
        """The next frame that is whole. Raises BadFrame as soon as a header does not stand for one."""
        if not self.has_header:
            return None
        kind, number, length = HEADER.unpack_from(self._buffer)
        if kind > REFUSAL or length > STREAM_BYTES_MAX:
            raise BadFrame(f"a frame of kind {kind} with {length} bytes, at most {STREAM_BYTES_MAX}")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Frame(kind, number, body)

    @property
    def has_header(self) -> bool:
        """Whether the header of the next frame is here."""
        return len(self._buffer) >= HEADER.size


def write_frame(kind: int, number: int, body: bytes) -> bytes:
    """
    >>> write_frame(ASK, 7, b"hi").hex()
    '0000000007000000026869'
    """
    return HEADER.pack(kind, number, len(body)) + body
