"""The measuring side of the gossip benchmark: processes of each stack, and the settings they are put into."""

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

JS = Path(__file__).parents[1] / "js"
ANSWER_S = 120
MESH_S = 2.5  # two heartbeats of any stack, after which its mesh stands
# Every pair of nodes this far apart in the ring is connected: six neighbours each, 48 connections.
RING_STEPS = (1, 3, 6)
NEIGHBOURS = 2 * len(RING_STEPS)
BLOCKS = {"ours": 41, "stock": 42, "js": 43, "raw": 44}  # 127.0.x.y, so that nodes of a stack have a /24 to themselves

Answer = dict[str, Any]


def find_missing_js() -> str:
    """What to do for figures of js-libp2p; empty when they can be had."""
    if shutil.which("node") is None:
        return "install Node.js 20 or later, with npm, then run `make setup`"
    if not (JS / "node_modules" / "@libp2p" / "gossipsub").is_dir():
        return f"run `npm ci --prefix {JS}`"
    return ""


class PeerFailed(Exception):
    """A process of the benchmark could not do what it was asked."""

    def __init__(self, stack: str, why: str = "it ended early; what it wrote to standard error says why") -> None:
        super().__init__(f"a process of {stack} failed: {why}")


class Peer:
    """A process with nodes of one stack, asked one thing at a time."""

    def __init__(self, stack: str, process: trio.Process) -> None:
        self.stack = stack
        self._process = process
        self._rest = b""
        self.nodes: list[dict[str, str]] = []

    async def ask(self, do: str, **fields: Any) -> Answer:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            await self._process.stdin.send_all(json.dumps({"do": do, **fields}).encode() + b"\n")
            with trio.fail_after(ANSWER_S):
                while b"\n" not in self._rest:
                    data = await self._process.stdout.receive_some()
                    if not data:
                        raise PeerFailed(self.stack)
                    self._rest += data
        except trio.BrokenResourceError as error:
            raise PeerFailed(self.stack) from error
        line, _, self._rest = self._rest.partition(b"\n")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(self.stack, f"{do}: {answer['error']}")
        return answer

    async def connect(self, member: int, other: dict[str, str]) -> float:
        """Milliseconds it took."""
        return float((await self.ask("connect", member=member, **other))["ms"])


@asynccontextmanager
async def start(stack: str) -> AsyncIterator[Peer]:
    """A process without nodes yet."""
    js = ["node", str(JS / "bench.mjs")]
    command = js if stack == "js" else [sys.executable, "-m", "testnet.bench.gossip.process", stack]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Peer(stack, process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def ask_all(peers: Iterable[Peer], do: str, fields: Callable[[int], dict[str, Any]]) -> list[Answer]:
    """Ask all at once, each with fields of its own; their answers in order."""
    answers: dict[int, Answer] = {}

    async def ask(place: int, peer: Peer) -> None:
        answers[place] = await peer.ask(do, **fields(place))

    async with trio.open_nursery() as nursery:
        for place, peer in enumerate(peers):
            nursery.start_soon(ask, place, peer)
    return [answers[place] for place in sorted(answers)]


@dataclass(frozen=True)
class Pair:
    """Two processes with a node each, connected and on the topic."""

    sender: Peer
    receiver: Peer


@asynccontextmanager
async def open_pair(stack: str, policy: str, first: int) -> AsyncIterator[Pair]:
    """Of two nodes that know each other the one with the smaller key dials at once, so it does here."""
    async with start(stack) as one, start(stack) as other:
        await _open_nodes((one, other), 1, policy, first)
        low, high = sorted((one, other), key=lambda peer: peer.nodes[0]["name"])
        await low.connect(0, high.nodes[0])
        await ask_all((one, other), "settle", lambda place: {"peers": 1})
        yield Pair(one, other)


async def _open_nodes(peers: Sequence[Peer], members: int, policy: str, first: int) -> None:
    block = f"127.0.{BLOCKS[peers[0].stack]}"

    def address(place: int) -> dict[str, Any]:
        return {"members": members, "host": f"{block}.{first + place * members}", "policy": policy}

    for peer, answer in zip(peers, await ask_all(peers, "open", address), strict=True):
        peer.nodes = answer["nodes"]


def list_edges(count: int) -> Iterator[tuple[int, int]]:
    """Who is connected with whom among `count` nodes in a ring."""
    yield from ((node, (node + step) % count) for step in RING_STEPS for node in range(count))


@dataclass(frozen=True)
class Mesh:
    """Many nodes, each connected with NEIGHBOURS others: in one process, or in one each."""

    peers: list[Peer]
    connect_ms: list[float]


@asynccontextmanager
async def open_mesh(stack: str, members: int, processes: int, first: int) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as started:
        peers = [await started.enter_async_context(start(stack)) for _ in range(processes)]
        await _open_nodes(peers, members, "nosign", first)
        where = [(peer, member) for peer in peers for member in range(members)]
        took = []
        for edge in list_edges(len(where)):
            (peer, member), (other, far) = sorted(
                (where[place] for place in edge), key=lambda at: at[0].nodes[at[1]]["name"]
            )
            took.append(await peer.connect(member, other.nodes[far]))
        await ask_all(peers, "settle", lambda place: {"peers": NEIGHBOURS})
        await trio.sleep(MESH_S)
        yield Mesh(peers, took)
