"""A connection that carries many streams: the trio driver of `p2p.yamux` over `p2p.noise_records`.

Three tasks per connection: one reads and sorts, one writes, one keeps it alive. Whatever is written in one turn of the
scheduler, on however many streams, leaves as one write to the socket; credit, acknowledgements and answers to pings
travel along. Nothing of a peer's making gets past this: its faults end its connection.
"""

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.abc import IMuxedConn
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from p2p.muxed_stream import MuxedStream
from p2p.muxed_writer import Writer
from p2p.noise_records import BadRecord
from p2p.secured import RecordSession, TakenOver
from p2p.yamux import Yamux
from p2p.yamux_words import (
    NORMAL,
    Data,
    Event,
    Finished,
    NoStream,
    Opened,
    WasReset,
    Writable,
    YamuxLimits,
    YamuxViolation,
)

logger = logging.getLogger(__name__)

KEEPALIVE_S = 15.0
SILENCE_S_MAX = 45.0  # a connection that says nothing for so long, pings unanswered, is dead
EVENTS_PER_TURN_MAX = 512  # a record of more is a flood of tiny frames: others run before the next
GOODBYE_S = 0.2  # for what is queued to leave when a connection closes
LINGER_S = 60.0  # for a peer to finish a stream nobody here reads any more
LINGER_BYTES_MAX = 1024 * 1024  # that it may send meanwhile


class Muxed(IMuxedConn):
    """Run `start` in a task. Owns the socket from then on, and closes it when it ends for whatever reason."""

    peer_id: ID
    event_started: trio.Event

    def __init__(self, conn: RecordSession, peer_id: ID, limits: YamuxLimits | None = None) -> None:
        self.peer_id = peer_id
        self.secured_conn = conn
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        # py-libp2p sets these three.
        self.on_close: Callable[[], Awaitable[Any]] | None = None
        self.swarm: Any = None
        self.remove_stream: Any = None
        self.on_fault: Callable[[str], None] = lambda why: None
        self._is_initiator = conn.is_initiator
        self._remote_address = conn.get_remote_address()
        self._addresses = conn.get_transport_addresses()
        self._connection_type = conn.get_connection_type()
        self._session = Yamux(conn.is_initiator, limits)
        self._streams: dict[int, MuxedStream] = {}
        self._accepting: deque[MuxedStream] = deque()
        self._accept_wake = trio.Event()
        self._writer = Writer(self._session)
        self._lingering: dict[MuxedStream, float] = {}
        self._scope: trio.CancelScope | None = None
        self._heard_at = trio.current_time()

    # What py-libp2p asks for

    @property
    def is_initiator(self) -> bool:
        return self._is_initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote_address

    def get_transport_addresses(self) -> list[Any]:
        return self._addresses

    def get_connection_type(self) -> ConnectionType:
        return self._connection_type

    def count_streams(self) -> int:
        """Streams either side has not yet done with."""
        return len(self._streams)

    async def start(self) -> None:
        """Carry the connection until it ends. Never raises but Cancelled."""
        reason = "it was closed"
        try:
            taken = self.secured_conn.take_over()
            self._writer.begin(taken.wire, taken.sealer)
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(self._write_forever)
                nursery.start_soon(self._keep_alive)
                self.event_started.set()
                reason = await self._read_forever(taken)
                self._writer.say_last_words()
                nursery.cancel_scope.cancel()
        except* Exception as group:  # a fault of ours that this peer has found: its connection's end, nobody else's
            logger.error("the connection to %s ended with a fault", self.peer_id, exc_info=group)
            self.on_fault(repr(group.exceptions[0]))
        finally:
            self._end(reason)

    async def open_stream(self) -> MuxedStream:
        """A new stream. Raises MuxedConnUnavailable."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self.open_stream_now()

    def open_stream_now(self) -> MuxedStream:
        """As `open_stream`, at once."""
        if not self.is_established:
            raise MuxedConnUnavailable("the connection has ended")
        try:
            stream_id = self._session.open()
        except NoStream as error:
            raise MuxedConnUnavailable(str(error)) from error
        stream = self._streams[stream_id] = MuxedStream(self, stream_id)
        self._writer.wake()
        return stream

    async def accept_stream(self) -> MuxedStream:
        """The next stream the peer opened. Raises MuxedConnUnavailable once the connection has ended."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            while self._accepting:
                stream = self._accepting.popleft()
                if self._session.is_open(stream.stream_id):  # else the peer has thought better of it
                    return stream
            if self.is_closed:
                raise MuxedConnUnavailable("the connection has ended")
            self._accept_wake = trio.Event()
            await self._accept_wake.wait()

    async def close(self, error_code: int = NORMAL) -> None:
        """Send what is queued, say goodbye and end, within GOODBYE_S seconds."""
        if not self.is_closed:
            self._session.go_away(error_code)
            if self._scope is not None:
                self._writer.wake()
                self._writer.quiet = trio.Event()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_S):
                    await self._writer.quiet.wait()
            self._end("it was closed")
            if self._writer.wire is None:
                await self.secured_conn.close()
        await trio.lowlevel.checkpoint()

    # For streams

    @property
    def out_bytes(self) -> int:
        return self._session.out_bytes

    def send(self, stream_id: int, data: bytes | bytearray | memoryview) -> int:
        taken = self._session.send(stream_id, data)
        if taken:
            self._writer.wake()
        return taken

    def consume(self, stream: MuxedStream, size: int) -> None:
        self._session.consume(stream.stream_id, size)
        self._look_after(stream)

    def widen(self, stream: MuxedStream, size: int) -> None:
        self._session.widen(stream.stream_id, size)
        self._look_after(stream)

    def finish(self, stream: MuxedStream) -> None:
        self._session.finish(stream.stream_id)
        self._look_after(stream)

    def reset(self, stream: MuxedStream) -> None:
        if stream.stream_id in self._streams:
            self._session.reset(stream.stream_id)
            self._drop(stream, "it was reset here")
            self._writer.wake()

    def abandon(self, stream: MuxedStream) -> None:
        """Nobody here reads or writes a stream any more: end it, once the peer has had a chance to finish."""
        if stream.stream_id not in self._streams:
            return
        if not stream.is_closed_for_writing:
            self.reset(stream)
            return
        self._lingering[stream] = trio.current_time() + LINGER_S
        left = LINGER_BYTES_MAX

        def discard(data: bytes | memoryview) -> None:
            nonlocal left
            left -= len(data)
            if left < 0:
                self.reset(stream)

        stream.push_to(discard, lambda reason: None)

    def note_blocked(self, stream: MuxedStream) -> None:
        """A writer of this stream waits for room."""
        self._writer.note_blocked(stream)

    def note_feeding(self, stream: MuxedStream) -> None:
        """This stream's feed has something to send."""
        self._writer.note_feeding(stream)

    def flush(self, stream: MuxedStream) -> None:
        """Ask a stream's feed, and write now if the connection still stands."""
        if not self.is_established:
            self._writer.note_feeding(stream)
            return
        try:
            self._writer.flush(stream)
        except OSError as error:
            self._end(f"the connection broke: {error}")

    def push(self, stream: MuxedStream, data: bytes | memoryview) -> None:
        """Hand data to the stream's callback. What that raises is the stream's end."""
        try:
            stream.hand_over(data)
        except Exception as error:  # a protocol's fault with this peer's data must not touch the other streams
            self.blame(stream, error)
        if stream.gives_credit:
            self.consume(stream, len(data))

    def tell_end(self, stream: MuxedStream, reason: str | None) -> None:
        try:
            stream.hand_over_end(reason)
        except Exception as error:
            self.blame(stream, error)

    def blame(self, stream: MuxedStream, error: Exception) -> None:
        """A stream's callback or feed raised: that is the stream's end."""
        logger.debug("a stream's callback failed", exc_info=error)
        self.on_fault(repr(error))
        self.reset(stream)

    # Receiving

    async def _read_forever(self, taken: TakenOver) -> str:
        """Take in what comes until the connection ends; why it did."""
        try:
            await self._take_in([taken.plain, *taken.opener.receive(taken.ahead)])
            while not self._session.is_over:
                data = await taken.wire.receive()
                if not data:
                    return "the peer hung up"
                self._heard_at = trio.current_time()
                await self._take_in(taken.opener.receive(data))
            return "the peer went away"
        except (OSError, trio.ClosedResourceError) as error:
            return f"the connection broke: {error}"
        except (BadRecord, YamuxViolation) as error:
            self.on_fault(str(error))
            return f"the peer broke a rule: {error}"

    async def _write_forever(self) -> None:
        self._end(await self._writer.run())

    async def _take_in(self, records: list[bytes]) -> None:
        for plain in records:
            events = self._session.receive(plain)
            self._sort(events)
            if len(events) > EVENTS_PER_TURN_MAX:
                await trio.lowlevel.checkpoint()

    def _sort(self, events: list[Event]) -> None:
        streams = self._streams
        for event in events:
            if isinstance(event, Data):
                if (stream := streams.get(event.stream_id)) is not None:
                    if stream.is_pushing:
                        self.push(stream, event.data)
                    else:
                        stream.take(event.data)
            elif isinstance(event, Opened):
                self._take_opened(event.stream_id)
            elif isinstance(event, Writable | Finished | WasReset) and event.stream_id in streams:
                self._take_change(streams[event.stream_id], event)
        if self._session.has_to_send:
            self._writer.wake()

    def _take_change(self, stream: MuxedStream, event: Writable | Finished | WasReset) -> None:
        if isinstance(event, Writable):
            stream.wake_writer()
            if stream.is_starved:
                stream.is_starved = False
                self.note_feeding(stream)
        elif isinstance(event, Finished):
            stream.take_end()
            self._tell_if_pushing(stream, None)
            self._look_after(stream)
        elif self._session.is_open(stream.stream_id):
            stream.break_off(event.reason, keep_unread=True)
            self._tell_if_pushing(stream, event.reason)
        else:
            self._drop(stream, event.reason)

    def _take_opened(self, stream_id: int) -> None:
        if self._session.is_open(stream_id):
            stream = self._streams[stream_id] = MuxedStream(self, stream_id)
            self._accepting.append(stream)
            self._accept_wake.set()

    def _tell_if_pushing(self, stream: MuxedStream, reason: str | None) -> None:
        if stream.is_pushing:
            self.tell_end(stream, reason)

    def _look_after(self, stream: MuxedStream) -> None:
        """Forget a stream that has ended in good order, and see that what the session has to say is said."""
        if not self._session.is_open(stream.stream_id):
            self._forget(stream)
        if self._session.has_to_send:
            self._writer.wake()

    def _drop(self, stream: MuxedStream, reason: str) -> None:
        self._forget(stream)
        stream.break_off(reason)
        self._tell_if_pushing(stream, reason)

    def _forget(self, stream: MuxedStream) -> None:
        self._streams.pop(stream.stream_id, None)
        self._lingering.pop(stream, None)
        self._writer.forget(stream)

    # Ending

    async def _keep_alive(self) -> None:
        for number in itertools.count():
            await trio.sleep(KEEPALIVE_S)
            now = trio.current_time()
            if now - self._heard_at > SILENCE_S_MAX:
                self._end(f"the peer said nothing for {SILENCE_S_MAX} s")
                return
            if now - self._heard_at >= KEEPALIVE_S:
                self._session.ping(number % 2**32)
                self._writer.wake()
            for stream in [stream for stream, until in self._lingering.items() if until <= now]:
                self.reset(stream)

    def _end(self, reason: str) -> None:
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        logger.debug("the connection to %s ended: %s", self.peer_id, reason)
        for stream in list(self._streams.values()):
            stream.break_off(reason, keep_unread=True)
            self._tell_if_pushing(stream, reason)
        self._streams.clear()
        self._accepting.clear()
        self._accept_wake.set()
        self._writer.close()
        if self._scope is not None:
            self._scope.cancel()
