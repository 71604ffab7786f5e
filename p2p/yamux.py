"""Yamux, many streams on one connection, as a state machine: bytes in, events out, and bytes to send.

    events = session.receive(data)       # raises YamuxViolation when the peer breaks a rule; the connection is over
    taken = session.send(stream_id, b"…")  # as much as window and output buffer have room for
    wire = session.bytes_to_send()       # every frame queued since the last call; `pieces_to_send` copies less

Nothing here waits, reads a clock or keeps received data: bytes of a stream leave in `Data` events and count as unread
until `consume` says otherwise. What a peer can make us hold or answer is bounded by `YamuxLimits`.
Source: yamux specification (hashicorp) and libp2p's notes on it ("ACK backlog").
"""

from p2p.yamux_output import Piece
from p2p.yamux_receiver import Receiver
from p2p.yamux_session import Session, Stream
from p2p.yamux_words import (
    ACK,
    FIN,
    NORMAL,
    PING,
    RST,
    STREAM_ID_END,
    SYN,
    WINDOW_UPDATE,
    Event,
    NoStream,
    YamuxLimits,
)
from protocol.errors import LocalError


class Yamux:
    """One side of a session. The side that dialled is the client and numbers its streams oddly."""

    def __init__(self, is_client: bool, limits: YamuxLimits | None = None) -> None:
        parity = 1 if is_client else 0
        self.limits = limits or YamuxLimits()
        self._session = Session(self.limits)
        self._streams = self._session.streams
        self._receiver = Receiver(self._session, parity)
        self._next_id = 2 - parity

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes off the wire, cut anywhere. Raises YamuxViolation, after which nothing more is received."""
        return self._receiver.receive(data)

    # What we do

    def open(self) -> int:
        """A new stream, usable at once. Raises NoStream."""
        session, limits = self._session, self.limits
        outbound = len(session.streams) - session.inbound
        if session.is_going or session.is_over:
            raise NoStream("the session is going away")
        if outbound >= limits.streams_outbound_max or session.unacknowledged >= limits.unacknowledged_max:
            raise NoStream(f"{outbound} streams are open, {session.unacknowledged} of them unanswered")
        if self._next_id >= STREAM_ID_END:
            raise NoStream("no stream number is left")
        stream_id = self._next_id
        self._next_id += 2
        session.streams[stream_id] = Stream(stream_id, is_inbound=False)
        session.unacknowledged += 1
        session.unannounced[stream_id] = None
        return stream_id

    def is_open(self, stream_id: int) -> bool:
        """Whether there is anything left to do on a stream: it is not reset, nor closed both ways and consumed."""
        return stream_id in self._streams

    def accept(self, stream_id: int) -> None:
        """Acknowledge a stream the peer opened. Sending or consuming does so as well, at no cost."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.to_announce == ACK:
            self._session.unannounced[stream_id] = None
            self._session.count_as_accepted(stream)

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

    def send(self, stream_id: int, data: Piece) -> int:
        """Queue bytes on a stream and return how many were taken, possibly none. The caller keeps the rest."""
        taken = min(self.room(stream_id), len(data))
        if not taken:
            return 0
        stream = self._streams[stream_id]
        stream.send_window -= taken
        self._session.output.put_data(stream_id, self._session.announce(stream), data, taken)
        return taken

    def consume(self, stream_id: int, size: int) -> None:
        """Bytes of a stream have been used. The peer gets credit once half the window has been."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # reset meanwhile
        if size > stream.unread:
            raise LocalError(f"consumed {size} bytes where {stream.unread} were unread")
        stream.unread -= size
        self._session.unread_bytes -= size
        if stream.is_received_whole:
            self._session.forget_if_done(stream)
            return
        stream.consumed += size
        if stream.consumed >= stream.window // 2:
            self._give_credit(stream, stream.consumed)
            stream.consumed = 0

    def widen(self, stream_id: int, size: int) -> None:
        """Let the peer have so many bytes more under way on a stream, for as long as it lasts."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_received_whole:
            stream.window += size
            self._give_credit(stream, size)

    def finish(self, stream_id: int) -> None:
        """Send no more on a stream; receiving goes on."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_sent_whole:
            return
        stream.is_sent_whole = True
        session = self._session
        session.output.put_control(WINDOW_UPDATE, session.announce(stream) | FIN, stream_id, 0)
        session.forget_if_done(stream)

    def reset(self, stream_id: int) -> None:
        """End a stream both ways at once, and forget what is unread of it."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        is_over = stream.is_sent_whole and stream.is_received_whole
        if not is_over and not stream.to_announce & SYN:  # else the peer has never heard of it
            self._session.output.put_control(WINDOW_UPDATE, RST, stream_id, 0)
        self._session.forget(stream)

    def ping(self, value: int) -> None:
        """Ask for a `Ponged` with this 32-bit value."""
        self._session.output.put_control(PING, SYN, 0, value)

    def go_away(self, code: int = NORMAL) -> None:
        """Tell the peer that the session ends. Streams open now may go on until the connection closes."""
        self._session.go_away(code)

    def bytes_to_send(self) -> bytes:
        """All frames queued since the last call, for one write; b"" if there is nothing to say."""
        return b"".join(self.pieces_to_send())

    def pieces_to_send(self) -> list[Piece]:
        """The same in pieces: what was sent in large ones is there as it was given."""
        return self._session.take_output()

    @property
    def out_bytes(self) -> int:
        """How much `bytes_to_send` holds, announcements of streams aside."""
        return len(self._session.output)

    @property
    def has_to_send(self) -> bool:
        return bool(len(self._session.output) or self._session.unannounced)

    def stream_ids(self) -> tuple[int, ...]:
        """Streams not yet closed both ways, in the order they were opened."""
        return tuple(self._streams)

    @property
    def is_over(self) -> bool:
        """Nothing received counts any more."""
        return self._session.is_over

    @property
    def unread_bytes(self) -> int:
        """Handed out in `Data` and not consumed, of all streams together."""
        return self._session.unread_bytes

    def _give_credit(self, stream: Stream, size: int) -> None:
        stream.receive_window += size
        session = self._session
        session.output.put_control(WINDOW_UPDATE, session.announce(stream), stream.stream_id, size)
