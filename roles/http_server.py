"""A small HTTP/1.1 server for a node's own pages: GET, loopback, one answer per connection, bounds on everything.

h11 parses; there are no routes to configure, no bodies to read and nothing to wait for, so this is all there is to it.
"""

import contextlib
from collections.abc import Callable

import h11
import trio

from roles.health import Page

CONNECTIONS_MAX = 32
REQUEST_S_MAX = 5.0  # to say what is wanted, and to take the answer
REQUEST_BYTES_MAX = 8_192
READ_BYTES = 4_096


Pages = Callable[[str], Page]  # for a path with its query


class HttpServer:
    """Answers GET requests on one listener with what `pages` says."""

    def __init__(self, listener: trio.SocketListener, pages: Pages) -> None:
        self._listener = listener
        self._pages = pages
        self._open = 0
        self.url = _format_url(*listener.socket.getsockname()[:2])

    async def run(self) -> None:
        """Serve until cancelled."""
        async with self._listener, trio.open_nursery() as nursery:
            await trio.serve_listeners(self._serve, [self._listener], handler_nursery=nursery)

    async def _serve(self, stream: trio.SocketStream) -> None:
        # Whoever is one too many is hung up on at once: the node's own work comes first.
        if self._open >= CONNECTIONS_MAX:
            return
        self._open += 1
        try:
            with trio.move_on_after(REQUEST_S_MAX), contextlib.suppress(trio.BrokenResourceError):
                await self._answer(stream)
        finally:
            self._open -= 1

    async def _answer(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        try:
            request = await _read_request(stream, connection)
            if request is None:
                return
            page = self._choose(request)
        except h11.RemoteProtocolError as error:
            page = Page(error.error_status_hint, "not a request this server understands\n")
        await stream.send_all(_format(connection, page))
        await stream.send_eof()

    def _choose(self, request: h11.Request) -> Page:
        if request.method != b"GET":
            # Without a body, since an answer to HEAD must have none.
            return Page(405, "")
        return self._pages(request.target.decode("ascii", "replace"))


async def open_http(host: str, port: int, pages: Pages) -> HttpServer:
    """A server that listens but does not run yet; port 0 takes any. Raises OSError."""
    (listener,) = await trio.open_tcp_listeners(port, host=host, backlog=CONNECTIONS_MAX)
    return HttpServer(listener, pages)


async def _read_request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(READ_BYTES))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None  # it has left without a word


def _format(connection: h11.Connection, page: Page) -> bytes:
    body = page.body.encode("utf-8")
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    events = (h11.Response(status_code=page.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
    return b"".join(connection.send(event) or b"" for event in events)


def _format_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
