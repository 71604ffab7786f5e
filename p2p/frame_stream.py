"""Frames both ways on one open stream, with no task that reads and none that writes.

What arrives is pushed here, cut into frames and handed over at once; what waits to be sent is asked for just before the
connection is written to. So several frames share a packet, and none of them costs a turn of the scheduler.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from p2p.frames import BadFrame, Frame, Frames, Header, write_frame
from p2p.muxed_stream import STALL_BYTES, STALL_S_MAX, MuxedStream

FRAME_S = 30.0  # for a frame to arrive whole once its first byte is here
LOOK_S = 5.0  # between two looks at what should have arrived or left by now
LARGE_BYTES = 256 * 1024  # of a frame
WIDER_BYTES = 1024 * 1024  # than a stream's first window, once a large frame comes
CHUNK = 64 * 1024 - 12  # the largest yamux frame that every implementation takes
OUT_BYTES_MAX = 16 * 1024 * 1024  # waiting to be sent to one peer, on all streams together


@dataclass(frozen=True)
class Ended:
    """Why a stream is over, and what its peer did wrong, if it did; a violation is what no implementation does."""

    reason: str
    fault: str = ""
    is_violation: bool = False


class Gathering:
    """What is pushed within it waits; at its end each connection is written to once, without another turn."""

    def __init__(self) -> None:
        self._is_on = False
        self._streams: dict[MuxedStream, None] = {}

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: object) -> None:
        self._is_on = False
        streams, self._streams = self._streams, {}
        for stream in streams:
            stream.flush()

    def note(self, stream: MuxedStream) -> None:
        """There is something for the stream's feed to produce."""
        if self._is_on:
            self._streams[stream] = None
        else:
            stream.has_more()


class FrameStream:
    """Frames to and from a peer. `waiting` counts the bytes that wait to be sent, by peer, over all its streams.

    What is pushed before `carry` has a stream leaves as soon as there is one.
    """

    def __init__(self, peer: bytes, waiting: Counter[bytes], gathering: Gathering) -> None:
        self.peer = peer
        self._gathering = gathering
        self._waiting = waiting
        self._stream: MuxedStream | None = None
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0
        self._moved = 0  # bytes sent since then, while some wait
        self._moving_since_s = math.inf
        self._frames = Frames()
        self._header: Header | None = None  # of the frame that is arriving
        self._is_kept = False
        self._is_wide = False
        self._due_s = math.inf  # when it must be whole
        self._ended: Ended | None = None
        self._has_ended = trio.Event()

    def push(self, kind: int, number: int, body: bytes) -> bool:
        """Send a frame; False when too much waits for this peer already."""
        if self._waiting[self.peer] + len(body) > OUT_BYTES_MAX:
            return False
        frame = write_frame(kind, number, body)
        if not self._out:
            self._moved, self._moving_since_s = 0, trio.current_time()
        self._out.append(memoryview(frame))
        self._count(len(frame))
        if self._stream is not None:
            self._gathering.note(self._stream)
        return True

    async def carry(
        self, stream: MuxedStream, on_header: Callable[[Header], bool], on_frame: Callable[[Frame], None]
    ) -> Ended:
        """Send and receive until the stream is over.

        `on_header` says whether the frame's body is wanted: if not, it is dropped as it comes. It may raise BadFrame.
        """
        self._on_header, self._on_frame = on_header, on_frame
        self._stream = stream
        stream.feed_from(self._produce)
        stream.push_to(self._take, self._take_end)
        if self._out:
            stream.has_more()
        try:
            while self._ended is None:
                with trio.move_on_after(LOOK_S):
                    await self._has_ended.wait()
                self._look()
            return self._ended
        finally:  # the stream knows us and we know it: a ring would hold the connection for a while
            self._stream = None
            del self._on_header, self._on_frame

    def clear(self) -> None:
        """The stream is over: nothing waits for it any more."""
        self._out.clear()
        self._count(-self._out_bytes)

    def _end(self, ended: Ended) -> None:
        if self._ended is None:
            self._ended = ended
            self._has_ended.set()

    def _look(self) -> None:
        now_s = trio.current_time()
        if now_s >= self._due_s:
            slow = f"a frame took more than {FRAME_S} s"
            self._end(Ended(f"the peer broke a rule: {slow}", slow))
        if self._out and now_s >= self._moving_since_s + STALL_S_MAX:
            self._end(Ended("the stream broke: the peer takes nothing"))

    # What leaves

    def _produce(self, room: int) -> bytes:
        """As much as fits of what waits."""
        pieces: list[memoryview] = []
        left = min(room, CHUNK)
        while self._out and left:
            head = self._out.popleft()
            pieces.append(head[:left])
            if len(head) > left:
                self._out.appendleft(head[left:])
            left -= len(pieces[-1])
        data = b"".join(pieces)
        self._count(-len(data))
        self._moved += len(data)
        if self._moved >= STALL_BYTES:
            self._moved, self._moving_since_s = 0, trio.current_time()
        return data

    def _count(self, change: int) -> None:
        self._out_bytes += change
        self._waiting[self.peer] += change
        if not self._waiting[self.peer]:
            del self._waiting[self.peer]

    # What arrives

    def _take(self, data: bytes | memoryview) -> None:
        if self._ended is not None:
            return
        self._frames.feed(data)
        try:
            while self._take_frame():
                self._due_s = math.inf
        except BadFrame as error:
            self._end(Ended(f"the peer broke a rule: {error}", str(error), is_violation=True))
        if self._due_s == math.inf and (len(self._frames) or self._header is not None):
            self._due_s = trio.current_time() + FRAME_S

    def _take_frame(self) -> bool:
        """Whether there was the rest of a frame."""
        if self._header is None:
            self._header = self._frames.read_header()
            if self._header is None:
                return False
            self._is_kept = self._on_header(self._header)
            if self._header.length > LARGE_BYTES and not self._is_wide and self._stream is not None:
                # Else the peer waits for credit in the middle of each frame, and we write for little else.
                self._is_wide = True
                self._stream.widen(WIDER_BYTES)
        frame = self._frames.take() if self._is_kept else None
        if frame is None and (self._is_kept or not self._frames.drop()):
            return False
        self._header = None
        if frame is not None:
            self._on_frame(frame)
        return True

    def _take_end(self, reason: str | None) -> None:
        self._end(Ended(f"the stream broke: {reason or 'the peer has finished'}"))
