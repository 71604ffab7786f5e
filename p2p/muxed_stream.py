"""One stream of a muxed connection, as py-libp2p wants it and as hot protocols use it.

Three ways to use one: `read` and `write` wait; `read_now` and `write_now` never do; in push mode (`push_to`) arriving
bytes are handed to a callback and in feed mode (`feed_from`) outgoing ones are asked for just before each write to the
connection, so that a protocol needs no task per stream.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

if TYPE_CHECKING:
    from p2p.muxed import Muxed

STALL_S_MAX = 30.0  # a write waits so long for the peer to take STALL_BYTES, or what is left
STALL_BYTES = 16 * 1024
BUSY_BYTES = 64 * 1024  # with more than this waiting to go out, a write lets others run first


class MuxedStream(IMuxedStream):
    """Made by `Muxed`. Safe to cancel: a cancelled read loses nothing, a cancelled write may have sent a part."""

    muxed_conn: "Muxed"

    def __init__(self, conn: "Muxed", stream_id: int) -> None:
        self.muxed_conn = conn
        self.stream_id = stream_id
        self._buffer = bytearray()
        self._is_received_whole = self._is_sent_whole = False
        self._broken: str | None = None
        self._deadline = math.inf
        self._readable: trio.Event | None = None
        self._room: trio.Event | None = None
        self._write_lock = trio.Lock()
        self._on_data: Callable[[bytes | memoryview], None] | None = None
        self._on_end: Callable[[str | None], None] | None = None
        self.is_pushing = False  # whatever comes goes to callbacks, `read` is over
        self.gives_credit = True
        self.is_starved = False  # its feed waits for the peer's credit
        self._produce: Callable[[int], bytes | bytearray | memoryview] | None = None

    # Waiting

    async def read(self, n: int | None = None) -> bytes:
        """1 to n bytes, as many as are here. Raises MuxedStreamEOF at the end, MuxedStreamReset, MuxedStreamError."""
        if n == 0:
            return b""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (data := self.read_now(-1 if n is None else n)):
            if self._is_received_whole:
                raise MuxedStreamEOF("the peer has finished")
            if self._broken is not None:
                raise MuxedStreamReset(self._broken)
            if self._readable is None:
                self._readable = trio.Event()
            await self._wait(self._readable, math.inf)
        return data

    async def write(self, data: bytes) -> None:
        """Queue all of data, waiting for the peer's credit as long as it keeps coming.

        Raises MuxedStreamClosed after `close`, MuxedStreamReset, and MuxedStreamError when the peer took next to
        nothing for STALL_S_MAX seconds or the deadline passed. Two writes at once are sent one after the other.
        """
        taken = 0 if self._write_lock.locked() else self.write_now(data)
        if taken < len(data):
            async with self._write_lock:
                await self._write_rest(memoryview(data)[taken:])
        elif self.muxed_conn.out_bytes < BUSY_BYTES:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Send no more; what was written still goes out and reading goes on."""
        self.close_now()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """End both directions at once and forget what is unread."""
        self.reset_now()
        await trio.lowlevel.checkpoint()

    async def _write_rest(self, rest: memoryview) -> None:
        until_s = trio.current_time() + STALL_S_MAX
        progress = 0
        while True:
            if taken := self.write_now(rest):
                rest = rest[taken:]
                progress += taken
            if progress >= STALL_BYTES:
                progress = 0
                until_s = trio.current_time() + STALL_S_MAX
            if not rest:
                return
            # No other task runs between the attempt and the wait, so no wake-up can fall in between.
            self._room = trio.Event()
            self.muxed_conn.note_blocked(self)
            await self._wait(self._room, until_s)

    async def _wait(self, event: trio.Event, until_s: float) -> None:
        until_s = min(until_s, self._deadline)
        with trio.move_on_at(until_s) as scope:
            await event.wait()
        if scope.cancelled_caught:
            raise MuxedStreamError("the deadline passed" if until_s == self._deadline else "the peer takes nothing")

    # Not waiting

    def read_now(self, n: int = -1) -> bytes:
        """Up to n bytes that are here, all of them for -1, b"" if there are none yet or any more."""
        if not self._buffer:
            return b""
        if n < 0 or n >= len(self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
        else:
            data = bytes(self._buffer[:n])
            del self._buffer[:n]
        self.muxed_conn.consume(self, len(data))
        return data

    def write_now(self, data: bytes | bytearray | memoryview) -> int:
        """Queue what there is room for and say how much that was. Raises MuxedStreamClosed or MuxedStreamReset."""
        if self._broken is not None:
            raise MuxedStreamReset(self._broken)
        if self._is_sent_whole:
            raise MuxedStreamClosed("closed for writing")
        return self.muxed_conn.send(self.stream_id, data)

    def close_now(self) -> None:
        """As `close`, at once."""
        if self._broken is None and not self._is_sent_whole:
            self._is_sent_whole = True
            self.muxed_conn.finish(self)

    def reset_now(self) -> None:
        """As `reset`, at once. Does nothing on a stream that has ended."""
        self.muxed_conn.reset(self)

    # Push and feed

    def push_to(
        self,
        on_data: Callable[[bytes | memoryview], None],
        on_end: Callable[[str | None], None],
        *,
        gives_credit: bool = True,
    ) -> None:
        """From now on call on_data for what arrives, what is here already included; `read` is over.

        on_end is called once: with None when the peer has finished, with a reason when the stream broke. Neither may
        wait; what they raise resets the stream and is reported as a fault. With gives_credit=False the peer may send
        no more than a window beyond what `give_credit` has been called for: that is how to hold a peer back.
        """
        self.is_pushing = True
        self._on_data, self._on_end, self.gives_credit = on_data, on_end, gives_credit
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self.muxed_conn.push(self, data)
        if self._broken is not None or self._is_received_whole:
            self.muxed_conn.tell_end(self, self._broken)

    def give_credit(self, size: int) -> None:
        """So many bytes handed to on_data have been dealt with."""
        self.muxed_conn.consume(self, size)

    def widen(self, size: int) -> None:
        """Let the peer have so many bytes more under way."""
        self.muxed_conn.widen(self, size)

    def feed_from(self, produce: Callable[[int], bytes | bytearray | memoryview]) -> None:
        """Before each write to the connection, after `has_more`, call produce(room) for at most room bytes to send.

        It is called again, also in later turns, until it returns none.
        """
        self._produce = produce

    def has_more(self) -> None:
        """There is something for the feed to produce."""
        self.muxed_conn.note_feeding(self)

    def flush(self) -> None:
        """As `has_more`, and the connection is written to at once: for whoever has gathered all of this turn."""
        self.muxed_conn.flush(self)

    # The rest of what py-libp2p asks for

    @property
    def is_closed(self) -> bool:
        """Whether both directions have ended."""
        return self._broken is not None or (self._is_received_whole and self._is_sent_whole)

    @property
    def is_closed_for_writing(self) -> bool:
        return self._broken is not None or self._is_sent_whole

    def set_deadline(self, ttl: float) -> None:
        """Reads and writes that have to wait raise MuxedStreamError from ttl seconds on."""
        if not ttl >= 0:
            raise ValueError(f"a deadline in {ttl} s")
        self._deadline = trio.current_time() + ttl

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> "MuxedStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # For Muxed

    def take(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if self._readable is not None:
            self._readable.set()
            self._readable = None

    def take_end(self) -> None:
        self._is_received_whole = True
        self._wake_all()

    def break_off(self, reason: str, *, keep_unread: bool = False) -> None:
        if not keep_unread:
            self._buffer.clear()
            self._is_received_whole = False
        if self._broken is None:
            self._broken = reason
            self._wake_all()

    def hand_over(self, data: bytes | memoryview) -> None:
        if self._on_data is not None:
            self._on_data(data)

    def hand_over_end(self, reason: str | None) -> None:
        # Nothing comes after the end. Who hears of us holds us, most often: that ring ends here.
        on_end, self._on_end, self._on_data = self._on_end, None, None
        if on_end is not None:
            on_end(reason)

    def wake_writer(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def produce(self, room: int) -> bytes | bytearray | memoryview:
        return b"" if self._produce is None else self._produce(room)

    def _wake_all(self) -> None:
        self.wake_writer()
        if self._readable is not None:
            self._readable.set()
            self._readable = None
