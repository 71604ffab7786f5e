"""A js-libp2p node in a process of its own, for tests. Needs Node.js and the packages `make setup` installs with it."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID

from p2p.peer_ids import to_node

JS = Path(__file__).parents[2] / "testnet/bench/js"
START_S = 20.0

needs_js = pytest.mark.skipif(
    shutil.which("node") is None or not (JS / "node_modules/@libp2p/gossipsub").is_dir(),
    reason="NO INTEROPERATION TEST WITH js-libp2p: install Node.js and npm, then run `make setup`",
)


class JsPeer:
    """A js-libp2p node in its own process, asked one thing at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.node = b""
        self.address = ""

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(START_S):
            while b"\n" not in self._rest:
                data = await self._process.stdout.receive_some()
                assert data, "the js peer has ended"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        assert "error" not in found, found
        return found

    async def ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")
        return await self.answer()


@asynccontextmanager
async def open_js_peer(policy: str = "nosign") -> AsyncIterator[JsPeer]:
    """Listening on 127.0.0.1; `policy` is "sign" or "nosign"."""
    command = ["node", str(JS / "peer.mjs"), "127.0.0.1", policy]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        js = JsPeer(process)
        hello = await js.answer()
        js.node, js.address = to_node(ID.from_base58(hello["peer"])), hello["addresses"][0]
        yield js
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
