"""How another process on this machine speaks to a running node: a unix socket in its data directory.

One line of JSON asks, one answers: `{"command": "peers.ls"}`. Who may open the socket is what the file system says: its
owner. The socket is reached through an open descriptor of the directory, since its path may have 108 bytes at most.
"""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from roles.config import EXIT_UNREACHABLE, UserError

SOCKET_NAME = "control.sock"
LINE_BYTES_MAX = 1024 * 1024
CONNECTIONS_MAX = 8  # answered at once
WAITING_MAX = 128
REQUEST_S_MAX = 5.0

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class BadRequest(Exception):
    """The node does not understand what it was asked; the text is for people."""


class NodeUnreachable(UserError):
    """No node answers in a data directory. Exit code 4."""

    def __init__(self, directory: Path, reason: str) -> None:
        hint = f"start it with `rolemesh node run --data {directory}`"
        super().__init__(f"no node answers in {directory}: {reason}", hint, EXIT_UNREACHABLE)


class RequestRefused(UserError):
    """The node answered that it cannot do that."""


async def serve_control(directory: Path, answer: Answer, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Answer requests until cancelled; `answer` may raise BadRequest. Only for who holds the directory's lock."""
    path = directory / SOCKET_NAME
    path.unlink(missing_ok=True)  # of a process that was killed
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(directory) as short:
            await sock.bind(short)
        # Before anyone can connect, which takes listen().
        path.chmod(0o600)
        sock.listen(WAITING_MAX)
        task_status.started()
        slots = trio.CapacityLimiter(CONNECTIONS_MAX)

        async def serve(stream: trio.SocketStream) -> None:
            async with slots:
                with trio.move_on_after(REQUEST_S_MAX), contextlib.suppress(trio.BrokenResourceError):
                    await _serve_one(stream, answer)

        await trio.serve_listeners(serve, [trio.SocketListener(sock)])
    finally:
        sock.close()
        path.unlink(missing_ok=True)


def ask_node(directory: Path, request: Mapping[str, Any], timeout_s: float = REQUEST_S_MAX) -> dict[str, Any]:
    """Ask the node that runs on a data directory. Raises NodeUnreachable or RequestRefused. Blocks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            # Of a blocking socket the kernel has a caller wait while too many do already; others it sends away.
            seconds = int(timeout_s)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))
            with short_path(directory) as short:
                sock.connect(short)
            sock.settimeout(timeout_s)
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline(LINE_BYTES_MAX)
            fields = json.loads(line)
        except (OSError, ValueError) as error:
            raise NodeUnreachable(directory, str(error) or type(error).__name__) from error
    if "error" in fields:
        raise RequestRefused(str(fields["error"]), "see `rolemesh peers --help` and `rolemesh ledger --help`")
    return dict(fields)


async def _serve_one(stream: trio.SocketStream, answer: Answer) -> None:
    data = b""
    while not data.endswith(b"\n") and len(data) < LINE_BYTES_MAX:
        more = await stream.receive_some(65_536)
        if not more:
            return
        data += more
    try:
        request = json.loads(data)
        said = answer(request) if isinstance(request, dict) else {"error": "a request is one JSON object"}
    except (BadRequest, ValueError, RecursionError) as error:
        said = {"error": str(error)}
    await stream.send_all(json.dumps(said).encode() + b"\n")


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A path of the socket that is short enough however deep the directory lies."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET_NAME}"
    finally:
        os.close(handle)
