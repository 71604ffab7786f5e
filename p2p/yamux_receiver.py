"""What the peer does on a yamux session: frames off the wire, checked against credit and limits, as events."""

from p2p.yamux_session import Session, Stream
from p2p.yamux_words import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    HEADER_BYTES,
    INITIAL_WINDOW,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    VIEWED_BYTES_MIN,
    WINDOW_MAX,
    WINDOW_UPDATE,
    Data,
    Event,
    Finished,
    GoneAway,
    Opened,
    Ponged,
    WasReset,
    Writable,
    YamuxViolation,
)


class Receiver:
    """Keeps no data: a header that has not arrived whole, and how much of a body is still to come."""

    def __init__(self, session: Session, parity: int) -> None:
        self._session = session
        self._parity = parity  # of the numbers of our own streams
        self._head = b""  # a header that has not arrived whole
        self._body_left = 0
        self._body: Stream | None = None  # None: a body for nobody, passed over
        self._body_flags = 0

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes off the wire, cut anywhere. Raises YamuxViolation, after which nothing more is received."""
        session = self._session
        events: list[Event] = []
        if session.is_over:
            return events
        try:
            self._parse(self._head + data if self._head else data, events)
        except YamuxViolation:
            session.is_over = True
            session.go_away(PROTOCOL_ERROR)
            raise
        return events

    def _parse(self, data: bytes, events: list[Event]) -> None:
        session = self._session
        self._head = b""
        at, end = 0, len(data)
        unpack = HEADER.unpack_from
        while at < end and not session.is_over:
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
                session.is_going = session.is_over = True
                events.append(GoneAway(length))
            else:
                raise YamuxViolation(f"frame type {kind}")

    def _take_data_header(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        session = self._session
        stream = self._find(flags, stream_id, events) if flags else session.streams.get(stream_id)
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
        session = self._session
        if not stream_id:
            raise YamuxViolation("data for the session")
        session.stray_left -= length
        if session.stray_left < 0:
            raise YamuxViolation(f"data for stream {stream_id}, which is none, and more than can be on its way")

    def _take_body(self, data: bytes | memoryview, events: list[Event]) -> None:
        session = self._session
        self._body_left -= len(data)
        stream = self._body
        if stream is None or stream.is_gone:
            return
        stream.unread += len(data)
        session.unread_bytes += len(data)
        events.append(Data(stream.stream_id, data))
        if session.unread_bytes > session.limits.unread_bytes_max:
            fullest = max(session.streams.values(), key=lambda each: each.unread)
            self._drop(fullest, f"{session.unread_bytes} bytes unread on this connection, most of them here", events)
        if not self._body_left and self._body_flags and not stream.is_gone:
            self._end(stream, self._body_flags, events)

    def _take_window_update(self, flags: int, stream_id: int, length: int, events: list[Event]) -> None:
        session = self._session
        if not stream_id:
            raise YamuxViolation("credit for the session")
        stream = self._find(flags, stream_id, events) if flags else session.streams.get(stream_id)
        if stream is None:
            return
        if length:
            stream.send_window = min(stream.send_window + length, WINDOW_MAX)
            events.append(Writable(stream_id))
        if flags:
            self._end(stream, flags, events)

    def _take_ping(self, flags: int, value: int, events: list[Event]) -> None:
        session = self._session
        if flags & SYN:
            session.pongs += 1
            if session.pongs > session.limits.pongs_max:
                raise YamuxViolation(f"{session.pongs} pings without waiting for an answer")
            session.output.put_control(PING, ACK, 0, value)
        elif flags & ACK:
            events.append(Ponged(value))

    def _find(self, flags: int, stream_id: int, events: list[Event]) -> Stream | None:
        """The stream a frame with flags is for, opened if it asks for that; None if there is none or it is refused."""
        session = self._session
        stream = session.streams.get(stream_id)
        if not flags & SYN:
            if stream is not None and flags & ACK and not stream.is_acknowledged:
                stream.is_acknowledged = True
                session.unacknowledged -= 1
            return stream
        if stream is not None or not stream_id or stream_id % 2 == self._parity:
            raise YamuxViolation(f"opened stream {stream_id}, which is not free or not its own to open")
        if session.is_going or session.is_full_of_theirs:
            self._refuse(stream_id)
            return None
        stream = session.streams[stream_id] = Stream(stream_id, is_inbound=True)
        session.inbound += 1
        session.backlog += 1
        events.append(Opened(stream_id))
        return stream

    def _refuse(self, stream_id: int) -> None:
        session = self._session
        session.output.put_control(WINDOW_UPDATE, RST, stream_id, 0)
        session.stray_left += INITIAL_WINDOW
        session.control_bytes += HEADER_BYTES
        if session.control_bytes > session.limits.control_bytes_max:
            raise YamuxViolation("it opens streams faster than they can be refused")

    def _end(self, stream: Stream, flags: int, events: list[Event]) -> None:
        session = self._session
        if flags & RST:
            # What came before may hold an answer: it stays readable, and counted, until it is consumed.
            self._body = None
            session.unannounced.pop(stream.stream_id, None)
            stream.is_sent_whole = stream.is_received_whole = True
            events.append(WasReset(stream.stream_id, "the peer reset it"))
            session.forget_if_done(stream)
        elif flags & FIN and not stream.is_received_whole:
            stream.is_received_whole = True
            events.append(Finished(stream.stream_id))
            session.forget_if_done(stream)

    def _drop(self, stream: Stream, reason: str, events: list[Event]) -> None:
        session = self._session
        self._refuse(stream.stream_id)
        session.forget(stream)
        events.append(WasReset(stream.stream_id, reason))
