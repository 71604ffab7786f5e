"""mlserver beside ours: a server of the Open Inference Protocol with the same model, and a client as lean as can be.

It has an environment of its own, since it wants other versions of packages than we do; `set_up` makes it:

python -m testnet.bench.inference.peer
"""

import json
import os
import socket
import subprocess
import sys
import time
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from testnet.bench.inference.load import Ask
from testnet.bench.inference.models import ROW
from testnet.bench.inference.network import NotReady

VERSION = "1.7.1"
COMMAND = "python -m testnet.bench.inference.peer"
READY_S = 40.0
POLL_S = 0.1
END_S = 10.0
HEAD_BYTES_MAX = 16 * 1024
_HERE = Path(__file__).parent
_SOURCE = _HERE.parents[2]


def find_python() -> Path | None:
    """The Python of mlserver's environment; None when there is none."""
    python = _find_home() / "bin" / "python"
    return python if (_find_home() / "bin" / "mlserver").exists() else None


def set_up() -> int:
    """Make the environment; the exit code of pip."""
    home = _find_home()
    venv.create(home, with_pip=True, clear=True)
    packages = str(_HERE / "mlserver.txt")
    return subprocess.call([home / "bin" / "python", "-m", "pip", "install", "--no-deps", "-r", packages])


@contextmanager
def run_server(python: Path, model: Path, parallel: int) -> Iterator[int]:
    """mlserver with this model, its port on loopback. `parallel` is its number of worker processes. Raises NotReady."""
    with TemporaryDirectory(prefix="rolemesh-mlserver-") as folder:
        http, grpc, metrics = _find_ports(3)
        settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
        settings |= {"parallel_workers": parallel, "debug": False, "use_structured_logging": False}
        about = {
            "name": model.stem,
            "implementation": "testnet.bench.inference.mlserver_model.Chain",
            "parameters": {"uri": str(model)},
        }
        (Path(folder) / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (Path(folder) / "model-settings.json").write_text(json.dumps(about), encoding="utf-8")
        log = Path(folder) / "log"
        with log.open("wb") as words:
            server = subprocess.Popen(
                [python.parent / "mlserver", "start", folder],
                stdout=words,
                stderr=words,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(_SOURCE), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        try:
            _wait_until_ready(server, http, model.stem, log)
            yield http
        finally:
            server.terminate()
            try:
                server.wait(END_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@asynccontextmanager
async def open_client(port: int, model: str, connections: int) -> AsyncIterator[Ask]:
    """Requests of one row over connections that stay open: HTTP/1.1 written beforehand, answers taken by length."""
    row = [place / (ROW - 1) for place in range(ROW)]
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, ROW], "datatype": "FP32", "data": row}]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: l\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    free = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(connections)]
    opened = tuple(free)

    async def ask() -> None:
        stream = free.pop()
        await stream.send_all(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await _receive(stream)
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(rest) < length:
            rest += await _receive(stream)
        if not head.startswith(b"HTTP/1.1 200"):
            raise NotReady(f"mlserver refused a request: {rest[:200]!r}")
        free.append(stream)

    try:
        yield ask
    finally:
        for stream in opened:
            await trio.aclose_forcefully(stream)


async def _receive(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(HEAD_BYTES_MAX)
    if not data:
        raise NotReady("mlserver has closed a connection")
    return bytes(data)


def _find_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "rolemesh" / f"mlserver-{VERSION}"


def _find_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int, model: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as probe:
                probe.sendall(f"GET /v2/models/{model}/ready HTTP/1.0\r\n\r\n".encode())
                if b" 200 " in probe.recv(64):
                    return
        except OSError:
            pass  # not yet
        if server.poll() is not None or time.monotonic() > deadline:
            raise NotReady(f"mlserver does not come up: {log.read_text('utf-8', 'replace')[-500:]}")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(set_up())
