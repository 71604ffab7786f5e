"""The bytes underneath a connection: a TCP socket, read ahead during the handshake, then driven without a stream.

A class with the methods of `SocketWire` may stand in for it, to delay, drop or measure what passes.
"""

import socket

import trio
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream

READ_BYTES = 256 * 1024  # asked of the kernel at once
GREETING = b"\x13/multistream/1.0.0\n"  # the first that either side of a connection says. Source: multistream-select
HANDSHAKE_BYTES_MAX = 512 * 1024  # read before a muxer takes over; a handshake has a few hundred, and one read ahead


class BufferedTCP(TrioTCPStream):
    """Stock asks the kernel for the 2 bytes of a length, then for the rest: two calls per record. Ours reads ahead."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._ahead = bytearray()
        self._left = HANDSHAKE_BYTES_MAX
        self._greeting = GREETING  # still to come

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if not self._ahead:
            data = bytes(await super().read(READ_BYTES))
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

    def detach(self) -> tuple["SocketWire", bytes]:
        """The socket, from now on the caller's to close, and what was read ahead of it."""
        ahead = bytes(self._ahead)
        self._ahead.clear()
        return SocketWire(socket.socket(fileno=self.stream.socket.detach())), ahead


class SocketWire:
    """A connected socket. One task reads, one writes; both raise OSError or ClosedResourceError when it is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    async def receive(self) -> bytes:
        """What has arrived, at most READ_BYTES; b"" at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue

    def send_some(self, data: memoryview) -> int:
        """How much of data the kernel took at once, possibly nothing."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def wait_sendable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket.fileno())

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()
