"""The bytes underneath a connection: a TCP socket, read ahead during the handshake, then driven without a stream.

What is sent can be led through a `Detour`, from any moment to any other, to be late, slow or lost: `p2p.link_faults`.
"""

import socket
import struct
from collections.abc import Callable
from typing import Protocol

import trio
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream

READ_BYTES_MAX = 256 * 1024  # asked of the kernel at once,
READ_BYTES_MIN = 4 * 1024  # as much as came lately: whole buffers for a few bytes each leave the heap full of holes
GREETING = b"\x13/multistream/1.0.0\n"  # the first that either side of a connection says. Source: multistream-select
HANDSHAKE_BYTES_MAX = 512 * 1024  # read before a muxer takes over; a handshake has a few hundred, and one read ahead
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Detour(Protocol):
    """What stands in for the sending half of a socket. Meanings as in `SocketWire`."""

    def send_some(self, data: memoryview) -> int: ...

    async def wait_sendable(self) -> None: ...

    def close(self) -> None:
        """Close the socket once all that was taken has been sent."""


class SocketWire:
    """A connected socket. One task reads, one writes; both raise OSError or ClosedResourceError when it is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.detour: Detour | None = None
        self._socket = sock
        self._ask = READ_BYTES_MIN

    async def receive(self) -> bytes:
        """What has arrived, at most READ_BYTES_MAX; b"" at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            try:
                data = self._socket.recv(self._ask)
            except BlockingIOError:
                continue
            if len(data) == self._ask:
                self._ask = min(4 * self._ask, READ_BYTES_MAX)
            elif len(data) < self._ask // 8:
                self._ask = max(self._ask // 2, READ_BYTES_MIN)
            return data

    def send_some(self, data: memoryview) -> int:
        """How much of data was taken at once, possibly nothing."""
        return self.send_now(data) if self.detour is None else self.detour.send_some(data)

    async def wait_sendable(self) -> None:
        if self.detour is None:
            await trio.lowlevel.wait_writable(self._socket.fileno())
        else:
            await self.detour.wait_sendable()

    def close(self) -> None:
        """Send what is under way, and close."""
        if self.detour is None:
            self.close_now()
        else:
            self.detour.close()

    # Past the detour

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def send_now(self, data: memoryview) -> int:
        """How much of data the kernel took at once, possibly nothing."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket.fileno())

    def close_now(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()

    def reset(self) -> None:
        """End it for both sides at once, whatever is under way."""
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close_now()


class BufferedTCP(TrioTCPStream):
    """Stock asks the kernel for the 2 bytes of a length, then for the rest: two calls per record. Ours reads ahead."""

    def __init__(self, stream: trio.SocketStream, on_wire: Callable[[SocketWire], None] | None = None) -> None:
        """`on_wire` is told of the wire as soon as there is one."""
        super().__init__(stream)
        self._ahead = bytearray()
        self._left = HANDSHAKE_BYTES_MAX
        self._greeting = GREETING  # still to come
        self._on_wire = on_wire
        self._wire: SocketWire | None = None

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._ahead:
            data = await self._read_some()
            self._left -= len(data)
            if self._left < 0:
                raise IOException(f"a handshake of more than {HANDSHAKE_BYTES_MAX} bytes")
            if self._greeting:
                self._check_greeting(data)
            if n is None or len(data) <= n:
                return data
            self._ahead += data
        size = len(self._ahead) if n is None else n
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def _check_greeting(self, data: bytes) -> None:
        # At once: whoever speaks something else would hold a place until the time for handshakes is up.
        size = min(len(data), len(self._greeting))
        if data[:size] != self._greeting[:size]:
            raise IOException("what calls is no libp2p")
        self._greeting = self._greeting[size:]

    async def write(self, data: bytes) -> None:
        if self._wire is None:
            await super().write(data)
            return
        rest = memoryview(data)
        try:
            while rest := rest[self._wire.send_some(rest) :]:
                await self._wire.wait_sendable()
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"the connection broke: {error}", transport="tcp") from error

    async def close(self) -> None:
        if self._wire is None:
            await super().close()
        else:
            self._wire.close()
            await trio.lowlevel.checkpoint()

    async def abandon(self) -> None:
        """Close at once, whatever is under way."""
        if self._wire is None:
            await trio.aclose_forcefully(self.stream)
        else:
            self._wire.close_now()
            await trio.lowlevel.checkpoint()

    def take_wire(self) -> SocketWire:
        """The socket from under the stream, for the rest of the handshake already if something is to be done to it."""
        if self._wire is None:
            self.get_remote_address()  # kept from now on: the stream cannot tell it without its socket
            self._wire = SocketWire(socket.socket(fileno=self.stream.socket.detach()))
            if self._on_wire is not None:
                self._on_wire(self._wire)
        return self._wire

    def detach(self) -> tuple[SocketWire, bytes]:
        """The socket, from now on the caller's to close, and what was read ahead of it."""
        ahead = bytes(self._ahead)
        self._ahead.clear()
        return self.take_wire(), ahead

    async def _read_some(self) -> bytes:
        if self._wire is None:
            return bytes(await super().read(READ_BYTES_MIN))
        try:
            return await self._wire.receive()
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"the connection broke: {error}", transport="tcp") from error
