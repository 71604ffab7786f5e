"""A program that calls a gateway over HTTP, in a process of its own: one request at a time, each timed.

`Caller` is its near end, for a trio loop. It is told over its standard input which way to ask, a word a line.
"""

import http.client
import json
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from subprocess import PIPE
from typing import Any
from urllib.parse import urlsplit

import trio

from roles.oip_tensors import HEAD_HEADER
from testnet.bench.inference.models import ROW
from testnet.bench.inference.network import NotReady

JSON, RAW, WITH_KEY = "json", "raw", "with-key"  # numbers written out; raw tensors; written out, and paid with a key
ANSWER_BYTES_MAX = 65_536
TIMEOUT_S = 10.0


class Caller:
    """The running process. `call` raises NotReady when a request was not answered, or not in time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def call(self, way: str) -> float:
        """Seconds from a request's first byte to its answer's last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = b""
        with trio.move_on_after(TIMEOUT_S):
            await self._process.stdin.send_all(f"{way}\n".encode())
            while not said.endswith(b"\n"):
                piece = await self._process.stdout.receive_some(ANSWER_BYTES_MAX)
                if not piece:
                    break
                said += piece
        try:
            return float(said)
        except ValueError as error:
            raise NotReady(f"the gateway gave no answer: {said.decode(errors='replace')[:400]}") from error


@asynccontextmanager
async def run_caller(url: str, model: str, key: str) -> AsyncIterator[Caller]:
    """The process, until the way out."""
    words = [sys.executable, "-m", "testnet.bench.gateway.caller", url, model, key]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(_run, words)
        yield Caller(process)
        await process.stdin.aclose()


async def _run(words: list[str], task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    await trio.run_process(words, stdin=PIPE, stdout=PIPE, check=False, task_status=task_status)


def main(url: str, model: str, key: str) -> int:
    """Answer until standard input ends."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    place = f"/v2/models/{model}"
    connection.request("GET", place)
    name = json.loads(connection.getresponse().read())["inputs"][0]["name"]
    requests = {
        JSON: _write_numbers(name, {}),
        RAW: _pack(name),
        WITH_KEY: _write_numbers(name, {"Authorization": f"Bearer {key}"}),
    }
    for line in sys.stdin:
        body, headers = requests[line.strip()]
        ask = partial(_ask, connection, f"{place}/infer", body, {"X-Verify": "spot", **headers})
        try:
            told = ask()
        except ConnectionError:  # it was idle for too long, and hung up on
            connection.close()
            told = ask()
        print(told, flush=True)
    return 0


def _ask(connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> float | str:
    """The seconds it took, or what was said instead of an answer."""
    began_s = time.perf_counter()
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    said = answer.read()
    took_s = time.perf_counter() - began_s
    return took_s if answer.status == 200 else f"{answer.status} {said.decode(errors='replace')}"


def _write_numbers(name: str, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    given = {"name": name, "datatype": "FP32", "shape": [1, ROW], "data": [number / ROW for number in range(ROW)]}
    return json.dumps({"inputs": [given]}).encode(), headers


def _pack(name: str) -> tuple[bytes, dict[str, str]]:
    tensor = struct.pack(f"<{ROW}f", *(number / ROW for number in range(ROW)))
    given = {"name": name, "datatype": "FP32", "shape": [1, ROW], "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    return head + tensor, {HEAD_HEADER: str(len(head)), "Content-Type": "application/octet-stream"}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
