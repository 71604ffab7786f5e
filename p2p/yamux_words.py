"""The words of yamux: what frames say, what a session reports, and what one connection may cost."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from protocol.errors import RemoteError

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = range(3)  # why a session went away

INITIAL_WINDOW = 256 * 1024
WINDOW_MAX = 2**32 - 1  # no peer can give more credit than a length field says
FRAME_BYTES_MAX = 64 * 1024 - 12  # other implementations refuse frames beyond 64 KiB
HEADER = struct.Struct("!BBHII")
HEADER_BYTES = HEADER.size
VIEWED_BYTES_MIN = 4 * 1024  # so much of a frame is handed on as it came, uncopied
STREAM_ID_END = 2**32


@dataclass(frozen=True)
class YamuxLimits:
    """What one connection may cost."""

    streams_inbound_max: int = 64
    streams_outbound_max: int = 256
    unacknowledged_max: int = 256  # streams we opened and the peer has not answered on. Source: libp2p, "ACK backlog"
    accept_backlog_max: int = 64  # streams the peer opened and nobody here has answered on
    unread_bytes_max: int = 2 * 1024 * 1024  # received on all streams together, not consumed
    out_bytes_max: int = 256 * 1024  # queued; beyond it `send` takes nothing
    control_bytes_max: int = 16 * 1024  # refusals the peer caused and has not taken
    pongs_max: int = 32  # pings of the peer not yet answered


class YamuxViolation(RemoteError):
    """The peer broke a rule of yamux. The session is over; a go-away is queued."""


class NoStream(Exception):
    """No stream can be opened now: the session is going away, or a limit is reached."""


class Opened(NamedTuple):
    """The peer opened a stream. It waits to be accepted: by `send`, `consume`, `finish` or `accept`."""

    stream_id: int


class Data(NamedTuple):
    """Bytes of a stream, in order. `consume` them once they are used."""

    stream_id: int
    data: bytes | memoryview


class Writable(NamedTuple):
    """The peer gave credit for more."""

    stream_id: int


class Finished(NamedTuple):
    """The peer sends no more on this stream."""

    stream_id: int


class WasReset(NamedTuple):
    """The stream has ended both ways. If it is still open, what was unread can be consumed. `reason` is for people."""

    stream_id: int
    reason: str


class Ponged(NamedTuple):
    value: int


class GoneAway(NamedTuple):
    """The peer ends the session. code: NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR, or one of the peer's own."""

    code: int


Event = Opened | Data | Writable | Finished | WasReset | Ponged | GoneAway
