"""Frames of a yamux session on their way out, as few and as little copied as can be."""

import struct

from p2p.yamux_words import DATA, FRAME_BYTES_MAX, HEADER, HEADER_BYTES, VIEWED_BYTES_MIN

Piece = bytes | bytearray | memoryview


class Output:
    """What is queued since `take`."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []  # what goes before `_tail`
        self._pieces_bytes = 0
        self._tail = bytearray()
        self._merge_id = 0  # the stream whose data frame is the last thing in _tail, if it may grow
        self._merge_at = 0

    def __len__(self) -> int:
        """Bytes that are queued."""
        return self._pieces_bytes + len(self._tail)

    def put_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """A frame that is all header."""
        self._merge_id = 0
        self._tail += HEADER.pack(0, kind, flags, stream_id, length)

    def put_data(self, stream_id: int, flags: int, data: Piece, size: int) -> None:
        """The first `size` bytes of data, in as many frames as that takes; `flags` go with the first."""
        at = 0 if flags else self._grow_last_frame(stream_id, data, size)
        while at < size:
            part = min(size - at, FRAME_BYTES_MAX)
            self._merge_id, self._merge_at = stream_id, len(self._tail)
            self._tail += HEADER.pack(0, DATA, flags, stream_id, part)
            flags = 0
            self._put(data if part == len(data) else memoryview(data)[at : at + part])
            at += part

    def close_frame_of(self, stream_id: int) -> None:
        """No data frame of this stream may grow any more."""
        if self._merge_id == stream_id:
            self._merge_id = 0

    def take(self) -> list[Piece]:
        """All that is queued; what was given in large pieces is there as it was given."""
        pieces, self._pieces = self._pieces, []
        if self._tail:
            pieces.append(self._tail)
            self._tail = bytearray()
        self._pieces_bytes = self._merge_id = 0
        return pieces

    def _put(self, body: Piece) -> None:
        is_fixed = isinstance(body, bytes) or (isinstance(body, memoryview) and body.readonly)
        if len(body) < VIEWED_BYTES_MIN or not is_fixed:
            self._tail += body
            return
        self._pieces += (self._tail, body)  # uncopied
        self._pieces_bytes += len(self._tail) + len(body)
        self._tail = bytearray()
        self._merge_id = 0

    def _grow_last_frame(self, stream_id: int, data: Piece, size: int) -> int:
        # Messages written one after the other share a frame: the peer pays per frame, hardly per byte.
        if self._merge_id != stream_id:
            return 0
        length = len(self._tail) - self._merge_at - HEADER_BYTES
        more = min(FRAME_BYTES_MAX - length, size)
        if more > 0:
            struct.pack_into("!I", self._tail, self._merge_at + 8, length + more)
            self._put(data if more == len(data) else memoryview(data)[:more])
        return more
