"""Everything we change in py-libp2p, in one file: each class here stands in for a stock one and says why.

Written against exactly `LIBP2P_VERSION`; `tests/p2p/test_hardening.py` has one test per change that fails once the
stock code no longer needs it. Nothing here changes libp2p for others in the process, but for `harden()`.
"""

import functools
import gc
import importlib.metadata
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.noise import patterns
from libp2p.security.noise.messages import NoiseHandshakePayload
from libp2p.security.noise.pb import noise_pb2
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream

from p2p.link_faults import LinkFaults, Passage
from p2p.muxed import Muxed
from p2p.muxed_stream import MuxedStream
from p2p.peer_ids import ED25519_KEY_HEAD, ED25519_PEER_HEAD
from p2p.secured import RecordSession
from protocol.errors import LocalError, RemoteError

LIBP2P_VERSION = "0.8.1"
TIE_BREAK_S = 5.0  # two connections to one peer this close in age come from both sides dialling at once
RETIRE_S = 10.0  # the one not kept may finish what is under way on it


class NoteFault(Protocol):
    """Hears that a peer did something wrong; a violation is what no implementation does."""

    def __call__(self, peer: ID, why: str, *, is_violation: bool) -> None: ...


def harden() -> None:
    """Check the version and make the three changes that are global. LocalError on another libp2p than ours.

    Loggers of libp2p and multiaddr go to WARNING (at DEBUG they format every frame), and a Noise handshake with any
    key but Ed25519 ends before the key is looked at: checking a huge RSA key is work an attacker gets for free. What is
    imported by now is taken from the garbage collector's sight: looking through it all stops the loop for 110 ms.
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
    _freeze_imports()


@functools.cache
def _freeze_imports() -> None:
    """Once per process: what is frozen is never freed, and only modules live for ever."""
    gc.collect()
    gc.freeze()


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
        if len(key) != len(ED25519_KEY_HEAD) + 32 or not key.startswith(ED25519_KEY_HEAD):
            raise ValueError("the identity key is not an Ed25519 key")
        return cast(Ed25519Payload, super().deserialize(protobuf_bytes))


class SafeMuxers(MuxerMultistream):
    """Stock always builds its own Yamux, whatever class it was given. Ours builds `Muxed`."""

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        if not isinstance(conn, RecordSession):
            raise LocalError(f"a connection secured by {type(conn).__name__}, not by RecordNoise")
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(Muxed(conn, peer_id), conn, protocol)


class LeanStream(NetStream):
    """Stock takes a lock and passes the scheduler twice for each read and write. Ours leaves state to the muxer."""

    muxed_stream: MuxedStream

    async def read(self, n: int | None = None) -> bytes:
        try:
            return await self.muxed_stream.read(n)
        except MuxedStreamEOF as error:
            raise StreamEOF from error
        except MuxedStreamReset as error:
            raise StreamReset(str(error)) from error
        except MuxedStreamError as error:
            raise StreamError(str(error)) from error

    async def write(self, data: bytes) -> None:
        try:
            await self.muxed_stream.write(data)
        except MuxedStreamClosed as error:
            raise StreamClosed from error
        except MuxedStreamError as error:
            raise StreamReset(str(error)) from error

    async def close(self) -> None:
        await self.muxed_stream.close()
        await self.remove()

    async def reset(self) -> None:
        await self.muxed_stream.reset()
        await self.remove()

    @property
    def is_closed(self) -> bool:
        return self.muxed_stream.is_closed


class SafeConn(SwarmConn):
    """One peer's connection, with a firewall: nothing a handler raises gets past the stream it serves.

    Stock lets an exception in any stream handler end the host, and sleeps 100 ms at every disconnect.
    """

    def __init__(self, muxed: IMuxedConn, swarm: "SafeSwarm", direction: str) -> None:
        super().__init__(muxed, swarm, direction=direction)
        # Stock has the muxer hold us, which ours has no use for; only the garbage collector ends such a ring.
        cast(Muxed, muxed).on_close = cast(Muxed, muxed).remove_stream = None
        self.since = trio.current_time()
        self.initiator = swarm.self_id if direction == "outbound" else muxed.peer_id

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until it ends. Never raises but Cancelled."""
        swarm = cast(SafeSwarm, self.swarm)
        muxed = cast(Muxed, self.muxed_conn)
        muxed.on_fault = partial(swarm.on_fault, muxed.peer_id, is_violation=True)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(muxed.start)
                await muxed.event_started.wait()
                self.event_started.set()
                swarm.register(self)
                task_status.started()
                try:
                    while True:
                        nursery.start_soon(self._handle_muxed_stream, await muxed.accept_stream())
                except MuxedConnUnavailable:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.close()

    async def close(self) -> None:
        if not self.event_closed.is_set():
            self.event_closed.set()
            cast(SafeSwarm, self.swarm).unregister(self)
            await self.muxed_conn.close()

    async def _add_stream(self, muxed_stream: IMuxedStream) -> NetStream:
        stream = LeanStream(muxed_stream, self, None)
        self.streams.add(stream)
        return stream

    async def _handle_muxed_stream(self, muxed_stream: IMuxedStream) -> None:
        stream = await self._add_stream(muxed_stream)
        try:
            await self.swarm.common_stream_handler(stream)
        except IOException:
            await stream.reset()  # it broke; nobody's fault
        except Exception as error:
            is_violation = isinstance(error, RemoteError)
            cast(SafeSwarm, self.swarm).on_fault(self.muxed_conn.peer_id, repr(error), is_violation=is_violation)
            with trio.CancelScope(shield=True):
                await stream.reset()
        finally:
            self.remove_stream(stream)
            # A handler that has installed callbacks has not finished with its stream.
            if not cast(MuxedStream, muxed_stream).is_pushing:
                cast(Muxed, self.muxed_conn).abandon(cast(MuxedStream, muxed_stream))


class SafeSwarm(Swarm):
    """Connections by peer. Accepting, dialling and closing are ours; stock's have these faults:

    an inbound connection holds one of 250 slots for the life of the node, every dial waits 250 ms, a failed peer is
    refused for a minute, nothing is capped per address, and a second connection to a peer stays beside the first.
    """

    def __init__(
        self,
        *args: Any,
        tasks: trio.Nursery,
        faults: LinkFaults,
        on_up: Callable[[ID], None],
        on_down: Callable[[ID], None],
        on_fault: NoteFault,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.upgrader.muxer_multistream.__class__ = SafeMuxers
        self.on_fault = on_fault
        self._tasks = tasks
        self._faults = faults
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
        self, stream: trio.SocketStream, peer: ID | None, passage: Passage, admit: Callable[[ID], None] | None = None
    ) -> SafeConn:
        """Handshake on a fresh socket; `peer` is whom we dialled, None if inbound. Closes the socket on failure.

        `admit` is asked once the other side has proved its key, before it counts as connected; it raises SwarmException
        to refuse. Raises SwarmException whatever the other side did wrong.
        """
        tcp = self._faults.open(stream, passage)
        raw = RawConnection(tcp, peer is not None)
        try:
            secured = await self.upgrader.upgrade_security(raw, peer is not None, peer)
            remote = secured.get_remote_peer()
            if not is_ed25519_peer(remote) or remote == self.self_id:
                raise SwarmException(f"{remote} is no Ed25519 peer, or ourselves")
            if admit is not None:
                admit(remote)
            self._faults.identify(tcp, passage, remote.to_bytes()[len(ED25519_PEER_HEAD) :])
            muxed = await self.upgrader.upgrade_connection(secured, remote)
            return await self.add_conn(muxed, "inbound" if peer is None else "outbound")
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await tcp.abandon()
            if isinstance(error, Exception) and not isinstance(error, SwarmException):
                raise SwarmException(f"handshake failed: {error!r}") from error
            raise

    async def notify_opened_stream(self, stream: Any) -> None:
        """Nobody here listens to streams coming and going; stock opens a nursery for each."""

    async def notify_closed_stream(self, stream: Any) -> None:
        """As above."""
