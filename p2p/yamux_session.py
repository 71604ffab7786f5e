"""What both directions of a yamux session share: its streams, what they are counted by, and what is queued."""

from p2p.yamux_output import Output, Piece
from p2p.yamux_words import ACK, GO_AWAY, INITIAL_WINDOW, SYN, WINDOW_UPDATE, YamuxLimits


class Stream:
    """One stream of a session."""

    __slots__ = (
        "consumed", "is_accepted", "is_acknowledged", "is_gone", "is_inbound", "is_received_whole", "is_sent_whole",
        "receive_window", "send_window", "stream_id", "to_announce", "unread", "window",
    )  # fmt: skip

    def __init__(self, stream_id: int, is_inbound: bool) -> None:
        self.stream_id = stream_id
        self.is_inbound = is_inbound
        self.is_accepted = not is_inbound
        self.is_acknowledged = is_inbound
        self.to_announce = ACK if is_inbound else SYN  # what the next frame must carry
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW  # what the peer may have under way when all of it has been consumed
        self.unread = 0  # bytes handed out in Data and not consumed
        self.consumed = 0  # bytes consumed and not yet given back as credit
        self.is_sent_whole = False
        self.is_received_whole = False
        self.is_gone = False  # reset, or closed both ways and consumed


class Session:
    """The streams that are not done with, and the counts that limits are held against."""

    def __init__(self, limits: YamuxLimits) -> None:
        self.limits = limits
        self.output = Output()
        self.streams: dict[int, Stream] = {}
        self.unread_bytes = 0
        self.inbound = 0  # streams the peer opened
        self.backlog = 0  # of them, those nobody here has answered on
        self.unacknowledged = 0  # streams we opened and the peer has not answered on
        self.stray_left = 0  # bytes that may be on their way to streams that ended here
        self.unannounced: dict[int, None] = {}  # streams the peer hears of with the next write
        self.control_bytes = 0  # of refusals the peer caused and has not taken
        self.pongs = 0  # not taken either
        self.is_going = False  # no more streams are opened
        self.is_over = False  # nothing received counts any more

    @property
    def is_full_of_theirs(self) -> bool:
        """Whether the peer may open no further stream now."""
        limits = self.limits
        return self.inbound >= limits.streams_inbound_max or self.backlog >= limits.accept_backlog_max

    def go_away(self, code: int) -> None:
        if not self.is_going:
            self.is_going = True
            self.output.put_control(GO_AWAY, 0, 0, code)

    def announce(self, stream: Stream) -> int:
        """The flags that the next frame of a stream must carry."""
        if not stream.to_announce:
            return 0
        self.unannounced.pop(stream.stream_id, None)
        return self.take_announcement(stream)

    def take_announcement(self, stream: Stream) -> int:
        flags, stream.to_announce = stream.to_announce, 0
        self.count_as_accepted(stream)
        return flags

    def count_as_accepted(self, stream: Stream) -> None:
        self.backlog -= not stream.is_accepted
        stream.is_accepted = True

    def take_output(self) -> list[Piece]:
        """All that is to be sent."""
        for stream_id in self.unannounced:
            flags = self.take_announcement(self.streams[stream_id])
            self.output.put_control(WINDOW_UPDATE, flags, stream_id, 0)
        self.unannounced.clear()
        self.control_bytes = self.pongs = 0
        return self.output.take()

    def forget_if_done(self, stream: Stream) -> None:
        if stream.is_sent_whole and stream.is_received_whole and not stream.unread:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        del self.streams[stream.stream_id]
        stream.is_gone = True
        self.stray_left += 0 if stream.is_received_whole else stream.receive_window
        self.unannounced.pop(stream.stream_id, None)
        self.unread_bytes -= stream.unread
        self.inbound -= stream.is_inbound
        self.backlog -= not stream.is_accepted
        self.unacknowledged -= not stream.is_acknowledged
        self.output.close_frame_of(stream.stream_id)
