"""HTTP connections of a gateway inside a node's own loop: Hypercorn speaks, and everything about them has a bound.

Hypercorn's own listener bounds neither the number of connections nor how long a reader may take, and shields its writes
from being cancelled: so connections are accepted here, and handed to it inside a stream that gives up.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState

from roles.gateway.counts import Counts

CONNECTIONS_MAX = 128
HEAD_S_MAX = 5.0  # for a request's first lines, and between two requests
WRITE_S_MAX = 10.0  # for one piece of an answer to be taken
WRITE_BYTES = 65_536  # in a piece
REFUSE_S = 1.0  # for whoever is one too many to take the answer
REFUSED_MAX = 32  # such connections at once; more are hung up on without a word
GRACE_S = 2.0  # for what is under way when it is to stop


_REASON = b'{"error":"as many connections as this gateway keeps are open","code":"capacity"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_REASON), _REASON)
)


class BoundedStream:
    """What Hypercorn needs of a stream. A reader that takes nothing for WRITE_S_MAX is hung up on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        for begin in range(0, len(view), WRITE_BYTES):
            with trio.move_on_after(WRITE_S_MAX) as scope:
                await self._stream.send_all(view[begin : begin + WRITE_BYTES])
            if scope.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError(f"nothing was read for {WRITE_S_MAX:g} s")

    async def receive_some(self, max_bytes: int) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Http1(H11Protocol):
    _head = b""  # of an answer, until what follows it: in one piece it wakes its reader once

    async def _send_h11_event(self, event: Any) -> None:
        try:
            data = self._head + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        self._head = data if isinstance(event, h11.Response) else b""
        if data and not self._head:
            await self.send(RawData(data=data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Never HTTP/2: Hypercorn has no limit on how long such a connection may be idle before its first request."""


class _IdleTask:
    """What Hypercorn's own does by a new task for every request, with one for the life of a connection."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._is_running = False

    async def restart(self, task_group: TaskGroup, action: Any) -> None:
        self._scope.deadline = trio.current_time() + HEAD_S_MAX
        if not self._is_running:
            self._is_running = True
            task_group.spawn(action)

    async def stop(self) -> None:
        self._scope.deadline = inf

    def end(self) -> None:
        """Nothing more is read."""
        self._scope.cancel()

    async def wait(self, terminated: EventWrapper) -> bool:
        """Until it has been idle for HEAD_S_MAX, its reading or the server ends; whether it is idle then."""
        with self._scope:
            await terminated.wait()
        return self._scope.deadline < inf


class _Connection(TCPServer):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.idle_task: Any = _IdleTask()

    async def _idle_timeout(self) -> None:
        """An answer that is under way when the server ends has its connection closed behind it by Hypercorn."""
        if await self.idle_task.wait(self.context.terminated):
            with trio.CancelScope(shield=True):
                await self._initiate_server_close()

    async def _read_data(self) -> None:
        whole = self.protocol
        whole.protocol = _Http1(
            whole.app,
            whole.config,
            whole.context,
            whole.task_group,
            whole.state,
            whole.ssl,
            whole.client,
            whole.server,
            whole.send,
        )
        await super()._read_data()
        self.idle_task.end()


Report = Callable[[Exception], None]


class GatewayServer:
    """Serves an ASGI application on one listener.

    What breaks a connection, other than its own end, is for `report`: it is a bug, and no other connection's matter.
    """

    def __init__(self, listener: trio.SocketListener, app: Any, counts: Counts, report: Report) -> None:
        self._listener = listener
        self._counts = counts
        self._report = report
        self._app = ASGIWrapper(app)
        self._context = WorkerContext(None)
        self._open: set[trio.SocketStream] = set()
        self.refused = 0  # that take their answer just now
        self._config = Config()
        self._config.accesslog = None
        self._config.loglevel = "WARNING"
        self._config.keep_alive_timeout = HEAD_S_MAX
        self._config.include_server_header = False
        host, self.port = listener.socket.getsockname()[:2]
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._open)

    async def run(self, stop: trio.Event) -> None:
        """Serve until `stop` is set; then what is under way has GRACE_S to end, and what waits is hung up on."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                serve = partial(trio.serve_listeners, self._serve, [self._listener], handler_nursery=connections)
                accepting.start_soon(serve)
                await stop.wait()
                accepting.cancel_scope.cancel()
            await self._listener.aclose()
            await self._context.terminated.set()
            connections.cancel_scope.deadline = trio.current_time() + GRACE_S
            connections.start_soon(self._hang_up)

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            await self._refuse(stream)
            return
        self._open.add(stream)
        bounded: Any = BoundedStream(stream)
        try:
            await _Connection(self._app, self._config, self._context, ConnectionState({}), bounded).run()
        except Exception as error:
            self._report(error)
        finally:
            self._open.discard(stream)

    async def _refuse(self, stream: trio.SocketStream) -> None:
        """One too many is told so, whatever it asks. The node's own work comes first, so not at length."""
        self._counts.refuse()
        if self.refused >= REFUSED_MAX:
            return
        self.refused += 1
        try:
            with trio.move_on_after(REFUSE_S), suppress(trio.BrokenResourceError):
                await stream.send_all(_FULL)
                await stream.send_eof()
                # Closed with something unread, a socket takes back what it has said.
                while await stream.receive_some(WRITE_BYTES):
                    pass
        finally:
            self.refused -= 1

    async def _hang_up(self) -> None:
        """When the grace is over: writes are shielded, and end with their socket alone."""
        try:
            while self._open:
                await trio.sleep(0.02)
        finally:
            for stream in tuple(self._open):
                stream.socket.close()


async def open_listener(host: str, port: int) -> trio.SocketListener:
    """Where a server is to listen; port 0 takes any. Raises OSError."""
    (listener,) = await trio.open_tcp_listeners(port, host=host, backlog=CONNECTIONS_MAX)
    return listener
