"""The writing half of a muxed connection: whatever was written in one turn of the scheduler leaves as one write."""

import logging

import trio

from p2p.muxed_stream import MuxedStream
from p2p.noise_records import Sealer
from p2p.wire import SocketWire
from p2p.yamux import Yamux
from protocol.errors import LocalError

logger = logging.getLogger(__name__)

STUCK_S_MAX = 10.0  # a peer whose socket takes nothing for so long is gone


class Writer:
    """Until `begin` there is nothing to write to."""

    def __init__(self, session: Yamux) -> None:
        self.wire: SocketWire | None = None
        self.quiet = trio.Event()  # set when nothing more waits to be written
        self._sealer: Sealer | None = None
        self._session = session
        self._blocked: dict[MuxedStream, None] = {}
        self._feeding: dict[MuxedStream, None] = {}
        self._woken = trio.Event()
        self._unsent = memoryview(b"")  # records the socket has not taken yet

    def begin(self, wire: SocketWire, sealer: Sealer) -> None:
        """From now on there is a socket to write to, to be closed with `close`."""
        self.wire, self._sealer = wire, sealer

    def close(self) -> None:
        self.quiet.set()
        if self.wire is not None:
            self.wire.close()

    def wake(self) -> None:
        """The session has something to send."""
        self._woken.set()

    def note_blocked(self, stream: MuxedStream) -> None:
        """A writer of this stream waits for room."""
        self._blocked[stream] = None

    def note_feeding(self, stream: MuxedStream) -> None:
        """This stream's feed has something to send."""
        self._feeding[stream] = None
        self._woken.set()

    def forget(self, stream: MuxedStream) -> None:
        self._feeding.pop(stream, None)
        self._blocked.pop(stream, None)

    def flush(self, stream: MuxedStream) -> None:
        """Ask a stream's feed, and write now: what is left over is for `run`. Raises OSError."""
        self._feeding[stream] = None
        if not self._unsent:
            self._write_now()
        if self._unsent or self._feeding:
            self._woken.set()

    async def run(self) -> str:
        """Write whenever there is something to write, until the connection cannot be written to; why that is."""
        wire = self.wire
        assert wire is not None
        try:
            while True:
                while self._unsent:
                    with trio.fail_after(STUCK_S_MAX):
                        await wire.wait_sendable()
                    self._unsent = self._unsent[wire.send_some(self._unsent) :]
                self._write_now()
                if self._unsent:
                    continue
                if self._feeding:
                    await trio.lowlevel.checkpoint()
                elif not self._session.has_to_send:
                    self.quiet.set()
                    self._woken = trio.Event()
                    await self._woken.wait()
        except trio.TooSlowError:
            return f"the peer took no data for {STUCK_S_MAX} s"
        except (OSError, trio.ClosedResourceError) as error:
            return f"the connection broke: {error}"

    def _write_now(self) -> None:
        """One write of all that is queued and fed, as far as the socket takes it. Raises OSError."""
        self._feed_all()
        if self._session.has_to_send:
            self._seal_and_send()
        if self._blocked and not self._unsent:
            blocked, self._blocked = self._blocked, {}
            for stream in blocked:
                stream.wake_writer()

    def _seal_and_send(self) -> None:
        assert self.wire is not None
        assert self._sealer is not None
        records = memoryview(self._sealer.seal(*self._session.pieces_to_send()))
        self._unsent = records[self.wire.send_some(records) :]

    def _feed_all(self) -> None:
        feeding, self._feeding = self._feeding, {}
        for stream in feeding:
            try:
                while room := self._session.room(stream.stream_id):
                    data = stream.produce(room)
                    if not data:
                        break
                    if len(data) > room:
                        raise LocalError(f"a feed produced {len(data)} bytes for room of {room}")
                    self._session.send(stream.stream_id, data)
                else:
                    self._feed_later(stream)
            except Exception as error:  # as in push: one protocol's fault is its stream's end
                stream.muxed_conn.blame(stream, error)

    def _feed_later(self, stream: MuxedStream) -> None:
        if self._session.has_credit(stream.stream_id):
            self._feeding[stream] = None
        else:
            stream.is_starved = True  # until the peer gives credit

    def say_last_words(self) -> None:
        """What is queued when a session ends, a go-away above all, if the socket takes it at once."""
        if not self._unsent and self._session.has_to_send:
            try:
                self._seal_and_send()
            except OSError as error:
                logger.debug("no last words: %r", error)
