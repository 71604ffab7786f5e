"""The frames of requests, answers and words that want none. Bytes in, frames out.

`kind (1) ‖ number (4) ‖ length (4) ‖ body`, big endian.
"""

import struct
from typing import NamedTuple

from p2p.net import STREAM_BYTES_MAX
from protocol.errors import LocalError, RemoteError

ASK, ANSWER, REFUSAL, TELL = 0, 1, 2, 3  # kinds; the body of a refusal is a reason, to a word there is no answer
HEADER = struct.Struct("!BII")


class BadFrame(RemoteError):
    """What a peer sends on a stream of requests breaks a rule. It costs the stream."""


class Frame(NamedTuple):
    kind: int
    number: int
    body: bytes


class Header(NamedTuple):
    kind: int
    number: int
    length: int  # of the body, bytes


class Frames:
    """Cuts a stream into frames. Holds at most one of them and what came in the same read."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left_to_drop = 0

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> None:
        self._buffer += data

    def read_header(self) -> Header | None:
        """That of the next frame, once it is here. Raises BadFrame when it does not stand for one."""
        if len(self._buffer) < HEADER.size:
            return None
        header = Header(*HEADER.unpack_from(self._buffer))
        if header.kind > TELL or header.length > STREAM_BYTES_MAX:
            raise BadFrame(f"a frame of kind {header.kind} with {header.length} bytes, at most {STREAM_BYTES_MAX}")
        return header

    def take(self) -> Frame | None:
        """The next frame that is whole. Raises BadFrame as soon as a header does not stand for one."""
        header = self.read_header()
        if header is None or len(self._buffer) < HEADER.size + header.length:
            return None
        end = HEADER.size + header.length
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Frame(header.kind, header.number, body)

    def drop(self) -> bool:
        """Let the next frame go, as far as it is here; True once it is gone. Its header must have come."""
        if not self._left_to_drop:
            header = self.read_header()
            if header is None:
                raise LocalError("no header of a frame to drop is here")
            self._left_to_drop = HEADER.size + header.length
        size = min(self._left_to_drop, len(self._buffer))
        del self._buffer[:size]
        self._left_to_drop -= size
        return not self._left_to_drop


def write_frame(kind: int, number: int, body: bytes) -> bytes:
    """
    >>> write_frame(ASK, 7, b"hi").hex()
    '0000000007000000026869'
    """
    return HEADER.pack(kind, number, len(body)) + body
