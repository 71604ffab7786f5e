"""How `rolemesh testnet fault` speaks to the launcher of a running network: a unix socket in the network's directory.

One line of JSON asks, one answers, as with a node (`roles.control`, whose client is used for both). Synchronous, and
served from the launcher's own loop.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from protocol.errors import LocalError
from roles.control import LINE_BYTES_MAX, SOCKET_NAME, short_path
from testnet.fault_desk import FaultDesk
from testnet.faults import FaultPlan

ANSWER_S = 1.0  # for one client, so that none can hold the launcher up
BACKLOG = 8


@contextmanager
def open_control(directory: Path) -> Iterator[socket.socket]:
    """A listening socket that only its owner can open. Only for who holds the directory's launcher lock."""
    path = directory / SOCKET_NAME
    path.unlink(missing_ok=True)  # of a launcher that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            with short_path(directory) as short:
                sock.bind(short)
            path.chmod(0o600)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            yield sock
        finally:
            path.unlink(missing_ok=True)


def serve_one(listener: socket.socket, desk: FaultDesk) -> None:
    """Answer one client that has called."""
    with suppress(OSError):  # it has left, or is too slow for us
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(ANSWER_S)
            with connection.makefile("rb") as file:
                line = file.readline(LINE_BYTES_MAX)
            connection.sendall(json.dumps(answer(line, desk)).encode() + b"\n")


def answer(line: bytes, desk: FaultDesk) -> Mapping[str, Any]:
    """What is said to one line."""
    try:
        request = json.loads(line)
        match request:
            case {"command": "faults.add", "plan": plan, "by": str(by)}:
                return {"ids": desk.add(FaultPlan.from_document(plan), by=by), **_list(desk)}
            case {"command": "faults.heal", "which": str(which)}:
                return {"healed": desk.heal(which), **_list(desk)}
            case {"command": "faults.ls"}:
                return _list(desk)
    except (LocalError, ValueError, RecursionError) as error:
        return {"error": str(error)}
    return {"error": "no such command"}


def _list(desk: FaultDesk) -> dict[str, Any]:
    return {"faults": desk.list_faults(), "refusals": desk.refusals}
