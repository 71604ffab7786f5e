"""Noise connections whose records are ours: py-libp2p shakes hands, then `p2p.noise_records` takes its keys over.

Stock's record phase makes two calls to the kernel and several copies per record. Once the handshake has ended,
`RecordNoise` hands out sessions that work on whole buffers; while a muxer is being negotiated they behave like any
secure connection, and `take_over` then gives the muxer keys, wire and whatever has arrived already.
"""

from dataclasses import dataclass
from typing import Any, cast

from libp2p.abc import IRawConnection, ISecureConn
from libp2p.io.abc import EncryptedMsgReadWriter
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession

from p2p.noise_records import BadRecord, Opener, Sealer
from p2p.wire import BufferedTCP, SocketWire
from protocol.errors import LocalError


class RecordMessages(EncryptedMsgReadWriter):
    """What a SecureSession reads and writes through: whatever plaintext has arrived, whatever has to go."""

    def __init__(self, conn: RawConnection, sealer: Sealer, opener: Opener) -> None:
        super().__init__(conn)
        self._raw = conn
        self.sealer = sealer
        self.opener = opener

    async def read_msg(self) -> bytes:
        while True:
            data = await self._raw.read(None)
            if not data:
                raise ConnectionClosedError("the peer hung up")
            try:
                if plain := b"".join(self.opener.receive(data)):
                    return plain
            except BadRecord as error:
                raise IOException(str(error)) from error

    async def write_msg(self, msg: bytes) -> None:
        await self._raw.write(bytes(self.sealer.seal(msg)))

    async def close(self) -> None:
        await self._raw.close()

    def encrypt(self, data: bytes) -> bytes:
        return bytes(self.sealer.seal(data))

    def decrypt(self, data: bytes) -> bytes:
        return b"".join(self.opener.receive(data))


@dataclass(frozen=True)
class TakenOver:
    """All there is to a secured connection once a muxer owns it."""

    wire: SocketWire
    sealer: Sealer
    opener: Opener
    plain: bytes  # received, opened and not yet read
    ahead: bytes  # received and not yet opened; after `plain`


class RecordSession(SecureSession):
    """A Noise session whose handshake has ended, with our records from here on."""

    def __init__(self, session: SecureSession, raw: RawConnection) -> None:
        stock = session.conn
        if not isinstance(stock, NoiseTransportReadWriter) or stock.noise_state.noise_protocol is None:
            raise LocalError(f"a Noise session reads through {type(stock).__name__}: libp2p has changed")
        protocol = stock.noise_state.noise_protocol
        sealing = cast(Any, protocol.cipher_state_encrypt)
        opening = cast(Any, protocol.cipher_state_decrypt)
        self._messages = RecordMessages(raw, Sealer(sealing.k, sealing.n), Opener(opening.k, opening.n))
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
            conn=self._messages,
        )
        self._raw = raw
        if left := session._drain(None):
            self._fill(left)

    def take_over(self) -> TakenOver:
        """Give everything to a muxer. This session must not be read, written or closed afterwards."""
        wire, ahead = cast(BufferedTCP, self._raw.stream).detach()
        return TakenOver(wire, self._messages.sealer, self._messages.opener, self._drain(None), ahead)


class UntiedXX(PatternXX):
    """Stock leaves the objects of every handshake in rings, with their keys, until the garbage collector comes by."""

    def create_noise_state(self, prologue: bytes | None = None) -> Any:
        self._state = super().create_noise_state(prologue)
        return self._state

    async def handshake_inbound(self, conn: IRawConnection) -> ISecureConn:
        try:
            return await super().handshake_inbound(conn)
        finally:
            self._untie()

    async def handshake_outbound(self, conn: IRawConnection, remote_peer: ID | None) -> ISecureConn:
        try:
            return await super().handshake_outbound(conn, remote_peer)
        finally:
            self._untie()

    def _untie(self) -> None:
        self._state._next_fn = None
        # Both are gone after a handshake that ended well.
        for name in ("handshake_state", "symmetric_state"):
            vars(self._state.noise_protocol).pop(name, None)


class RecordNoise(Transport):
    """Stock Noise up to the end of the handshake, `RecordSession` from there."""

    def get_pattern(self) -> IPattern:
        return UntiedXX(self.local_peer, self.libp2p_privkey, self.noise_privkey, self.early_data)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return RecordSession(cast(SecureSession, await super().secure_inbound(conn)), _check_raw(conn))

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return RecordSession(cast(SecureSession, await super().secure_outbound(conn, peer_id)), _check_raw(conn))


def _check_raw(conn: IRawConnection) -> RawConnection:
    if not isinstance(conn, RawConnection) or not isinstance(conn.stream, BufferedTCP):
        raise LocalError("records need a raw connection over BufferedTCP")
    return conn
