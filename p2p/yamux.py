"""Yamux, many streams on one connection, as a state machine: bytes in, events out, and bytes to send.

    events = session.receive(data)       # raises YamuxViolation when the peer breaks a rule; the connection is over
    taken = session.send(stream_id, b"…")  # as much as window and output buffer have room for
    wire = session.bytes_to_send()       # every frame queued since the last call; `pieces_to_send` copies less

Nothing here waits, reads a clock or keeps received data: bytes of a stream leave in `Data` events and count as unread
until `consume` says otherwise. What a peer can make us hold or answer is bounded by `YamuxLimits`.
Source: yamux specification (hashicorp) and libp2p's notes on it ("ACK backlog").
"""

import struct

from p2p.yamux_words import (
    ACK,
    DATA,
    FIN,
    FRAME_BYTES_MAX,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW,
    NORMAL,
    PING,
    PROTOCOL_ERROR,
    RST,
    STREAM_ID_END,
    SYN,
    WINDOW_MAX,
    WINDOW_UPDATE,
    Data,
    Event,
    Finished,
    GoneAway,
    NoStream,
    Opened,
    Ponged,
    WasReset,
    Writable,
    YamuxLimits,
    YamuxViolation,
)
from protocol.errors import LocalError

VIEWED_BYTES_MIN = 4 * 1024  # so much of a frame is handed on as it came, uncopied


class _Stream:
    __slots__ = (
        "consumed", "is_accepted", "is_acknowledged", "is_inbound", "is_received_whole", "is_sent_whole",
        "receive_window", "send_window", "stream_id", "to_announce", "unread",
    )  # fmt: skip

    def __init__(self, stream_id: int, is_inbound: bool) -> None:
        self.stream_id = stream_id
        self.is_inbound = is_inbound
        self.is_accepted = not is_inbound
        self.is_acknowledged = is_inbound
        self.to_announce = ACK if is_inbound else SYN  # what the next frame must carry
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        self.unread = 0  # bytes handed out in Data and not consumed
        self.consumed = 0  # bytes consumed and not yet given back as credit
        self.is_sent_whole = False
        self.is_received_whole = False


class Yamux:
    """One side of a session. The side that dialled is the client and numbers its streams oddly."""

    def __init__(self, is_client: bool, limits: YamuxLimits | None = None) -> None:
        self.limits = limits or YamuxLimits()
        self.unread_bytes = 0
        self.is_over = False  # nothing received counts any more
        self._parity = 1 if is_client else 0
        self._next_id = 1 if is_client else 2
        self._streams: dict[int, _Stream] = {}
        self._inbound = self._backlog = self._unacknowledged = 0
        self._out = bytearray()
        self._pieces: list[bytes | bytearray | memoryview] = []  # what goes before `_out`
        self._pieces_bytes = 0
        self._merge_id = 0  # the stream whose data frame is the last thing in _out, if it may grow
        self._merge_at = 0
        self._unannounced: dict[int, None] = {}
        self._control_bytes = self._pongs = 0
        self._stray_left = 0  # bytes that may be on their way to streams that ended here
        self._is_going = False
        self._head = b""  # a header that has not arrived whole
        self._body_left = 0
        self._body: _Stream | None = None  # None: a body for nobody, passed over
        self._body_flags = 0

    # What we do

    def open(self) -> int:
        """A new stream, usable at once. Raises NoStream."""
        outbound = len(self._streams) - self._inbound
        if self._is_going or self.is_over:
            raise NoStream("the session is going away")
        if outbound >= self.limits.streams_outbound_max or self._unacknowledged >= self.limits.unacknowledged_max:
            raise NoStream(f"{outbound} streams are open, {self._unacknowledged} of them unanswered")
        if self._next_id >= STREAM_ID_END:
            raise NoStream("no stream number is left")
        stream_id = self._next_id
        self._next_id += 2
        self._streams[stream_id] = _Stream(stream_id, is_inbound=False)
        self._unacknowledged += 1
        self._unannounced[stream_id] = None
        return stream_id

    def is_open(self, stream_id: int) -> bool:
        """Whether there is anything left to do on a stream: it is not reset, nor closed both ways and consumed."""
        return stream_id in self._streams

    def accept(self, stream_id: int) -> None:
        """Acknowledge a stream the peer opened. Sending or consuming does so as well, at no cost."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.to_announce == ACK:
            self._unannounced[stream_id] = None
            self._count_as_accepted(stream)

    def room(self, stream_id: int) -> int:
        """How many bytes `send` would take now; 0 also for a stream that is gone or finished."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_sent_whole:
            return 0
        # Half of what is left, so that whoever writes much leaves room for those who write little.
        left = self.limits.out_bytes_max - self.out_bytes
        return max(0, min(stream.send_window, (left + 1) // 2))

    def has_credit(self, stream_id: int) -> bool:
        """Whether the peer would take more on a stream, room in the output aside."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.is_sent_whole and stream.send_window > 0

    def send(self, stream_id: int, data: bytes | bytearray | memoryview) -> int:
        """Queue bytes on a stream and return how many were taken, possibly none. The caller keeps the rest."""
        taken = min(self.room(stream_id), len(data))
        if not taken:
            return 0
        stream = self._streams[stream_id]
        stream.send_window -= taken
        at = self._grow_last_frame(stream_id, data, taken)
        while at < taken:
            size = min(taken - at, FRAME_BYTES_MAX)
            self._merge_id, self._merge_at = stream_id, len(self._out)
            self._out += HEADER.pack(0, DATA, self._announce(stream), stream_id, size)
            self._put(data if size == len(data) else memoryview(data)[at : at + size])
            at += size
        return taken

    def _put(self, body: bytes | bytearray | memoryview) -> None:
        is_fixed = isinstance(body, bytes) or (isinstance(body, memoryview) and body.readonly)
        if len(body) < VIEWED_BYTES_MIN or not is_fixed:
            self._out += body
            return
        self._pieces += (self._out, body)  # uncopied
        self._pieces_bytes += len(self._out) + len(body)
        self._out = bytearray()
        self._merge_id = 0

    def _grow_last_frame(self, stream_id: int, data: bytes | bytearray | memoryview, taken: int) -> int:
        # Messages written one after the other share a frame: the peer pays per frame, hardly per byte.
        if self._merge_id != stream_id:
            return 0
        size = len(self._out) - self._merge_at - HEADER_BYTES
        more = min(FRAME_BYTES_MAX - size, taken)
        if more > 0:
            struct.pack_into("!I", self._out, self._merge_at + 8, size + more)
            self._put(data if more == len(data) else memoryview(data)[:more])
        return more

    def consume(self, stream_id: int, size: int) -> None:
        """Bytes of a stream have been used. The peer gets credit once half the window has been."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # reset meanwhile
        if size > stream.unread:
            raise LocalError(f"consumed {size} bytes where {stream.unread} were unread")
        stream.unread -= size
        self.unread_bytes -= size
        if stream.is_received_whole:
            self._forget_if_done(stream)
            return
        stream.consumed += size
        if stream.consumed >= INITIAL_WINDOW // 2:
            stream.receive_window += stream.consumed
            self._queue(WINDOW_UPDATE, self._announce(stream), stream_id, stream.consumed)
            stream.consumed = 0

    def widen(self, stream_id: int, size: int) -> None:
        """Let the peer have so many bytes more under way on a stream, for as long as it lasts."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_received_whole:
            stream.receive_window += size
            self._queue(WINDOW_UPDATE, self._announce(stream), stream_id, size)

    def finish(self, stream_id: int) -> None:
        """Send no more on a stream; receiving goes on."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_sent_whole:
            return
        stream.is_sent_whole = True
        self._queue(WINDOW_UPDATE, self._announce(stream) | FIN, stream_id, 0)
        self._forget_if_done(stream)

    def reset(self, stream_id: int) -> None:
        """End a stream both ways at once, and forget what is unread of it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        is_over = stream.is_sent_whole and stream.is_received_whole
        if not is_over and not stream.to_announce & SYN:  # else the peer has never heard of it
            self._queue(WINDOW_UPDATE, RST, stream_id, 0)
        self._forget(stream)

    def ping(self, value: int) -> None:
        """Ask for a `Ponged` with this 32-bit value."""
        self._queue(PING, SYN, 0, value)

    def go_away(self, code: int = NORMAL) -> None:
        """Tell the peer that the session ends. Streams open now may go on until the connection closes."""
        if not self._is_going:
            self._is_going = True
            self._queue(GO_AWAY, 0, 0, code)

    def bytes_to_send(self) -> bytes:
        """All frames queued since the last call, for one write; b"" if there is nothing to say."""
        return b"".join(self.pieces_to_send())

    def pieces_to_send(self) -> list[bytes | bytearray | memoryview]:
        """The same in pieces: what was sent in large ones is there as it was given."""
        for stream_id in self._unannounced:
            stream = self._streams[stream_id]
            self._out += HEADER.pack(0, WINDOW_UPDATE, self._take_announcement(stream), stream_id, 0)
        self._unannounced.clear()
        pieces, self._pieces = self._pieces, []
        if self._out:
            pieces.append(self._out)
            self._out = bytearray()
        self._pieces_bytes = self._merge_id = self._control_bytes = self._pongs = 0
        return pieces

    @property
    def out_bytes(self) -> int:
        """How much `bytes_to_send` holds, announcements of streams aside."""
        return self._pieces_bytes + len(self._out)

    @property
    def has_to_send(self) -> bool:
        return bool(self._out or self._pieces or self._unannounced)

    def stream_ids(self) -> tuple[int, ...]:
        """Streams not yet closed both ways, in the order they were opened."""
        return tuple(self._streams)

    def _queue(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._merge_id = 0
        self._out += HEADER.pack(0, kind, flags, stream_id, length)

    def _announce(self, stream: _Stream) -> int:
        if not stream.to_announce:
            return 0
        self._unannounced.pop(stream.stream_id, None)
        return self._take_announcement(stream)

    def _take_announcement(self, stream: _Stream) -> int:
        flags, stream.to_announce = stream.to_announce, 0
        self._count_as_accepted(stream)
        return flags

    def _count_as_accepted(self, stream: _Stream) -> None:
        self._backlog -= not stream.is_accepted
        stream.is_accepted = True

    def _forget_if_done(self, stream: _Stream) -> None:
        if stream.is_sent_whole and stream.is_received_whole and not stream.unread:
            self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.stream_id]
        self._stray_left += 0 if stream.is_received_whole else stream.receive_window
        self._unannounced.pop(stream.stream_id, None)
        self.unread_bytes -= stream.unread
        self._inbound -= stream.is_inbound
        self._backlog -= not stream.is_accepted
        self._unacknowledged -= not stream.is_acknowledged
        if self._merge_id == stream.stream_id:
            self._merge_id = 0
        if self._body is stream:
            self._body = None

    # What the peer does

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes off the wire, cut anywhere. Raises YamuxViolation, after which nothing more is received."""
        events: list[Event] = []
        if self.is_over:
            return events
        try:
            self._parse(self._head + data if self._head else data, events)
        except YamuxViolation:
            self.is_over = True
            self.go_away(PROTOCOL_ERROR)
            raise
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        self._head = b""
        at, end = 0, len(data)
        unpack = HEADER.unpack_from
        while at < end and not self.is_over:
            if self._body_left:
                size = min(self._body_left, end - at)
                body = data[at : at + size] if size < VIEWED_BYTES_MIN else memoryview(data)[at : at + size]
                self._take_body(body, events)
                at += size
                continue
            if end - at < HEADER_BYTES:
                self._head = data[at:]
                return
            version, kind, flags, stream_id, length = unpack(data, at)
            at += HEADER_BYTES
            if version != 0:
                raise YamuxViolation(f"version {version}")
            if kind == DATA:
                self._take_data_header(flags, stream_id, length, events)
            elif kind == WINDOW_UPDATE:
                self._take_window_update(flags, stream_id, length, events)
            elif kind == PING:
                self._take_ping(flags, length, events)
            elif kind == GO_AWAY:
                self._is_going = self.is_over = True
                events.append(GoneAway(length))
            else:
                raise YamuxViolation(f"frame type {kind}")

    def _take_data_header(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        stream = self._find(flags, stream_id, events) if flags else self._streams.get(stream_id)
        if stream is None or flags & RST:
            if length > INITIAL_WINDOW:
                raise YamuxViolation(f"{length} bytes for no stream, at most {INITIAL_WINDOW}")
            if stream is None:
                self._take_stray(stream_id, length)
        elif length > stream.receive_window:
            raise YamuxViolation(f"{length} bytes on stream {stream_id}, which has credit for {stream.receive_window}")
        elif length and stream.is_received_whole:
            self._drop(stream, "it sent more after it had finished", events)
            stream = None
        else:
            stream.receive_window -= length
        self._body, self._body_left, self._body_flags = stream, length, flags
        if flags and stream is not None and (not length or flags & RST):
            self._end(stream, flags, events)

    def _take_stray(self, stream_id: int, length: int) -> None:
        if not stream_id:
            raise YamuxViolation("data for the session")
        self._stray_left -= length
        if self._stray_left < 0:
            raise YamuxViolation(f"data for stream {stream_id}, which is none, and more than can be on its way")

    def _take_body(self, data: bytes | memoryview, events: list[Event]) -> None:
        self._body_left -= len(data)
        stream = self._body
        if stream is None:
            return
        stream.unread += len(data)
        self.unread_bytes += len(data)
        events.append(Data(stream.stream_id, data))
        if self.unread_bytes > self.limits.unread_bytes_max:
            fullest = max(self._streams.values(), key=lambda each: each.unread)
            self._drop(fullest, f"{self.unread_bytes} bytes unread on this connection, most of them here", events)
        if not self._body_left and self._body_flags and self._body is stream:
            self._end(stream, self._body_flags, events)

    def _take_window_update(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        if not stream_id:
            raise YamuxViolation("credit for the session")
        stream = self._find(flags, stream_id, events) if flags else self._streams.get(stream_id)
        if stream is None:
            return
        if length:
            stream.send_window = min(stream.send_window + length, WINDOW_MAX)
            events.append(Writable(stream_id))
        if flags:
            self._end(stream, flags, events)

    def _take_ping(self, flags: int, value: int, events: list[Event]) -> None:
        if flags & SYN:
            self._pongs += 1
            if self._pongs > self.limits.pongs_max:
                raise YamuxViolation(f"{self._pongs} pings without waiting for an answer")
            self._queue(PING, ACK, 0, value)
        elif flags & ACK:
            events.append(Ponged(value))

    def _find(self, flags: int, stream_id: int, events: list[Event]) -> _Stream | None:
        """The stream a frame with flags is for, opened if it asks for that; None if there is none or it is refused."""
        stream = self._streams.get(stream_id)
        if not flags & SYN:
            if stream is not None and flags & ACK and not stream.is_acknowledged:
                stream.is_acknowledged = True
                self._unacknowledged -= 1
            return stream
        if stream is not None or not stream_id or stream_id % 2 == self._parity:
            raise YamuxViolation(f"opened stream {stream_id}, which is not free or not its own to open")
        limits = self.limits
        if self._is_going or self._inbound >= limits.streams_inbound_max or self._backlog >= limits.accept_backlog_max:
            self._refuse(stream_id)
            return None
        stream = self._streams[stream_id] = _Stream(stream_id, is_inbound=True)
        self._inbound += 1
        self._backlog += 1
        events.append(Opened(stream_id))
        return stream

    def _refuse(self, stream_id: int) -> None:
        self._queue(WINDOW_UPDATE, RST, stream_id, 0)
        self._stray_left += INITIAL_WINDOW
        self._control_bytes += HEADER_BYTES
        if self._control_bytes > self.limits.control_bytes_max:
            raise YamuxViolation("it opens streams faster than they can be refused")

    def _end(self, stream: _Stream, flags: int, events: list[Event]) -> None:
        if flags & RST:
            # What came before may hold an answer: it stays readable, and counted, until it is consumed.
            self._body = None
            self._unannounced.pop(stream.stream_id, None)
            stream.is_sent_whole = stream.is_received_whole = True
            events.append(WasReset(stream.stream_id, "the peer reset it"))
            self._forget_if_done(stream)
        elif flags & FIN and not stream.is_received_whole:
            stream.is_received_whole = True
            events.append(Finished(stream.stream_id))
            self._forget_if_done(stream)

    def _drop(self, stream: _Stream, reason: str, events: list[Event]) -> None:
        self._refuse(stream.stream_id)
        self._forget(stream)
        events.append(WasReset(stream.stream_id, reason))
