"""Everything we change in py-libp2p, in one file: each class here stands in for a stock one and says why.

Written against exactly `LIBP2P_VERSION`; `tests/p2p/test_hardening.py` has one test per change that fails once the
stock code no longer needs it. Nothing here changes libp2p for others in the process, but for `harden()`.
"""

import importlib.metadata
import logging
import struct
from collections.abc import Callable
from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise import patterns
from libp2p.security.noise.messages import NoiseHandshakePayload
from libp2p.security.noise.pb import noise_pb2
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux

from protocol.errors import LocalError

LIBP2P_VERSION = "0.8.1"
STREAMS_INBOUND_MAX = 64  # open streams one peer may have towards us
RECEIVE_WINDOW = yamux.DEFAULT_WINDOW_SIZE  # the 256 KiB of the yamux specification; never grown
CONTROL_FRAMES_MAX = 1_024  # small frames (acknowledgements, pongs) waiting for a slow peer before we hang up
WRITE_S_MAX = 10.0  # a write the peer has not taken by then ends the connection
KEEPALIVE_S = 15.0
SILENCE_S_MAX = 45.0  # a connection that says nothing for so long, pings unanswered, is dead
TIE_BREAK_S = 5.0  # two connections to one peer this close in age come from both sides dialling at once
RETIRE_S = 10.0  # the one not kept may finish what is under way on it
GOODBYE_S = 0.2
READ_CHUNK = 65_536

_ED25519_KEY_HEAD = bytes((0x08, 0x01, 0x12, 0x20))  # libp2p PublicKey message: type Ed25519, 32 bytes follow
ED25519_PEER_HEAD = bytes((0x00, 0x24)) + _ED25519_KEY_HEAD
_FRAME = struct.Struct(yamux.YAMUX_HEADER_FORMAT)


def harden() -> None:
    """Check the version and make the two changes that are global. LocalError on another libp2p than ours.

    Loggers of libp2p and multiaddr go to WARNING (at DEBUG they format every frame), and a Noise handshake with any
    key but Ed25519 ends before the key is looked at: checking a huge RSA key is work an attacker gets for free.
    """
    found = importlib.metadata.version("libp2p")
    if found != LIBP2P_VERSION:
        raise LocalError(f"p2p/hardening.py is written for libp2p {LIBP2P_VERSION}, found {found}")
    for name in ("libp2p", "multiaddr", "noise"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    # These tell of every peer that hangs up or refuses; the node's own events do.
    for name in ("libp2p.stream_muxer", "libp2p.protocol_muxer", "libp2p.host.basic_host"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    patterns.NoiseHandshakePayload = Ed25519Payload  # type: ignore[attr-defined]


def is_ed25519_peer(peer: ID) -> bool:
    """Whether a libp2p peer id is the identity multihash of an Ed25519 key."""
    data = peer.to_bytes()
    return len(data) == len(ED25519_PEER_HEAD) + 32 and data.startswith(ED25519_PEER_HEAD)


class Ed25519Payload(NoiseHandshakePayload):
    """Stock takes any key type. Ours refuses all but Ed25519 before any of it is parsed or verified."""

    @classmethod
    def deserialize(cls, protobuf_bytes: bytes) -> "Ed25519Payload":
        message = noise_pb2.NoiseHandshakePayload.FromString(protobuf_bytes)
        key = bytes(message.identity_key)
        if len(key) != len(_ED25519_KEY_HEAD) + 32 or not key.startswith(_ED25519_KEY_HEAD):
            raise ValueError("the identity key is not an Ed25519 key")
        return cast(Ed25519Payload, super().deserialize(protobuf_bytes))


class BufferedTCP(TrioTCPStream):
    """Stock asks the kernel for the 2 bytes of a length, then for the rest: two calls per record. Ours reads ahead."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._ahead = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._ahead:
            data = bytes(await super().read(READ_CHUNK))
            if n is None or len(data) <= n:
                return data
            self._ahead += data
        size = len(self._ahead) if n is None else n
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data


class SafeYamux(yamux.Yamux):
    """Stock yamux with its engine replaced.

    Stock sends a window update for every read (40 % of the CPU of gossip), formats log lines for every frame, lets a
    peer overrun its window without end, waits 100 ms at every close, and a cancelled write leaves half a record on
    the wire. Ours: credit when half the window is used, quiet frames, overrun ends the connection, writes finish or
    end the connection, and a dead peer is noticed. Source: the yamux specification.
    """

    def __init__(self, conn: ISecureConn, peer_id: ID, is_initiator: bool | None = None) -> None:
        super().__init__(conn, peer_id, is_initiator=is_initiator)
        self._control_send, self._control_receive = trio.open_memory_channel[bytes](CONTROL_FRAMES_MAX)
        self._heard_at = trio.current_time()

    async def start(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_control)
                nursery.start_soon(self._keep_alive)
                self._established = True
                self.event_started.set()
                await self.handle_incoming()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._cleanup_on_error()

    async def handle_incoming(self) -> None:
        """Read and sort frames until the connection ends or the peer breaks a rule."""
        buffer = bytearray()
        try:
            while not self.event_shutting_down.is_set():
                buffer += await self.secured_conn.read(None)
                self._heard_at = trio.current_time()
                used = 0
                while len(buffer) - used >= _FRAME.size:
                    version, kind, flags, stream_id, length = _FRAME.unpack_from(buffer, used)
                    size = _FRAME.size + (length if kind == yamux.TYPE_DATA else 0)
                    if version != 0 or not self._allows(kind, stream_id, length):
                        return
                    if len(buffer) - used < size:
                        break
                    data = bytes(buffer[used + _FRAME.size : used + size]) if size > _FRAME.size else b""
                    self._take(kind, flags, stream_id, length, data)
                    used += size
                del buffer[:used]
        except (
            IOException,
            RawConnError,
            OSError,
            trio.ClosedResourceError,
            trio.BrokenResourceError,
            trio.WouldBlock,
        ):
            return  # the peer is gone, or does not take what it asks for
        except Exception as error:  # whatever a decryptor makes of junk: this connection's end, nobody else's
            logging.getLogger(__name__).debug("connection to %s ended: %r", self.peer_id, error)

    def _allows(self, kind: int, stream_id: int, length: int) -> bool:
        if kind == yamux.TYPE_DATA:
            stream = self.streams.get(stream_id)
            return length <= (stream.recv_window if stream is not None else RECEIVE_WINDOW)
        return kind in (yamux.TYPE_WINDOW_UPDATE, yamux.TYPE_PING, yamux.TYPE_GO_AWAY)

    def _take(self, kind: int, flags: int, stream_id: int, length: int, data: bytes) -> None:
        if kind == yamux.TYPE_PING:
            if flags & yamux.FLAG_SYN:
                self._send_control(yamux.TYPE_PING, yamux.FLAG_ACK, 0, length)
            return
        if kind == yamux.TYPE_GO_AWAY:
            self.event_shutting_down.set()
            return
        if flags & yamux.FLAG_SYN:
            self._accept(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            return  # frames still on their way to a stream we have closed
        if kind == yamux.TYPE_WINDOW_UPDATE:
            stream.send_window += length
        elif data:
            stream.recv_window -= length
            self.stream_buffers[stream_id] += data
        if flags & yamux.FLAG_FIN:
            stream.recv_closed = True
            stream.closed = stream.closed or stream.send_closed
        if flags & yamux.FLAG_RST:
            stream.closed = stream.recv_closed = stream.send_closed = stream.reset_received = True
        if data or flags & (yamux.FLAG_FIN | yamux.FLAG_RST):
            self.stream_events[stream_id].set()
        if stream.closed:
            self._finalize_stream_locked(stream, fully_closed=True)

    def _accept(self, stream_id: int) -> None:
        theirs = stream_id % 2 != self.next_stream_id % 2
        inbound = sum(1 for stream in self.streams.values() if not stream.is_initiator)
        if stream_id in self.streams or not theirs or inbound >= STREAMS_INBOUND_MAX:
            self._send_control(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_RST, stream_id, 0)
            return
        stream = yamux.YamuxStream(stream_id, self, False)
        _batch_window_updates(stream)
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = bytearray()
        self.stream_events[stream_id] = trio.Event()
        try:
            self.new_stream_send_channel.send_nowait(stream)
        except trio.WouldBlock:
            del self.streams[stream_id], self.stream_buffers[stream_id], self.stream_events[stream_id]
            self._send_control(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_RST, stream_id, 0)
            return
        self._send_control(yamux.TYPE_WINDOW_UPDATE, yamux.FLAG_ACK, stream_id, 0)

    def _send_control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        # Through a task of its own: were the reader to wait for a write, two peers could wait for each other.
        self._control_send.send_nowait(_FRAME.pack(0, kind, flags, stream_id, length))

    async def _write_control(self) -> None:
        try:
            async for frame in self._control_receive:
                await self._write_frame(frame)
        except (IOException, RawConnError):
            await self._hang_up()

    async def _keep_alive(self) -> None:
        while trio.current_time() - self._heard_at < SILENCE_S_MAX:
            await trio.sleep(KEEPALIVE_S)
            try:
                self._send_control(yamux.TYPE_PING, yamux.FLAG_SYN, 0, 0)
            except trio.WouldBlock:
                break
        await self._hang_up()

    async def _hang_up(self) -> None:
        self.event_shutting_down.set()
        await self.secured_conn.close()

    async def open_stream(self) -> yamux.YamuxStream:
        stream = await super().open_stream()
        _batch_window_updates(stream)
        return stream

    async def _write_frame(self, data: bytes) -> None:
        # Shielded: half an encrypted record on the wire would end the connection for everyone on it.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_S_MAX) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            await self._hang_up()
            raise RawConnError(f"the peer took no data for {WRITE_S_MAX} s")
        await trio.lowlevel.checkpoint()

    async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        if not self.event_shutting_down.is_set():
            self.event_shutting_down.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_S):
                async with self._write_lock:
                    await self._tell_going(error_code)
        await self._cleanup_on_error()

    async def _tell_going(self, error_code: int) -> None:
        try:
            await self.secured_conn.write(_FRAME.pack(0, yamux.TYPE_GO_AWAY, 0, 0, error_code))
        except (IOException, RawConnError):
            return  # it has gone first


def _batch_window_updates(stream: yamux.YamuxStream) -> None:
    """Give credit back only when half the window is used; stock does at every read, each a record and a write."""

    async def give_credit(*, bytes_read: int = 0) -> None:
        stream._pending_recv_release += bytes_read
        credit = stream._pending_recv_release
        if credit < RECEIVE_WINDOW // 2 or stream.recv_closed:
            return
        stream._pending_recv_release = 0
        stream.recv_window += credit
        await stream.send_window_update(credit)

    stream._auto_tune_and_send_window_update = give_credit  # type: ignore[method-assign]


class SafeMuxers(MuxerMultistream):
    """Stock always builds its own Yamux, whatever class it was given. Ours builds `SafeYamux`."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(SafeYamux(conn, peer_id, is_initiator=conn.is_initiator), conn, protocol)


class SafeConn(SwarmConn):
    """One peer's connection, with a firewall: nothing a handler raises gets past the stream it serves.

    Stock lets an exception in any stream handler end the host, and sleeps 100 ms at every disconnect.
    """

    def __init__(self, muxed: IMuxedConn, swarm: "SafeSwarm", direction: str) -> None:
        super().__init__(muxed, swarm, direction=direction)
        self.since = trio.current_time()
        self.initiator = swarm.self_id if direction == "outbound" else muxed.peer_id

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until it ends. Never raises but Cancelled."""
        swarm = cast(SafeSwarm, self.swarm)
        muxed = cast(SafeYamux, self.muxed_conn)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxed.start)
                await muxed.event_started.wait()
                self.event_started.set()
                swarm.register(self)
                task_status.started()
                async for stream in muxed.new_stream_receive_channel:
                    nursery.start_soon(self._handle_muxed_stream, stream)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        if not self.event_closed.is_set():
            self.event_closed.set()
            cast(SafeSwarm, self.swarm).unregister(self)
            await self.muxed_conn.close()

    async def _handle_muxed_stream(self, muxed_stream: IMuxedStream) -> None:
        stream = await self._add_stream(muxed_stream)
        try:
            await self.swarm.common_stream_handler(stream)
        except IOException:
            await stream.reset()  # it broke; nobody's fault
        except Exception as error:
            cast(SafeSwarm, self.swarm).on_fault(self.muxed_conn.peer_id, repr(error))
            with trio.CancelScope(shield=True):
                await stream.reset()
        finally:
            self.remove_stream(stream)


class SafeSwarm(Swarm):
    """Connections by peer. Accepting, dialling and closing are ours; stock's have these faults:

    an inbound connection holds one of 250 slots for the life of the node, every dial waits 250 ms, a failed peer is
    refused for a minute, nothing is capped per address, and a second connection to a peer stays beside the first.
    """

    def __init__(
        self,
        *args: Any,
        tasks: trio.Nursery,
        on_up: Callable[[ID], None],
        on_down: Callable[[ID], None],
        on_fault: Callable[[ID, str], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.upgrader.muxer_multistream.__class__ = SafeMuxers
        self.on_fault = on_fault
        self._tasks = tasks
        self._on_up = on_up
        self._on_down = on_down

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SafeConn:
        conn = SafeConn(muxed_conn, self, direction)
        await self._tasks.start(conn.run)
        return conn

    def register(self, conn: SafeConn) -> None:
        """Know a running connection, and close the other if the peer has two."""
        peer = conn.muxed_conn.peer_id
        others = cast(list[SafeConn], list(self.connections.get(peer, ())))
        keep = conn
        for other in others:
            keep = self._choose(other, keep)
        # Streams are opened on the first of the list: the one both sides keep.
        ordered = [keep, *(other for other in (*others, conn) if other is not keep)]
        self.connections[peer] = cast(Any, ordered)
        for loser in ordered[1:]:
            self._tasks.start_soon(self._retire, loser)
        if not others:
            self._on_up(peer)

    async def _retire(self, conn: SafeConn) -> None:
        with trio.move_on_after(RETIRE_S):
            await conn.event_closed.wait()
        await conn.close()

    def unregister(self, conn: SafeConn) -> None:
        peer = conn.muxed_conn.peer_id
        known = self.connections.get(peer, [])
        if conn not in known:
            return
        known.remove(conn)
        if not known:
            del self.connections[peer]
            self._on_down(peer)

    def _choose(self, old: SafeConn, new: SafeConn) -> SafeConn:
        """Both sides must choose alike when both dialled at once; otherwise the newer is the living one."""
        if old.initiator == new.initiator or new.since - old.since > TIE_BREAK_S:
            return new
        return min(old, new, key=lambda conn: conn.initiator.to_bytes())

    async def dial_peer(self, peer_id: ID) -> list[Any]:
        """Streams never dial by themselves: the keeper does, and checks that the connection is there."""
        raise SwarmException(f"not connected to {peer_id}")

    async def upgrade(
        self, stream: trio.SocketStream, peer: ID | None, admit: Callable[[ID], None] | None = None
    ) -> SafeConn:
        """Handshake on a fresh socket; `peer` is whom we dialled, None if inbound. Closes the socket on failure.

        `admit` is asked once the other side has proved its key, before it counts as connected; it raises SwarmException
        to refuse. Raises SwarmException whatever the other side did wrong.
        """
        raw = RawConnection(BufferedTCP(stream), peer is not None)
        try:
            secured = await self.upgrader.upgrade_security(raw, peer is not None, peer)
            remote = secured.get_remote_peer()
            if not is_ed25519_peer(remote) or remote == self.self_id:
                raise SwarmException(f"{remote} is no Ed25519 peer, or ourselves")
            if admit is not None:
                admit(remote)
            muxed = await self.upgrader.upgrade_connection(secured, remote)
            return await self.add_conn(muxed, "inbound" if peer is None else "outbound")
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            if isinstance(error, Exception) and not isinstance(error, SwarmException):
                raise SwarmException(f"handshake failed: {error!r}") from error
            raise

    async def notify_opened_stream(self, stream: Any) -> None:
        """Nobody here listens to streams coming and going; stock opens a nursery for each."""

    async def notify_closed_stream(self, stream: Any) -> None:
        """As above."""
